"""The comparison of schemes, started on the model of the repository."""

import contextlib
import io
import unittest

import torch

from compare import schemes
from proofmark_worker.protocol import ACTIVATIONS

TINY = str(schemes.ROOT / "model-assets/models/tiny")


class CompareTest(unittest.TestCase):
    def test_every_scheme_is_compared_with_the_unquantized_model(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(schemes.main([TINY, TINY, "--windows", "3"]), 0)
        rows = [line.split(" | ") for line in out.getvalue().splitlines()[3:]]
        losses = {row[0].removeprefix("| "): float(row[2].split()[0]) for row in rows}
        ways = [f"{bits}, {way}" for bits in ("int8", "int4") for way in ACTIVATIONS]
        self.assertEqual(list(losses), ["Q8_0", *ways])
        self.assertTrue(all(loss > 0.0 for loss in losses.values()), losses)
        for way in ACTIVATIONS:
            self.assertLess(losses[f"int8, {way}"], losses[f"int4, {way}"])

    def test_q8_0_keeps_whole_codes_of_a_block(self):
        x = torch.arange(-127.0, 129.0).clamp(max=127.0).view(2, 128)
        x[:, ::32] = 127.0
        torch.testing.assert_close(schemes.q8_0(x), x, rtol=1e-3, atol=0)
        self.assertEqual(schemes.q8_0(torch.zeros(1, 32)).abs().max(), 0)


if __name__ == "__main__":
    unittest.main()
