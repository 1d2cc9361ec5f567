"""The arithmetic of quantization: rows of activations, rounding of weights, fused changes."""

import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from proofmark_worker import gptq, lower, model, quantize, reference, rotation, rows, smooth
from proofmark_worker.calibrate import Seen
from proofmark_worker.partition import LevelPartitioner
from proofmark_worker.protocol import parse_architecture
from proofmark_worker.scheme import BLOCK4, FP32, ROW8, TWO8, schemes
from proofmark_worker.slices import dynamic_slices
from proofmark_worker.tensors import EMBEDDING, HEAD

from . import plain
from .support import ARCHITECTURE, weights

WIDTH = 96
WIDEST = {8: (1.0,), 4: (1.0,)}


def lowered(module: nn.Module, x: torch.Tensor):
    """The module in ExecuTorch's own runtime, all of it in one delegate."""
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
    from executorch.extension.pybindings import portable_lib

    count = torch.export.Dim("count", min=1, max=8192)
    program = torch.export.export(module.eval(), (x,), dynamic_shapes=({1: count},), strict=False)
    config = EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True)
    with dynamic_slices():
        edge = to_edge_transform_and_lower(
            program, partitioner=[LevelPartitioner()], compile_config=config
        )
    calls = [n.name for n in edge.exported_program().graph.nodes if n.op == "call_function"]
    # The delegate, and its result taken out.
    assert len(calls) == 2 and calls[0] == "executorch_call_delegate", calls
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.pte"
        with path.open("wb") as file:
            lower.to_executorch(edge).write_to_file(file)
        return portable_lib._load_for_executorch(str(path))


class One(nn.Module):
    def __init__(self, weight: quantize.Weight) -> None:
        super().__init__()
        self.linear = model.Linear(weight)

    def forward(self, x):
        return model.spread(x, self.linear)[0]


