"""Whole exports: the file is run by the real runtime and compared with other evaluations."""

import hashlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from proofmark_worker import (
    architecture,
    checkpoint,
    protocol,
    reference,
    rope,
    stages,
    upstream,
)
from proofmark_worker.tensors import EMBEDDING, FINAL_NORM
from proofmark_worker.turns import frequencies

from . import plain
from .support import ARCHITECTURE, DECODE, PROMPT, Case, request, weights

SEQ_LEN = 64
TOKENS = PROMPT + DECODE
MATRIX = ARCHITECTURE["vocab"] * ARCHITECTURE["dim"]
# Before a rotated head that shares the matrix: the only part that an untied one has not.
BEFORE_HEAD = 4 * ARCHITECTURE["dim"] ** 2


class Runtime:
    """The exported file in ExecuTorch's own runtime."""

    def __init__(self, path: str) -> None:
        import executorch.kernels.quantized  # noqa: F401
        from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
        from executorch.extension.pybindings import portable_lib

        self.module = portable_lib._load_for_executorch(path)

    def feed(self, tokens: list[int], position: int) -> torch.Tensor:
        inputs = (torch.tensor([tokens]), torch.tensor([position]))
        return self.module.forward(inputs)[0].clone()[0]

    def call(self, name: str):
        found = self.module.run_method(name, ())
        return found[0] if len(found) == 1 else list(found)


def teacher_forced(path: str) -> torch.Tensor:
    runtime = Runtime(path)
    out = [runtime.feed(PROMPT, 0)]
    for offset, token in enumerate(DECODE):
        out.append(runtime.feed([token], len(PROMPT) + offset))
    return torch.stack(out)


class Apart(upstream.Tie):
    """What the exporter does without our patch: head and embedding lie there twice."""

    def _extract(self, original, program, segments, buffers, entries) -> None:
        original(program, segments, buffers, entries)

    def check(self, expected: int) -> None:
        del expected


def stored_logits(value: dict) -> torch.Tensor:
    """Of the reference file: after the prompt, and after each further token."""
    stored = load_file(value["reference"])
    return stored["logits"][stored["logit_rows"] >= len(PROMPT) - 1]


def rms(x: torch.Tensor) -> float:
    return x.square().mean().sqrt().item()


