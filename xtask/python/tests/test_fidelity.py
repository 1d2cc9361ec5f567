"""What is recorded at the boundaries of blocks."""

from pathlib import Path

import torch

from proofmark_worker import eager, fidelity, protocol, quantize, rotation, smooth
from proofmark_worker.blocks import Blocks
from proofmark_worker.checkpoint import SafetensorsSource
from proofmark_worker.scheme import schemes

from . import plain
from .support import DECODE, PROMPT, Case, weights

TOKENS = [*PROMPT, *DECODE]


class RecordTest(Case):
    def setUp(self):
        torch.set_grad_enabled(False)
        value = self.checkpoint()
        self.raw = value["architecture"]
        self.arch = protocol.parse_architecture(self.raw)
        self.source = SafetensorsSource(Path(value["source"]["dir"]), self.arch)

    def weights(self, quantization: str, activations: str) -> dict:
        found = schemes(quantization, activations)
        if activations == "rotated" and quantization != "fp32":
            folded = rotation.Rotated(self.source, self.arch, self.directory())
        else:
            folded = smooth.fold(self.source, self.arch, found, None)
        weights, _ = quantize.quantize(
            folded,
            self.arch,
            found,
            self.directory(),
            threads=1,
            progress=lambda *_: None,
        )
        return weights

    def record(self, quantization: str, activations: str = "rotated") -> dict[str, torch.Tensor]:
        return fidelity.record(self.arch, self.weights(quantization, activations), PROMPT, DECODE)

    def test_shapes_are_those_of_the_architecture(self):
        arch, found = self.arch, self.record("int8")
        self.assertEqual(found["tokens"].tolist(), TOKENS)
        self.assertEqual(found["calls"].tolist(), [5, 3, 1, 1, 1, 1])
        query, keys = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
        widths = {"residual": arch.dim, "query": query, "key": keys, "value": keys}
        for name, width in widths.items():
            self.assertEqual(list(found[name].shape), [arch.layers, len(TOKENS), width])
            for size in ("noise", "floor"):
                shape = list(found[f"{name}_{size}"].shape)
                self.assertEqual(shape, [arch.layers, len(TOKENS)], size)
        self.assertEqual(list(found["attention"].shape), [arch.layers, len(TOKENS), query])
        self.assertEqual(found["logit_rows"].tolist(), list(range(len(TOKENS))))
        self.assertEqual(list(found["logits"].shape), [len(TOKENS), arch.vocab])
        self.assertEqual(list(found["logits_floor"].shape), [len(TOKENS)])
        self.assertEqual(list(found["floor"].shape), [2, fidelity.FLOOR_RUNS, len(TOKENS)])

    def test_without_quantization_it_is_the_plain_model_and_has_no_noise(self):
        found = self.record("fp32")
        want = plain.logits(self.raw, weights(self.raw), TOKENS)
        torch.testing.assert_close(found["logits"], want, rtol=0, atol=1e-4)
        for name in ("residual", "query", "key", "value", "logits"):
            # What is lost where a boundary is written in fp32; and rounding is the floor.
            size = found[name].norm(dim=-1)
            self.assertLess((found[f"{name}_noise"] / size).max(), 1e-7, name)
            self.assertLess((found[f"{name}_floor"] / size).max(), 1e-5, name)
        self.assertLess(found["floor"][0].max(), 1e-9)
        self.assertLess(found["floor"][1].max(), 1e-3)

    def test_quantized_blocks_follow_from_their_recorded_inputs(self):
        """Any block can be taken up again from the file, and its noise is that of int8."""
        # Two rows err far less than one: the noise that is recorded says which it was.
        cases = (
            ("int8", "two-rows", 1e-6, 5e-3),
            ("int8", "rotated", 1e-3, 0.1),
            ("int4", "rotated", 1e-3, 0.1),
            ("int8", "one-row", 1e-3, 0.1),
            ("int4", "one-row", 1e-3, 0.1),
        )
        for quantization, activations, low, high in cases:
            weights = self.weights(quantization, activations)
            found = self.record(quantization, activations)
            blocks = Blocks(self.arch, weights)
            x = found["residual"][1].double()
            angle = blocks.angles(0, len(TOKENS))
            for name, value in zip(("query", "key", "value"), blocks.qkv(1, x, angle), strict=True):
                got, want = value.reshape(len(TOKENS), -1).float(), found[name][1]
                torch.testing.assert_close(got, want, rtol=0, atol=1e-5, msg=name)
                noise = found[f"{name}_noise"][1] / want.norm(dim=-1)
                self.assertTrue(((low < noise) & (noise < high)).all(), f"{name}: {noise}")
            y = found["attention"][0].double()
            got = blocks.out(0, found["residual"][0].double(), y).float()
            torch.testing.assert_close(got, found["residual"][1], rtol=0, atol=1e-5)

    def test_the_floor_is_measured_against_the_same_model(self):
        weights, found = self.weights("int8", "one-row"), self.record("int8", "one-row")
        model = eager.Eager(self.arch, weights)
        logits = model.logits(model.rows([(model.cache(64), TOKENS)]))
        apart = (found["logits"] - logits).abs().amax()
        # Boundaries in fp32 are as good as another order of sums: no further than the floor.
        self.assertLess(apart, 3 * found["floor"][1].max() + 1e-3)

    def test_the_prompt_is_cut_and_a_single_token_is_not(self):
        self.assertEqual(fidelity.call_lengths(32, 8), [20, 12, *[1] * 8])
        self.assertEqual(fidelity.call_lengths(1, 2), [1, 1, 1])
        self.assertEqual(fidelity.call_lengths(2, 1), [1, 1, 1])