def inputs() -> torch.Tensor:
    """Many sizes and signs, rows of one sign, a row of zeros, halves of steps."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4096, WIDTH, generator=generator)
    x *= torch.logspace(-6, 5, 4096).unsqueeze(1)
    x[:64] = x[:64].abs()
    x[64:128] = -x[64:128].abs()
    x[128] = 0.0
    x[129] = torch.linspace(-127.5, 127.5, WIDTH)
    x[130:1000, 7] *= 100.0
    return x


def weight(x: torch.Tensor, scheme) -> quantize.Weight:
    codes, scale = quantize.quantize_rows(x, scheme)
    if scheme.rows == 1:
        return quantize.Weight(scheme, codes, scale)
    spare = nn.functional.pad(codes, (0, 1))
    return quantize.Weight(scheme, spare, scale, codes.long().sum(-1))


class Activations(unittest.TestCase):
    def setUp(self) -> None:
        torch.set_grad_enabled(False)

    def test_one_row_is_xnnpacks_to_the_bit(self):
        """A linear of the identity gives back what XNNPACK made of its input."""
        identity = quantize.Weight(ROW8, torch.eye(WIDTH, dtype=torch.int8), torch.ones(WIDTH, 1))
        x = inputs()
        got = lowered(One(identity), x[None, :3]).forward((x[None],))[0][0]
        centred, scale = reference.quantize_activations(x)
        self.assertTrue(torch.equal(got, centred * scale))
        # It can fail: the rounded scale instead of the rounded multiplier is another number.
        other = ((x.amax(-1) - x.amin(-1)) / 255.0).reciprocal()
        self.assertGreater((other.reciprocal() != scale[:, 0]).sum(), 0)

    def test_whole_numbers_are_their_own_codes(self):
        x = torch.arange(1.0, 256.0).view(1, -1).flip(1)
        centred, scale = reference.quantize_activations(x)
        self.assertEqual(scale.item(), 1.0)
        self.assertTrue(torch.equal(centred, x))

    def test_two_rows_keep_sixteen_bits(self):
        x = torch.rand(500, WIDTH) * 254.0 - 127.0
        x[0], x[1] = 127.0, -127.0
        error = (reference.two_rows(x) - x.double()).abs().max().item()
        self.assertLess(error, 0.5 / 255 + 1e-4)
        self.assertGreater(error, 0.25 / 255)
        one, scale = reference.quantize_activations(x)
        self.assertGreater((one * scale - x).abs().max().item(), 100 * error)

    def test_two_rows_in_xnnpack_are_those_of_the_reference(self):
        generator = torch.Generator().manual_seed(6)
        x = torch.rand(300, WIDTH, generator=generator) * 254.0 - 127.0
        two = weight(torch.randn(40, WIDTH, generator=generator), TWO8)
        module = lowered(One(two), x[None, :3])
        want = reference.linear(x.double(), two)
        for count in (1, 2, 7, 300):
            with self.subTest(count=count):
                got = module.forward((x[None, :count],))[0][0].double()
                self.assertEqual(got.shape, (count, 40))
                apart = (got - want[:count]).norm() / want[:count].norm()
                self.assertLess(apart.item(), 2e-5)

    def test_a_rotated_input_in_xnnpack_is_that_of_the_reference(self):
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(300, WIDTH, generator=generator)
        x[:, 3] *= 50.0
        w = torch.randn(40, WIDTH, generator=generator)

        def lost(one: quantize.Weight) -> float:
            """By the activations alone."""
            exact = reference.linear(x.double(), one, exact=True)
            return (reference.linear(x.double(), one) - exact).norm().item()

        for matrix in (rotation.hadamard(32).float(), rotation.hartley(WIDTH).float()):
            turned = (w.view(40, -1, matrix.shape[0]) @ matrix.T).view(40, WIDTH)
            one = replace(weight(turned, ROW8), rotation=matrix)
            module, want = lowered(One(one), x[None, :3]), reference.linear(x.double(), one)
            for count in (1, 7, 300):
                with self.subTest(width=matrix.shape[0], count=count):
                    got = module.forward((x[None, :count],))[0][0].double()
                    apart = (got - want[:count]).norm(dim=-1) / want[:count].norm(dim=-1)
                    self.assertLess(apart.median().item(), 1e-6)
                    # Where a code flips, it is by one step.
                    self.assertLess(apart.max().item(), 2e-2)
            self.assertLess(lost(one), 0.5 * lost(weight(w, ROW8)))

    def test_an_input_without_a_bound_is_divided_by_its_size(self):
        x = inputs()[200:400] * 1e-3
        two = weight(torch.randn(40, WIDTH), TWO8)
        square = torch.full((1, WIDTH), rows.unit_step(WIDTH) ** 2 / WIDTH)
        unit = model.Unit(two, square, torch.tensor([rows.TINY]))
        got = lowered(unit, x[None, :3]).forward((x[None],))[0][0].double()
        exact = x.double() @ (two.data[:, :-1].double() * two.scale.double()).T
        size = reference.unit_size(x.double(), two)
        for result in (got, reference.linear(x.double() / size, two) * size):
            apart = (result - exact).norm(dim=-1) / exact.norm(dim=-1)
            self.assertLess(apart.max().item(), 2e-3)
        zero = torch.zeros(1, 2, WIDTH)
        rest = lowered(unit, x[None, :3]).forward((zero,))[0].abs().max().item()
        self.assertLess(rest, 1e-12)


class Fused(unittest.TestCase):
    """Changes that must not change the model."""

    class Source:
        def __init__(self, tensors: dict) -> None:
            self.tensors = tensors

        def rows(self, name: str, first: int, last: int) -> torch.Tensor:
            return self.tensors[name][first:last]

        def finish(self) -> None:
            """Nothing to check."""

    def fold(self, tied: bool, seen: bool):
        value = {**ARCHITECTURE, "tied": tied}
        arch, tensors = parse_architecture(value), weights(value)
        generator = torch.Generator().manual_seed(8)
        looks = {}
        for prefix in ("model.layers.0.", "model.layers.1."):
            for readers in (*smooth.READERS.values(), ("mlp.down_proj",)):
                names = [f"{prefix}{reader}.weight" for reader in readers]
                width = tensors[names[0]].shape[1]
                x = torch.randn(50, width, generator=generator) * torch.logspace(-2, 1, width)
                look = Seen(x)
                for name in names:
                    found = look.add(tensors[name])
                    look.widest = [a + b for a, b in zip(look.widest, found, strict=True)]
                looks.update(dict.fromkeys(names, look))
        folded = smooth.fold(
            self.Source(tensors), arch, schemes("int8", "two-rows"), looks if seen else None
        )
        changed = {n: folded.rows(n, 0, t.shape[0]) for n, t in tensors.items()}
        return value, tensors, changed, folded.head_step

    def test_the_changed_model_is_the_model(self):
        """In fp64, where only the fp32 rounding of the changed weights is left."""
        for tied in (True, False):
            for seen, tolerance in ((True, 1e-6), (False, 0.0)):
                with self.subTest(tied=tied, seen=seen):
                    value, before, after, step = self.fold(tied, seen)
                    want, got = (
                        plain.logits(value, {n: t.double() for n, t in it.items()}, [1, 5, 300, 7])
                        for it in (before, after)
                    )
                    apart = (got * step - want).abs().max() / want.abs().max()
                    self.assertLessEqual(apart.item(), tolerance)
                    moved = sum(not torch.equal(before[n], after[n]) for n in before)
                    self.assertGreaterEqual(moved, 8)

    def test_the_rotated_model_is_the_model(self):
        """In fp64, where the formulas are exact but for the fp32 of the program's own matrices."""
        for changes in ({}, {"tied": False}, {"ffn": 35, "dim": 96}):
            value = {**ARCHITECTURE, **changes}
            with self.subTest(**changes), tempfile.TemporaryDirectory() as folder:
                arch = parse_architecture(value)
                tensors = {n: t.double() for n, t in weights(value).items()}
                rotated = rotation.Rotated(self.Source(tensors), arch, Path(folder))
                found = {}
                for name, part in tensors.items():
                    with ThreadPoolExecutor(2) as pool:
                        rotated.prepare(name, pool)
                    found[name] = rotated.rows(name, 0, part.shape[0])
                    pieces = [rotated.rows(name, at, at + 1) for at in range(0, 7)]
                    first = found[name][:7]
                    torch.testing.assert_close(torch.cat(pieces), first, rtol=0, atol=1e-12)
                if arch.tied:
                    found[HEAD] = found[EMBEDDING]
                for name, matrix in rotated.rotations.items():
                    groups = found[name].view(found[name].shape[0], -1, matrix.shape[0])
                    found[name] = (groups @ matrix.double()).view(found[name].shape)
                tokens = [1, 5, 300, 7]
                want = plain.logits(value, tensors, tokens)
                got = plain.logits({**value, "tied": False}, found, tokens)
                apart = (got - want).abs().max() / want.abs().max()
                self.assertLess(apart.item(), 1e-6)
                self.assertEqual(len(rotated.rotations), (arch.ffn % 2 == 0) * 2 + arch.tied)

    def test_a_basis_is_orthogonal_and_spreads(self):
        for size in (7, 96, 192, 576, 2048):
            with self.subTest(size=size):
                found = rotation.Basis(size).apply(torch.eye(size, dtype=torch.float64))
                same = torch.eye(size, dtype=torch.float64)
                torch.testing.assert_close(found @ found.T, same, rtol=0, atol=1e-12)
                self.assertLess(found.abs().max().item(), 2.0 / size**0.5)

    def test_factors_are_chosen_to_lower_the_error_of_rounding(self):
        """On an input with a few large channels, the products of rounded weights come closer."""
        generator = torch.Generator().manual_seed(11)
        x = torch.randn(300, WIDTH, generator=generator)
        x[:, 5:9] *= 30.0
        w = torch.randn(64, WIDTH, generator=generator)
        look = Seen(x)
        look.widest = look.add(w)
        factor, loss = look.factor, []
        self.assertGreater(factor[6] / factor[20], 1.5)
        for s in (torch.ones(WIDTH), factor):
            codes, scale = quantize.quantize_rows(w * s, ROW8)
            loss.append(((x / s) @ (codes * scale).T - x @ w.T).norm().item())
        self.assertLess(loss[1], 0.8 * loss[0])

    def test_what_two_rows_take_stays_on_the_grid(self):
        """Whatever comes in: a norm of a row with one value alone reaches the bound."""
        value, _, after, _ = self.fold(tied=True, seen=True)
        for name, gain in after.items():
            if "norm" in name:
                reach = gain.abs().max().item() * value["dim"] ** 0.5
                self.assertLessEqual(reach, rows.REACH * (1 + 1e-6), name)
                self.assertGreater(reach, rows.REACH / 4, name)