class Numbers(Case):
    def check(self, value: dict, tolerance: float) -> dict:
        response = self.succeed(value)
        got, stored = teacher_forced(value["pte"]), load_file(value["reference"])
        self.assertEqual(stored["tokens"].tolist(), TOKENS)
        logits = stored_logits(value)
        self.assertEqual(list(logits.shape), [len(DECODE) + 1, ARCHITECTURE["vocab"]])
        spread = rms(logits)
        self.assertLess(rms(got - logits) / spread, tolerance)
        # Not a comparison of noise with noise: other rows must be far away.
        self.assertGreater(rms(got - logits.roll(1, 0)) / spread, 0.1)
        self.check_positions(value["pte"], got)
        return response

    def check_positions(self, path: str, got: torch.Tensor) -> None:
        """Prompt in one piece, in two, token by token; and every length up to the whole window."""
        runtime = Runtime(path)
        steps = [runtime.feed([token], at) for at, token in enumerate(TOKENS)]
        torch.testing.assert_close(torch.stack(steps[len(PROMPT) - 1 :]), got, rtol=0, atol=1e-4)
        runtime = Runtime(path)
        runtime.feed(PROMPT[:3], 0)
        torch.testing.assert_close(runtime.feed(PROMPT[3:], 3), got[0], rtol=0, atol=1e-4)
        window = [(7 * at) % ARCHITECTURE["vocab"] for at in range(SEQ_LEN)]
        whole = Runtime(path).feed(window, 0)
        runtime = Runtime(path)
        runtime.feed(window[:-1], 0)
        last = runtime.feed(window[-1:], SEQ_LEN - 1)
        torch.testing.assert_close(last, whole, rtol=0, atol=1e-4)

    def census(self, response: dict, quantized: bool) -> None:
        linears = 7 * ARCHITECTURE["layers"] + 1
        self.assertEqual(response["delegates"], {"partitions": 3, "empty": 0})
        self.assertEqual(
            response["linears"],
            {"expected": linears, "delegated": linears, "quantized": linears if quantized else 0},
        )

    def test_fp32_equals_a_plain_evaluation(self):
        for tied in (True, False):
            with self.subTest(tied=tied):
                value = self.checkpoint(tied=tied)
                value["quantization"] = "fp32"
                response = self.check(value, 1e-5)
                self.census(response, quantized=False)
                arch = value["architecture"]
                want = plain.logits(arch, weights(arch), TOKENS)[len(PROMPT) - 1 :]
                torch.testing.assert_close(teacher_forced(value["pte"]), want, rtol=0, atol=1e-4)
                torch.testing.assert_close(stored_logits(value), want, rtol=0, atol=1e-4)

    def test_quantized_files_match_their_reference_and_stay_near_fp32(self):
        for quantization, loss in (("int8", 0.05), ("int4", 0.35)):
            sizes = {}
            for tied in (True, False):
                with self.subTest(quantization=quantization, tied=tied):
                    value = self.checkpoint(tied=tied)
                    value["quantization"] = quantization
                    response = self.check(value, 0.02)
                    self.census(response, quantized=True)
                    sizes[tied] = response["file_bytes"]
                    self.assertEqual(response["tied_bytes_saved"], MATRIX if tied else 0)
                    arch = value["architecture"]
                    want = plain.logits(arch, weights(arch), TOKENS)[len(PROMPT) - 1 :]
                    got = stored_logits(value)
                    self.assertLess(rms(got - want) / rms(want), loss)
                    self.assertGreater(rms(got - want) / rms(want), loss / 50)
            self.assertGreater(sizes[False] - sizes[True], 0.95 * MATRIX - BEFORE_HEAD)

    def test_inputs_in_two_rows_and_in_one_can_be_had(self):
        # `o` takes one row whatever the others take. The runtime's attention for many tokens and
        # for one differs in the last bits, and with these weights no input of `o` is so near to a
        # rounding boundary that one code becomes another.
        seed = 4
        for activations, loss in (("two-rows", 0.02), ("one-row", 0.05)):
            for tied in (True, False):
                with self.subTest(activations=activations, tied=tied):
                    value = self.checkpoint(tied=tied, seed=seed)
                    value["activations"] = activations
                    response = self.check(value, 0.02)
                    self.census(response, quantized=True)
                    # A head that takes two rows has a spare column.
                    spare = ARCHITECTURE["vocab"] * (activations == "two-rows")
                    self.assertEqual(response["tied_bytes_saved"], (MATRIX + spare) * tied)
                    arch = value["architecture"]
                    want = plain.logits(arch, weights(arch, seed), TOKENS)[len(PROMPT) - 1 :]
                    self.assertLess(rms(stored_logits(value) - want) / rms(want), loss)

    def test_tying_changes_no_bit_of_the_logits(self):
        for quantization in ("int8", "int4"):
            with self.subTest(quantization=quantization):
                value = self.checkpoint(tied=True)
                value["quantization"] = quantization
                tied = self.succeed(value)
                apart = {**value, "pte": str(Path(value["pte"]).with_name("apart.pte"))}
                with mock.patch.object(upstream, "Tie", Apart):
                    untied = self.succeed(apart)
                saved = (tied["tied_bytes_saved"], untied["tied_bytes_saved"])
                self.assertEqual(saved, (MATRIX, 0))
                self.assertGreater(untied["file_bytes"] - tied["file_bytes"], 0.95 * MATRIX)
                once, twice = teacher_forced(value["pte"]), teacher_forced(apart["pte"])
                self.assertEqual(once.view(torch.int32).tolist(), twice.view(torch.int32).tolist())
                self.assertGreater(rms(once), 0)

    def test_without_rope_scaling_and_without_a_delegate(self):
        value = self.checkpoint(rope_scaling=None, rope_theta=500000.0)
        value.update(quantization="fp32", backend="portable")
        response = self.check(value, 1e-5)
        self.assertEqual(response["delegates"]["partitions"], 0)
        arch = value["architecture"]
        want = plain.logits(arch, weights(arch), TOKENS)[len(PROMPT) - 1 :]
        torch.testing.assert_close(teacher_forced(value["pte"]), want, rtol=0, atol=1e-4)

    def test_rope_scaling_is_no_decoration(self):
        arch = dict(ARCHITECTURE)
        scaled = plain.logits(arch, weights(arch), TOKENS)
        plainer = plain.logits({**arch, "rope_scaling": None}, weights(arch), TOKENS)
        self.assertGreater(rms(scaled - plainer) / rms(scaled), 1e-3)


