"""What must hold of the product before anybody else looks at it.

**Invariant:** counts are compared with what the architecture demands, never with "more than none".
"""

from dataclasses import dataclass
from pathlib import Path

from .fields import WorkerError
from .protocol import Request

HEADER_BYTES = 40
HINT = "upstream no longer recognises the graph, so that part of it would run slowly"


@dataclass(frozen=True)
class Expected:
    partitions: int
    linears: int


def expected(request: Request) -> Expected:
    """What the graph of `model.py` comes to, or an error if the recipe expects something else."""
    layers, delegating = request.architecture.layers, request.backend == "xnnpack"
    found = Expected(layers + 1 if delegating else 0, 7 * layers + 1)
    for name, wanted, got in (
        ("partitions", request.expected_partitions, found.partitions),
        (
            "delegated linears",
            request.expected_delegated_linears,
            found.linears if delegating else 0,
        ),
    ):
        if wanted is not None and wanted != got:
            raise WorkerError(
                "request",
                f"{name}: {layers} layers on {request.backend} give {got}, recipe expects {wanted}",
            )
    return found


def _constant(node) -> str:
    """Name of the placeholder that a weight argument comes from."""
    while node.op != "placeholder":
        node = node.all_input_nodes[0]
    return node.name


def _is_dequantized(node) -> bool:
    return node.op == "call_function" and "dequantize" in node.target.__name__


def _linears(graph) -> list[tuple[str, bool]]:
    """(weight, quantized) of the model's linears, without helpers of norm, rope and rotation."""
    found = []
    for node in graph.nodes:
        if node.op != "call_function" or node.target.__name__ != "aten.linear.default":
            continue
        weight = node.args[1]
        name = _constant(weight)
        if not name.endswith(("_mean", "_turn", "_rotation")):
            both = _is_dequantized(weight) and _is_dequantized(node.args[0])
            found.append((name, both))
    return found


@dataclass(frozen=True)
class Census:
    partitions: int
    empty: int
    delegated: int
    quantized: int


def census(edge) -> Census:
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    top = edge.exported_program().graph_module
    modules = [m for _, m in top.named_modules() if isinstance(m, LoweredBackendModule)]
    inside = [linear for m in modules for linear in _linears(m.original_module.graph)]
    return Census(
        partitions=len(modules),
        empty=sum(not m.processed_bytes for m in modules),
        delegated=len(inside),
        quantized=sum(quantized for _, quantized in inside),
    )


def check_census(request: Request, want: Expected, got: Census) -> None:
    delegating = request.backend == "xnnpack"
    rows = (
        ("partitions", got.partitions, want.partitions),
        ("empty delegates", got.empty, 0),
        ("delegated linears", got.delegated, want.linears if delegating else 0),
        (
            "quantized linears",
            got.quantized,
            want.linears if request.quantization != "fp32" else 0,
        ),
    )
    for name, value, wanted in rows:
        if value != wanted:
            raise WorkerError(
                "delegate",
                f"{name}: got {value}, expected {wanted}",
                HINT,
            )


def check_file(path: Path, low: int, high: int) -> int:
    """Header and size of the written file; the deep checks are the verifier's."""
    size = path.stat().st_size
    if not low <= size <= high:
        raise WorkerError("size", f"{path}: got {size} bytes, expected {low} to {high}")
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if head[4:8] != b"ET12" or head[8:12] != b"eh00":
        raise WorkerError("format", f"{path}: got magic {head[4:12]!r}, expected b'ET12eh00'")
    base, data = (int.from_bytes(head[at : at + 8], "little") for at in (24, 32))
    if base + data != size:
        raise WorkerError("format", f"{path}: got {size} bytes, header says {base + data}")
    return size