class Rounding(unittest.TestCase):
    def correlated(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(9)
        mix = torch.randn(WIDTH, WIDTH, generator=generator) * torch.logspace(0, -2, WIDTH)
        x = torch.randn(400, WIDTH, generator=generator) @ mix
        return x, torch.randn(64, WIDTH, generator=generator)

    def test_making_up_for_errors_beats_the_nearest(self):
        x, w = self.correlated()
        spread = gptq.Spread(x, WIDTH)
        loss = {}
        for name, (codes, scale) in {
            "nearest": quantize.quantize_rows(w, BLOCK4),
            "made up": spread.quantize(w, BLOCK4),
        }.items():
            self.assertGreaterEqual(codes.min().item(), -8)
            self.assertLessEqual(codes.max().item(), 7)
            found = (codes.view(64, -1, 32) * scale.unsqueeze(-1)).view(64, WIDTH)
            loss[name] = (x @ (found - w).T).norm().item()
        self.assertLess(loss["made up"], 0.6 * loss["nearest"])

    def test_channels_that_make_up_for_each_other_are_fewer_in_a_large_model(self):
        wide = [gptq.width_max(8, count) for count in (2_000_000, 134_515_008, 1_235_814_400)]
        self.assertEqual(wide, [2048, 2048, 444])
        self.assertEqual(gptq.width_max(8, 10**12), gptq.WIDTH_MIN)
        self.assertEqual(gptq.width_max(4, 1_235_814_400), 2048)
        self.assertEqual(
            [gptq.part_width(width, 444) for width in (2048, 8192, 576)], [256, 256, 288]
        )

    def test_it_is_worth_the_effort_at_8_bits_and_in_parts_of_the_width(self):
        x, w = self.correlated()
        codes, scale = quantize.quantize_rows(w, ROW8)
        nearest = (x @ (codes * scale - w).T).norm().item()
        for width, share in ((WIDTH, 0.6), (32, 0.9)):
            codes, scale = gptq.Spread(x, width).quantize(w, ROW8)
            made_up = (x @ (codes * scale - w).T).norm().item()
            self.assertLess(made_up, share * nearest, width)

    def test_it_gives_the_codes_of_the_published_algorithm(self):
        """GPTQ as it is published: by the inverse of H, updating all later channels, in fp64."""
        x, w = self.correlated()
        x, w = x.double(), w.double()
        order = torch.argsort(x.square().sum(0), descending=True)
        products = x[:, order].T @ x[:, order]
        products /= products.diagonal().mean()
        products.diagonal().add_(gptq.DAMPING)
        upper = torch.linalg.cholesky(products.inverse(), upper=True)
        codes, scale = gptq.Spread(x.float(), WIDTH).quantize(w.float(), ROW8)
        left, scale, wanted = w[:, order], scale.double(), torch.empty_like(codes)
        for at in range(WIDTH):
            code = (left[:, at : at + 1] / scale).round().clamp(-128, 127)
            wanted[:, order[at]] = code[:, 0].to(torch.int8)
            error = (left[:, at : at + 1] - code * scale) / upper[at, at]
            left[:, at + 1 :] -= error * upper[at, at + 1 :]
        # A sum in fp32 that ends beside a half is rounded the other way now and then.
        self.assertLess((wanted != codes).double().mean().item(), 2e-3)

    def test_rows_do_not_depend_on_each_other(self):
        x, w = self.correlated()
        spread = gptq.Spread(x, WIDTH)
        whole, _ = spread.quantize(w, BLOCK4)
        halves = [spread.quantize(part, BLOCK4)[0] for part in (w[:40], w[40:])]
        self.assertTrue(torch.equal(whole, torch.cat(halves)))

    def test_a_channel_that_is_always_zero_is_rounded_to_the_nearest(self):
        x, w = self.correlated()
        x[:, 3] = 0.0
        codes, scale = gptq.Spread(x, WIDTH).quantize(w, BLOCK4)
        nearest = (w[:, 3] / scale[:, 0]).round().clamp(-8, 7)
        self.assertTrue(torch.equal(codes[:, 3].float(), nearest))

    def test_the_widest_scale_is_torchaos(self):
        from torchao.quantization import IntxUnpackedToInt8Tensor

        x = torch.randn(40, 128) * torch.logspace(-6, 3, 40).unsqueeze(1)
        x[3] = 0.0
        with mock.patch.dict(quantize.SHRINK, WIDEST):
            codes, scale = quantize.quantize_rows(x, ROW8)
            want = IntxUnpackedToInt8Tensor.from_hp(x, (1, 128), torch.int8)
            self.assertTrue(torch.equal(codes, want.qdata))
            self.assertTrue(torch.equal(scale, want.scale))
            codes, scale = quantize.quantize_rows(x, BLOCK4)
            want = IntxUnpackedToInt8Tensor.from_hp(x, (1, 32), torch.int4)
            self.assertTrue(torch.equal(scale, want.scale.bfloat16().float()))
            # The scale is rounded first, so that single values may round the other way.
            self.assertLessEqual((codes - want.qdata).abs().max(), 1)
            self.assertEqual((int(codes.min()), int(codes.max())), (-8, 7))

    def test_a_searched_scale_never_loses_to_the_widest(self):
        x = torch.randn(40, 128) * torch.logspace(-6, 3, 40).unsqueeze(1)
        x[3] = 0.0
        searched = self.errors(x, BLOCK4)
        with mock.patch.dict(quantize.SHRINK, WIDEST):
            widest = self.errors(x, BLOCK4)
        self.assertTrue((searched <= widest * (1 + 1e-6)).all())
        self.assertGreater((searched < 0.99 * widest).sum(), 20)

    def errors(self, x: torch.Tensor, scheme) -> torch.Tensor:
        codes, scale = quantize.quantize_rows(x, scheme)
        self.assertGreaterEqual(codes.min().item(), scheme.range[0])
        self.assertLessEqual(codes.max().item(), scheme.range[1])
        blocks = codes.view(40, -1, scheme.group or 128) * scale.unsqueeze(-1)
        return (blocks.view_as(x) - x).norm(dim=-1)


class Names(unittest.TestCase):
    def test_every_part_has_its_scheme(self):
        self.assertEqual(
            {scheme.name for scheme in schemes("int8", "rotated").values()},
            {"8da8w_per_channel_rotated"},
        )
        self.assertEqual(
            {part: found.name for part, found in schemes("int8", "two-rows").items()},
            {
                **dict.fromkeys(("q", "k", "v", "gate", "up", "down"), TWO8.name),
                "o": ROW8.name,
                "head": TWO8.name,
                "embedding": ROW8.name,
            },
        )
        self.assertEqual(set(schemes("fp32", "two-rows").values()), {FP32})
        for part in ("q", "k", "v", "o", "gate", "up", "down"):
            wanted = ROW8 if part in ("v", "o", "down") else BLOCK4
            self.assertEqual(schemes("int4", "one-row")[part], wanted, part)


if __name__ == "__main__":
    unittest.main()
