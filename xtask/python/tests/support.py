"""Requests, checkpoints and a way to run the worker in this process."""

import contextlib
import io
import json
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import asked
from proofmark_worker import worker

ARCHITECTURE = asked.described(
    {
        "family": "llama",
        "dim": 96,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 32,
        "ffn": 160,
        "vocab": 1024,
        "tied": True,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        # So small an original length that all three regimes of the scaling occur.
        "rope_scaling": {
            "kind": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position": 64,
        },
    }
)
PROMPT = [1, 17, 400, 5, 1023, 64, 64, 3]
DECODE = [9, 250, 31, 700]


def request(directory: Path, **changes) -> dict:
    """`architecture` changes are merged, all other keys replaced."""
    arch = {**ARCHITECTURE, **changes.pop("architecture", {})}
    known = {"reference_prompt": PROMPT, "reference_decode": DECODE}
    return asked.export(directory, arch, **{**known, **changes})


SEED = 3


def weights(arch: dict, seed: int = SEED) -> dict:
    """A checkpoint as HF names it, fp32, from plain torch; shares no code with the worker."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, mean=0.0, std=0.05):
        return torch.randn(*shape, generator=generator) * std + mean

    dim, ffn = arch["dim"], arch["ffn"]
    query, keys = arch["heads"] * arch["head_dim"], arch["kv_heads"] * arch["head_dim"]
    found = {"model.embed_tokens.weight": normal(arch["vocab"], dim, std=0.5)}
    for layer in range(arch["layers"]):
        p = f"model.layers.{layer}."
        found[p + "self_attn.q_proj.weight"] = normal(query, dim, std=0.2)
        found[p + "self_attn.k_proj.weight"] = normal(keys, dim, std=0.2)
        found[p + "self_attn.v_proj.weight"] = normal(keys, dim)
        found[p + "self_attn.o_proj.weight"] = normal(dim, query)
        found[p + "mlp.gate_proj.weight"] = normal(ffn, dim)
        found[p + "mlp.up_proj.weight"] = normal(ffn, dim)
        found[p + "mlp.down_proj.weight"] = normal(dim, ffn)
        found[p + "input_layernorm.weight"] = normal(dim, mean=1.0, std=0.1)
        found[p + "post_attention_layernorm.weight"] = normal(dim, mean=1.0, std=0.1)
    found["model.norm.weight"] = normal(dim, mean=1.0, std=0.1)
    if not arch["tied"]:
        found["lm_head.weight"] = normal(arch["vocab"], dim)
    return found


def write_checkpoint(directory: Path, tensors: dict, shards: int = 1) -> None:
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    for shard in range(shards):
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, directory / f"model-{shard + 1:05}-of-{shards:05}.safetensors")


class Case(unittest.TestCase):
    """A scratch directory, and `run` for a request in it."""

    # Where the scratch directory is made; the system's temporary directory unless a test says.
    scratch_in: Path | None = None

    @classmethod
    def setUpClass(cls) -> None:
        if cls.scratch_in is not None:
            cls.scratch_in.mkdir(parents=True, exist_ok=True)
        cls.scratch = Path(tempfile.mkdtemp(prefix="worker_test_", dir=cls.scratch_in))
        cls.addClassCleanup(shutil.rmtree, cls.scratch)

    def directory(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.scratch))

    def run_request(self, value: dict) -> tuple[int, dict, str]:
        path = Path(value["response"]).with_name("request.json")
        path.write_text(json.dumps(value))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = worker.main([str(path)])
        response = json.loads(Path(value["response"]).read_text())
        self.assertEqual(code == 0, response["ok"], err.getvalue())
        return code, response, out.getvalue() + err.getvalue()

    def succeed(self, value: dict) -> dict:
        code, response, log = self.run_request(value)
        self.assertEqual(code, 0, f"{response}\n{log[-3000:]}")
        return response

    def fail_with(self, value: dict, kind: str, *parts: str, stage: str | None = None) -> dict:
        code, response, log = self.run_request(value)
        self.assertEqual(code, 1)
        self.assertEqual(response["kind"], kind, f"{response}\n{log[-3000:]}")
        for part in parts:
            self.assertIn(part, response["error"])
        self.assertNotIn("\n", response["error"])
        if stage is not None:
            self.assertEqual(response["stage"], stage)
        for output in ("pte", "reference"):
            self.assertFalse(Path(value[output]).exists(), f"{output} left behind")
        left = list(Path(value["work_dir"]).glob("*")) if Path(value["work_dir"]).exists() else []
        self.assertEqual(left, [], "work files left behind")
        return response

    def checkpoint(self, shards: int = 1, change=None, seed: int = SEED, **arch) -> dict:
        """A request for a fresh checkpoint; `change(tensors)` edits it before it is written."""
        directory = self.directory()
        value = request(directory, architecture=arch)
        tensors = weights(value["architecture"], seed)
        if change is not None:
            change(tensors)
        write_checkpoint(directory / "ckpt", tensors, shards)
        value["source"] = {"kind": "safetensors", "dir": str(directory / "ckpt")}
        return value
