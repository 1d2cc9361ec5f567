"""What other families than Llama have, in the changes that must not change a model: in fp64.

That the description is read rightly, and that it means what `transformers` computes, is shown by
the oracle (`cargo xtask dev families`).
"""

import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

import asked
from proofmark_worker import families, protocol, rotation, smooth
from proofmark_worker.architecture import Architecture, parse_architecture
from proofmark_worker.blocks import Blocks
from proofmark_worker.calibrate import Seen
from proofmark_worker.fields import WorkerError
from proofmark_worker.quantize import Weight
from proofmark_worker.rope import rope_frequencies, rope_size
from proofmark_worker.scheme import FP32, schemes
from proofmark_worker.tensors import EMBEDDING, HEAD, VECTORS, demanded
from proofmark_worker.turns import frequencies

from .support import ARCHITECTURE

TOKENS = [1, 5, 30, 7, 90, 2, 2, 11]
YARN = {
    "kind": "yarn",
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": 1.25,
    "original_max_position": 64,
    "truncate": True,
}
HEADS = {"qk_norm": True, "qkv_bias": True, "attention_scale": 0.25, "head_dim": 16}
PLACES = {
    "rotary_dim": 12,
    "layers": 3,
    "layer_kinds": ["local", "unrotated", "global"],
    "local_rope_theta": 100.0,
    "rope_scaling": YARN,
}
GEMMA = {**PLACES, "qk_norm": True, "post_norms": True, "activation": "gelu-tanh"}
GEMMA |= {"embedding_scale": 8.0, "gain_offset": 1.0, "family": "gemma3"}


def described(**changes) -> Architecture:
    base = {"dim": 48, "ffn": 80, "vocab": 96, "head_dim": 16, "layers": 2}
    shape = {**ARCHITECTURE, **base, "rotary_dim": 16, **changes}
    return parse_architecture(asked.described(shape))


class Source:
    """fp64 weights, with a spread that a change would show."""

    def __init__(self, arch: Architecture) -> None:
        generator = torch.Generator().manual_seed(3)
        self.tensors = {}
        for it in demanded(arch):
            noise = torch.randn(it.shape, generator=generator, dtype=torch.float64)
            self.tensors[it.name] = 1.0 + 0.3 * noise if it.kind == "norm" else 0.4 * noise

    def prepare(self, name: str, pool: ThreadPoolExecutor) -> None:
        """All rows are here."""

    def rows(self, name: str, first: int, last: int) -> torch.Tensor:
        return self.tensors[name][first:last]

    def finish(self) -> None:
        """Nothing to check."""


def logits(arch: Architecture, source, head: str) -> torch.Tensor:
    """By the eager model; `head` is whose rows the head has."""
    weights = {}
    with ThreadPoolExecutor(2) as pool:
        for tensor in demanded(arch):
            source.prepare(tensor.name, pool)
            rows = source.rows(tensor.name, 0, tensor.shape[0])
            weights[tensor.name] = Weight(FP32, rows, None)
    weights[HEAD] = weights[head]
    for name, matrix in getattr(source, "rotations", {}).items():
        weights[name] = replace(weights[name], rotation=matrix)
    blocks = Blocks(arch, weights)
    x, angle = blocks.embed(TOKENS), blocks.angles(0, len(TOKENS))
    for layer in range(arch.layers):
        q, k, v = blocks.qkv(layer, x, angle)
        x = blocks.out(layer, x, blocks.attend(q, k, v))
    return blocks.logits(x)


def apart(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).abs().max() / want.abs().max()).item()


