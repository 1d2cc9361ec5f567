"""Ordinary programs, exported with upstream's own API: what the verifier must not refuse.

Small on purpose, and wide: dtypes, layouts, dynamic shapes, state, control flow, several methods,
scalars and lists as inputs and outputs, every scheme of the two quantizers, convolutions,
attention, recurrence; portable and delegated.
"""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import (
    EdgeCompileConfig,
    ExecutorchBackendConfig,
    to_edge,
    to_edge_transform_and_lower,
)
from executorch.exir.passes import MemoryPlanningPass
from executorch.exir.passes.init_mutable_pass import InitializedMutableBufferPass
from torch import nn
from torch.export import Dim, export
from torch.nn import functional as F
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
from torchao.quantization.granularity import PerAxis, PerGroup
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

Programs = Iterator[tuple[str, Callable]]


class Net(nn.Module):
    """A module made of a function."""

    def __init__(self, function: Callable, **buffers: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, *inputs):
        return self.function(self, *inputs)


class Vision(nn.Module):
    """Convolutions of every kind, a residual, squeeze and excitation, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 8, 1, bias=False)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 10)

    def forward(self, image):
        x = self.first(image)
        y = self.pointwise(F.hardswish(self.depthwise(x)))
        scale = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        x = F.max_pool2d(x + y * scale, 2)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1)).softmax(-1)


def mlp(inner: int = 32, bias: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, inner, bias=bias), nn.ReLU(), nn.Linear(inner, 32, bias=bias)
    )


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)


def write(program, path: Path) -> None:
    with path.open("wb") as file:
        program.write_to_file(file)


def lower(module, inputs, *, delegated=True, dynamic=None, settings=None):
    """One method, with or without XNNPACK."""
    if not isinstance(module, torch.fx.GraphModule):
        module.eval()
    program = export(module, inputs, dynamic_shapes=dynamic, strict=False)
    edge = to_edge_transform_and_lower(
        program,
        partitioner=[XnnpackPartitioner()] if delegated else [],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    return edge.to_executorch(settings or ExecutorchBackendConfig())


def both(name: str, module: Callable, inputs, **options) -> Programs:
    for kind, delegated in [("xnnpack", True), ("portable", False)]:
        yield f"{name}-{kind}", lambda d=delegated: lower(module(), inputs, delegated=d, **options)


def networks() -> Programs:
    rows, image, words = torch.randn(2, 64), torch.randn(1, 3, 16, 16), torch.randn(1, 6, 32)
    batch = ({0: Dim("batch", min=1, max=8)},)
    yield from both("mlp", mlp, (rows,))
    yield from both("mlp-no-bias", lambda: mlp(bias=False), (rows,))
    yield from both("mlp-half", lambda: mlp().half(), (rows.half(),))
    yield from both("mlp-any-batch", mlp, (rows,), dynamic=batch)
    yield "mlp-double", lambda: lower(mlp().double(), (rows.double(),), delegated=False)
    yield "mlp-bfloat16", lambda: lower(mlp().bfloat16(), (rows.bfloat16(),), delegated=False)
    yield from both("vision", Vision, (image,))
    yield from both("transposed", lambda: nn.ConvTranspose2d(3, 6, 3, stride=2), (image,))
    yield from both("upsample", lambda: nn.UpsamplingBilinear2d(scale_factor=2), (image,))
    yield from both("conv-1d", lambda: nn.Conv1d(6, 4, 3), (words,))
    yield from both("encoder", encoder, (words,))
    yield from both("lstm", lambda: nn.LSTM(32, 8, batch_first=True), (words,))
    yield from both("embedding", lambda: nn.Embedding(20, 8), (torch.tensor([[1, 2, 3]]),))
    yield from both("norms", lambda: nn.Sequential(nn.LayerNorm(64), nn.RMSNorm(64)), (rows,))


def layouts() -> Programs:
    rows = torch.randn(2, 64)
    unplanned = MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False)
    for name, settings in {
        "unplanned-io": ExecutorchBackendConfig(memory_planning_pass=unplanned),
        "aligned": ExecutorchBackendConfig(segment_alignment=4096, constant_tensor_alignment=64),
        "stack-traces": ExecutorchBackendConfig(emit_stacktrace=True),
        "inline-delegates": ExecutorchBackendConfig(extract_delegate_segments=False),
    }.items():
        yield from both(name, mlp, (rows,), settings=settings)


def operators() -> Programs:
    pair = (torch.rand(2, 8) + 0.1, torch.rand(2, 8) + 0.1)
    unary = [
        F.gelu,
        F.silu,
        F.elu,
        torch.tanh,
        torch.exp,
        torch.log,
        torch.sqrt,
        torch.rsqrt,
        torch.abs,
    ]
    yield from both("unary", lambda: Net(lambda _, x, y: [f(x + y) for f in unary]), pair)
    binary = [torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum]
    yield from both("binary", lambda: Net(lambda _, x, y: [f(x, y) for f in binary]), pair)

    def shapes(_, x, y):
        joined = torch.cat([x, y], 0)
        top, where = torch.topk(joined.flatten(), 3)
        return (
            joined.view(-1, 2).T.contiguous(),
            top,
            where,
            F.pad(x, (1, 1)),
            x[:, 1:5:2],
            torch.stack([x, y]),
        )

    yield from both("shapes", lambda: Net(shapes), pair)
    yield from both(
        "rank-0", lambda: Net(lambda _, x, y: x * y + x), (torch.tensor(2.0), torch.tensor(3.0))
    )
    integers = (torch.arange(4, dtype=torch.uint8), torch.arange(4, dtype=torch.int8))
    casts = Net(lambda _, a, b: (a + b.to(torch.uint8), b // 3, a.to(torch.int16)))
    yield "integers", lambda: lower(casts, integers, delegated=False)
    mask = (torch.randn(4), torch.tensor([True, False, True, False]))
    masks = Net(lambda _, x, m: (x.masked_fill(m, 0.0), m.logical_not(), m.any()))
    yield "booleans", lambda: lower(masks, mask, delegated=False)
    yield (
        "nonzero",
        lambda: lower(Net(lambda _, x: torch.nonzero(x)), (torch.randn(4),), delegated=False),
    )
    empty = Net(lambda _, x: (torch.cat([x, torch.zeros(0, 8)], 0), x[0:0]))
    yield "empty", lambda: lower(empty, pair[:1], delegated=False)
    constants = Net(lambda _, x: (x, x + 1, 7, None, True, 2.5))
    yield "constant-outputs", lambda: lower(constants, pair[:1], delegated=False)
    nested = Net(lambda _, xs, d: {"sum": xs[0] + xs[1], "twice": d["k"] * 2})
    yield (
        "nested-inputs",
        lambda: lower(nested, (list(pair), {"k": torch.randn(2)}), delegated=False),
    )
    scalars = Net(lambda _, x, n, f, b: x * n + f if b else x)
    yield "scalar-inputs", lambda: lower(scalars, (pair[0], 3, 1.5, True), delegated=False)


def state_and_control() -> Programs:
    def count(net, x):
        net.seen.add_(x)
        return net.seen * 2

    def counter() -> nn.Module:
        return Net(count, seen=torch.arange(4.0))

    yield from both("state", counter, (torch.randn(4),))
    kept = ExecutorchBackendConfig(passes=[InitializedMutableBufferPass(["seen"])])
    yield (
        "state-initialized",
        lambda: lower(counter(), (torch.randn(4),), delegated=False, settings=kept),
    )

    def cache(net, x, position):
        net.rows.index_copy_(1, position, x)
        return net.rows.sum(-1)

    inputs = (torch.randn(1, 1, 4), torch.tensor([3]))
    cached = Net(cache, rows=torch.zeros(1, 8, 4))
    yield "cache", lambda: lower(cached, inputs, delegated=False)
    branch = Net(lambda _, p, x: torch.cond(p, lambda x: x + 1, lambda x: x * 2, [x]))
    yield "branch", lambda: lower(branch, (torch.tensor(True), torch.randn(2, 4)), delegated=False)


def methods() -> Programs:
    linear = nn.Linear(8, 8).eval()
    programs = {
        "forward": export(linear, (torch.randn(1, 8),)),
        # The same weights at another shape.
        "wide": export(nn.Sequential(linear, nn.ReLU()).eval(), (torch.randn(4, 8),)),
        "plain": export(Net(lambda _, x: x.sin() + 1), (torch.randn(2, 3),)),
    }
    constants = {"get_max_seq_len": 128, "flag": True, "eps": 1e-5, "ids": [1, 2, 3], "name": "zoo"}
    partitioners = {name: [XnnpackPartitioner()] for name in programs}
    yield "methods-portable", lambda: to_edge(programs).to_executorch()
    yield "methods-constants", lambda: to_edge(programs, constant_methods=constants).to_executorch()
    yield (
        "methods-xnnpack",
        lambda: to_edge_transform_and_lower(programs, partitioner=partitioners).to_executorch(),
    )
    only = {"encode": programs["plain"]}
    yield "methods-without-forward", lambda: to_edge(only).to_executorch()


def quantized() -> Programs:
    rows, image, words = torch.randn(2, 64), torch.randn(1, 3, 16, 16), torch.randn(1, 6, 32)

    def pt2e(module, inputs, **scheme):
        quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(**scheme))
        prepared = prepare_pt2e(export(module.eval(), inputs).module(), quantizer)
        prepared(*inputs)
        return lower(convert_pt2e(prepared), inputs)

    subjects = {"mlp": (mlp, rows), "vision": (Vision, image), "encoder": (encoder, words)}
    schemes = {
        "channel-static": {"is_per_channel": True},
        "channel-dynamic": {"is_per_channel": True, "is_dynamic": True},
        "tensor-static": {"is_per_channel": False},
    }
    for name, (module, x) in subjects.items():
        for scheme, settings in schemes.items():
            yield f"{name}-{scheme}", lambda m=module, x=x, s=settings: pt2e(m(), (x,), **s)

    def dynamic(dtype, granularity):
        module = mlp(128).eval()
        scheme = Int8DynamicActivationIntxWeightConfig
        quantize_(module, scheme(weight_dtype=dtype, weight_granularity=granularity))
        return lower(module, (rows,))

    yield "8da8w", lambda: dynamic(torch.int8, PerAxis(0))
    yield "8da4w", lambda: dynamic(torch.int4, PerGroup(32))
    yield "8da4w-channel", lambda: dynamic(torch.int4, PerAxis(0))


def export_all(folder: Path) -> list[Path]:
    """Exports every program of the zoo."""
    torch.manual_seed(0)
    paths = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in [networks, layouts, operators, state_and_control, methods, quantized]:
            for name, make in part():
                path = folder / f"{name}.pte"
                write(make(), path)
                paths.append(path)
    return paths
