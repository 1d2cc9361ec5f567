"""Modules for operators that upstream's exporter reaches only through a program.

Computed scalars, dynamic shapes, state, in-place writes. A program of a judged operator has judged
operators alone beside it, or its mutants would count as unknown: `x + 1` is a conversion of the 1.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional

from .kit import floats, indices, quantized


class Net(nn.Module):
    """A module made of a function."""

    def __init__(self, function: Callable, **buffers: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def net(function: Callable, **buffers: torch.Tensor) -> Callable:
    return lambda: Net(function, **buffers)


COUNT, ROWS = Dim("count", min=1, max=8), Dim("rows", min=2, max=8)
_cache = {"cache": torch.zeros(1, 8, 2, 4)}


def _update(self, x, position):
    at = position[0].item()
    torch._check(at >= 0)
    torch._check(at + x.shape[1] <= 8)
    torch.ops.llama.update_cache(x, self.cache, at)
    return torch.sigmoid(x)


def _attend(self, x, position):
    at = position[0].item()
    torch._check(at >= 0)
    torch._check(at + x.shape[1] <= 8)
    return torch.ops.llama.custom_sdpa(x, self.keys, self.values, at, None, 0.0, True)


def _narrow(self, tokens, position):
    at, count = position[0].item(), tokens.shape[1]
    torch._check(at >= 0)
    torch._check(at + count <= 8)
    return self.table.narrow(1, at, count)


def _halves(_, x):
    y = torch.sigmoid(x).view(x.shape[0] * 2, 2)
    return y * y


def _viewed(*shape):
    def run(_, x):
        y = torch.sigmoid(x).view(*shape)
        return y * y

    return run


def _first(self, x):
    return functional.embedding(x[:, 0], self.table)


_heads = {"keys": torch.zeros(1, 8, 2, 4), "values": torch.zeros(1, 8, 2, 4)}
_tokens = torch.tensor([[1, 2, 1]])
_scheme = (-128, 127)


def _embed(self, tokens):
    scale = self.scale
    ops = torch.ops.quantized_decomposed
    return ops.embedding_byte.dtype(self.weight, scale, None, *_scheme, tokens, dtype=torch.float32)


_table = {"weight": quantized(), "scale": torch.tensor([0.1, 0.2, 0.3])}
_grouped = {"weight": quantized(), "scale": floats(3, 2)}

# Module, example inputs, dynamic shapes; by the operator that the program is for.
WITH: dict[str, list[tuple]] = {
    "llama::update_cache.out": [
        (net(_update, **_cache), (floats(1, 3, 2, 4), indices(1)), ({1: COUNT}, None)),
        (net(_update, **_cache), (floats(1, 3, 2, 4), indices(1)), None),
    ],
    "llama::custom_sdpa.out": [
        (net(_attend, **_heads), (floats(1, 3, 4, 4), indices(1)), ({1: COUNT}, None)),
        (net(_attend, **_heads), (floats(1, 3, 2, 4), indices(1)), None),
    ],
    "quantized_decomposed::embedding_byte.dtype_out": [
        (net(_embed, **_table), (_tokens,), ({1: COUNT},)),
        (net(_embed, **_table), (_tokens,), None),
        (net(_embed, **_grouped), (_tokens,), ({1: COUNT},)),
    ],
    "aten::_local_scalar_dense": [
        (net(_narrow, table=floats(1, 8, 4)), (_tokens, indices(1)), ({1: COUNT}, None)),
        (net(_narrow, table=floats(1, 8, 4)), (_tokens, indices(1)), None),
    ],
    "aten::sym_size.int": [
        (net(_halves), (floats(3, 4),), ({0: ROWS},)),
        (net(_narrow, table=floats(1, 8, 4)), (_tokens, indices(1)), ({1: COUNT}, None)),
    ],
    "executorch_prim::add.Scalar": [
        (net(_narrow, table=floats(1, 8, 4)), (_tokens, indices(1)), ({1: COUNT}, None)),
        (net(_narrow, table=floats(1, 8, 2, 4)), (_tokens, indices(1)), ({1: COUNT}, None)),
    ],
    "executorch_prim::mul.Scalar": [
        (net(_halves), (floats(3, 4),), ({0: ROWS},)),
        (net(_viewed(-1)), (floats(3, 4),), ({0: ROWS},)),
    ],
    "executorch_prim::sub.Scalar": [
        (net(lambda _, x: torch.full((x.shape[0] - 1, 2), 1.5)), (floats(3, 4),), ({0: ROWS},)),
    ],
    "executorch_prim::floordiv.Scalar": [
        (net(lambda _, x: torch.full((x.shape[0] // 2, 2), 1.5)), (floats(3, 4),), ({0: ROWS},)),
    ],
    "executorch_prim::mod.Scalar": [
        (net(lambda _, x: torch.full((x.shape[0] % 2 + 1, 2), 1.5)), (floats(3, 4),), ({0: ROWS},)),
    ],
    "executorch_prim::et_view.default": [
        (net(_viewed(-1, 2, 2)), (floats(3, 4),), ({0: ROWS},)),
        (net(_viewed(-1)), (floats(3, 4),), ({0: ROWS},)),
        (net(_viewed(1, -1, 4)), (floats(3, 4),), ({0: ROWS},)),
    ],
    "executorch_prim::et_copy_index.tensor": [
        (
            net(lambda _, x: torch.ops.higher_order.map_impl(lambda row: (row + 1,), [x], [])[0]),
            (floats(3, 4),),
            None,
        ),
    ],
    "aten::slice_copy.Tensor_out": [
        (net(_narrow, table=floats(1, 8, 4)), (_tokens, indices(1)), ({1: COUNT}, None)),
        (net(lambda _, x: torch.sigmoid(x[:, 1:3])), (floats(2, 4),), None),
        (net(lambda _, x: torch.sigmoid(x[:, :, ::2])), (floats(2, 3, 4),), ({0: ROWS},)),
    ],
    "aten::select_copy.int_out": [
        (net(lambda _, x: torch.sigmoid(x[:, -1])), (floats(1, 3, 4),), ({1: COUNT},)),
        (net(lambda _, x: torch.sigmoid(x[1])), (floats(3, 4),), None),
        (net(_first, table=floats(8, 4)), (indices(1, 2, 3).view(1, 3),), ({1: COUNT},)),
    ],
    "aten::copy_": [
        (net(lambda n, x: n.c.copy_(x) * 2, c=torch.zeros(4)), (floats(4),), None),
    ],
    "aten::index_put_": [
        (
            net(lambda n, x, i: n.c.index_put_([i], x) * 2, c=torch.zeros(4, 5)),
            (floats(2, 5), indices(0, 2)),
            None,
        ),
    ],
    "aten::linear.out": [
        (lambda: nn.Linear(4, 5), (floats(3, 4),), ({0: ROWS},)),
        (lambda: nn.Linear(4, 5, bias=False), (floats(1, 3, 4),), ({1: COUNT},)),
    ],
}