class File(Case):
    def test_the_response_and_the_file_say_what_was_asked_for(self):
        value = self.checkpoint()
        response = self.succeed(value)
        runtime = Runtime(value["pte"])
        for name, want in response["metadata"].items():
            got = runtime.call(name)
            self.assertEqual([got] if isinstance(want, list) else got, want, name)
        self.assertEqual(response["metadata"]["get_max_seq_len"], SEQ_LEN)
        self.assertEqual(response["metadata"]["get_eos_ids"], [2])
        self.assertEqual(
            set(response["operators"]),
            {
                "aten::_local_scalar_dense",
                "aten::select_copy.int_out",
                "aten::slice_copy.Tensor_out",
                "aten::sym_size.int",
                "executorch_prim::add.Scalar",
                "llama::custom_sdpa.out",
                "llama::update_cache.out",
                "quantized_decomposed::embedding_byte.dtype_out",
            },
        )
        self.assertEqual(response["file_bytes"], Path(value["pte"]).stat().st_size)
        self.assertEqual(response["weights"]["tensors"], 9 * 2 + 2)
        shapes = weights(value["architecture"])
        self.assertEqual(response["weights"]["parameters"], sum(t.numel() for t in shapes.values()))
        self.assertEqual(
            [stage["name"] for stage in response["stages"]],
            list(stages.STAGES),
        )
        for stage in response["stages"]:
            self.assertGreater(stage["peak_rss_bytes"], 0)
            self.assertGreater(stage["peak_anon_bytes"], 0)

    def test_source_files_are_named_by_their_digests(self):
        value = self.checkpoint(shards=3)
        response = self.succeed(value)
        paths = sorted(Path(value["source"]["dir"]).glob("*.safetensors"))
        self.assertEqual(
            response["source_files"],
            [
                {
                    "name": path.name,
                    "bytes": path.stat().st_size,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
                for path in paths
            ],
        )
        whole = self.checkpoint(shards=1)
        self.succeed(whole)
        self.assertEqual(Path(whole["pte"]).read_bytes(), Path(value["pte"]).read_bytes())


class Determinism(Case):
    def start(self, hash_seed: str, threads: int) -> dict:
        value = request(self.directory(), threads=threads)
        path = Path(value["response"]).with_name("request.json")
        path.write_text(json.dumps(value))
        run = Path(protocol.__file__).with_name("run.py")
        command = [sys.executable, "-B", str(run), str(path)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, capture_output=True, check=False, env=environment)
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        return value

    def test_bytes_depend_on_neither_hash_seed_nor_threads_nor_place(self):
        one, two = self.start("1", 1), self.start("4242", 2)
        for output in ("pte", "reference"):
            with self.subTest(output=output):
                first, second = (Path(value[output]).read_bytes() for value in (one, two))
                self.assertEqual(first, second)
                self.assertNotIn(str(self.scratch).encode(), first)
                self.assertIsNone(
                    re.search(rb"site-packages|\.py\b|/home/|/tmp/|20[2-9]\d-", first)
                )


class Parts(Case):
    def source(self, value: dict) -> checkpoint.SafetensorsSource:
        arch = protocol.parse_request(value).architecture
        return checkpoint.SafetensorsSource(Path(value["source"]["dir"]), arch)

    def test_a_second_copy_of_the_tied_matrix_is_fine(self):
        def copy(tensors):
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

        self.source(self.checkpoint(change=copy)).check_tied()

    def test_half_precision_is_widened_exactly(self):
        for dtype in (torch.bfloat16, torch.float16):
            with self.subTest(dtype=dtype):

                def narrow(tensors, dtype=dtype):
                    tensors.update({k: v.to(dtype) for k, v in tensors.items()})

                value = self.checkpoint(change=narrow)
                want = weights(value["architecture"])[EMBEDDING].to(dtype).float()
                got = self.source(value).rows(EMBEDDING, 100, 900)
                self.assertTrue(torch.equal(got, want[100:900]))

    def test_reference_file_has_metadata_and_aligned_data(self):
        path = self.directory() / "reference.safetensors"
        tensors = {"a": torch.arange(3), "b": torch.ones(2, 2)}
        reference.write_safetensors(path, tensors, {"z": "1", "a": "2"})
        with safe_open(path, "pt") as file:
            self.assertEqual(file.metadata(), {"a": "2", "z": "1"})
            self.assertEqual(file.get_tensor("a").tolist(), [0, 1, 2])
        self.assertEqual((8 + int.from_bytes(path.read_bytes()[:8], "little")) % 8, 0)

    def test_rope_frequencies_of_llama_3_2(self):
        """Against figures worked out by hand from the published formula."""
        scaling = architecture.Llama3(32.0, 1.0, 4.0, 8192)
        shape = {"head_dim": 64, "rotary_dim": 64, "rope_theta": 500000.0}
        arch = architecture.Architecture(**{**ARCHITECTURE, **shape, "rope_scaling": scaling})
        got = rope.rope_frequencies(arch, architecture.GLOBAL).tolist()
        for pair, value in enumerate(got):
            base = 500000.0 ** (-2 * pair / 64)
            turns = 8192 * base / (2 * math.pi)
            if turns > 4:
                self.assertAlmostEqual(value / base, 1.0, places=12)
            elif turns < 1:
                self.assertAlmostEqual(value / base, 1 / 32, places=12)
            else:
                share = (turns - 1) / 3
                self.assertAlmostEqual(value / base, share + (1 - share) / 32, places=12)
        named = {**ARCHITECTURE, "head_dim": 64, "rope_theta": 500000.0}
        named["rope_scaling"] = scaling.__dict__
        torch.testing.assert_close(torch.tensor(got), plain.frequencies(named))
        torch.testing.assert_close(torch.tensor(frequencies(arch)), torch.tensor(got))

    def test_random_rows_do_not_depend_on_the_chunks(self):
        arch = protocol.parse_request(request(self.directory())).architecture
        source, name = checkpoint.RandomSource(7, arch), EMBEDDING
        whole = source.rows(name, 0, 1024)
        parts = [source.rows(name, at, min(at + 77, 1024)) for at in range(0, 1024, 77)]
        self.assertTrue(torch.equal(torch.cat(parts), whole))
        self.assertAlmostEqual(whole.std().item(), 0.02, places=3)
        self.assertLess(abs(whole.mean().item()), 1e-3)
        other = checkpoint.RandomSource(8, arch).rows(name, 0, 1024)
        self.assertFalse((whole == other).any(1).all())
        self.assertAlmostEqual(source.rows(FINAL_NORM, 0, 96).mean().item(), 1, places=1)