class Changed(unittest.TestCase):
    def setUp(self) -> None:
        torch.set_grad_enabled(False)

    def test_a_rotated_model_with_every_feature_is_the_model(self):
        for changes in (
            HEADS,
            PLACES,
            {**HEADS, **PLACES, "tied": False, "activation": "gelu-tanh"},
        ):
            with self.subTest(**changes), tempfile.TemporaryDirectory() as folder:
                arch = described(**changes)
                source, head = Source(arch), EMBEDDING if arch.tied else HEAD
                rotated = rotation.Rotated(source, arch, Path(folder))
                want = logits(arch, source, head)
                self.assertLess(apart(logits(arch, rotated, head), want), 2e-6)
                # It can fail: a bias, a gain or a kind of layer more or less is another model.
                other = replace(arch, layer_kinds=(), local_rope_theta=None)
                if arch.layer_kinds:
                    self.assertGreater(apart(logits(other, rotated, head), want), 1e-3)

    def test_a_folded_model_with_every_feature_is_the_model(self):
        generator = torch.Generator().manual_seed(8)
        for changes in (GEMMA, {**HEADS, **PLACES, "tied": False}):
            with self.subTest(**changes):
                arch = described(**changes)
                source, head, looks = Source(arch), EMBEDDING if arch.tied else HEAD, {}
                for layer in range(arch.layers):
                    for readers in (*smooth.READERS.values(), ("mlp.down_proj",)):
                        names = [f"model.layers.{layer}.{reader}.weight" for reader in readers]
                        width = source.tensors[names[0]].shape[1]
                        look = Seen(
                            torch.randn(50, width, generator=generator)
                            * torch.logspace(-2, 1, width)
                        )
                        for name in names:
                            found = look.add(source.tensors[name].float())
                            look.widest = [a + b for a, b in zip(look.widest, found, strict=True)]
                        looks.update(dict.fromkeys(names, look))
                folded = smooth.fold(source, arch, schemes("int8", "two-rows"), looks)
                got = logits(arch, folded, head) * folded.head_step
                self.assertLess(apart(got, logits(arch, source, head)), 2e-6)

    def test_a_model_with_norms_before_the_residual_has_no_rotated_form(self):
        value = asked.export(Path("/w"), {**ARCHITECTURE, "post_norms": True})
        with self.assertRaises(WorkerError) as caught:
            protocol.parse_request(value)
        self.assertIn("expected two-rows or one-row", caught.exception.error)
        for changes in ({"activations": "two-rows"}, {"quantization": "fp32"}):
            protocol.parse_request({**value, **changes})


class Described(unittest.TestCase):
    def test_graph_and_eager_model_have_the_same_frequencies(self):
        longrope = {"kind": "longrope", "short_factor": [1.0 + n for n in range(6)]}
        scalings = [
            None,
            ARCHITECTURE["rope_scaling"],
            {"kind": "linear", "factor": 3.0},
            YARN,
            {**YARN, "truncate": False, "beta_fast": 2.0},
            {**longrope, "attention_factor": 1.5},
        ]
        for scaling in scalings:
            arch = described(**{**PLACES, "rope_scaling": scaling})
            for kind in ("global", "local"):
                with self.subTest(scaling=scaling, kind=kind):
                    got = rope_frequencies(arch, kind)
                    want = torch.tensor(frequencies(arch, kind), dtype=torch.float64)
                    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
            self.assertEqual(rope_size(arch, "local"), 1.0)

    def test_a_window_shorter_than_the_text_is_refused(self):
        value = asked.export(Path("/w"), {**ARCHITECTURE, "window": 63})
        with self.assertRaises(WorkerError) as caught:
            protocol.parse_request(value)
        self.assertIn(
            "seq_len: got 64, expected at most architecture.window 63", caught.exception.error
        )
        protocol.parse_request({**value, "seq_len": 63})

    def test_weights_of_one_tensor_lie_side_by_side_in_it(self):
        arch = described(family="phi3", fused=True)
        shapes = families.stored(arch)
        self.assertEqual(shapes["model.layers.0.self_attn.qkv_proj.weight"], (128, 48))
        self.assertEqual(shapes["model.layers.0.mlp.gate_up_proj.weight"], (160, 48))
        self.assertNotIn("model.layers.0.self_attn.q_proj.weight", shapes)
        rows: dict[str, list[tuple[int, int]]] = {}
        for tensor in demanded(arch):
            place = families.places(arch)[tensor.name]
            rows.setdefault(place.name, []).append((place.first, place.first + tensor.shape[0]))
        for name, spans in rows.items():
            ends = [0, *(end for _, end in sorted(spans))]
            self.assertEqual([first for first, _ in sorted(spans)], ends[:-1], name)
            self.assertEqual(ends[-1], shapes[name][0], name)

    def test_every_norm_of_gemma_has_a_tensor_of_its_own(self):
        arch = described(**GEMMA)
        norms = {t.name for t in demanded(arch) if t.kind in VECTORS}
        placed = {families.places(arch)[name].name for name in norms}
        self.assertEqual(len(placed), len(norms))
        self.assertIn("model.layers.2.pre_feedforward_layernorm.weight", placed)


if __name__ == "__main__":
    unittest.main()
