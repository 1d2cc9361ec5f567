"""Streamed quantization: row chunks in, int8 files out, mapped back.

**Invariant:** a chunk is all of a weight that is ever in anonymous memory; the result is
file-backed, so that the kernel may drop it and read it again.
**Invariant:** the arithmetic is torchao's symmetric scheme (`scale = amax / ((qmax - qmin) / 2)`),
with group scales rounded to bf16 first because XNNPACK stores them so: what is evaluated here is
what ships.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from .checkpoint import EMBEDDING, HEAD, Tensor, demanded
from .protocol import Architecture, WorkerError

CHUNK_ELEMENTS = 1 << 20
GROUP = 32
SCALE_MIN = torch.finfo(torch.float32).smallest_normal


@dataclass(frozen=True)
class Scheme:
    """`bits` 0 means fp32; `group` 0 means one scale for a whole row."""

    bits: int
    group: int

    @property
    def name(self) -> str:
        if not self.bits:
            return "fp32"
        return f"8da{self.bits}w" + (f"_g{self.group}" if self.group else "_per_channel")


FP32 = Scheme(0, 0)
ROWS8 = Scheme(8, 0)
SCHEMES = {
    # The head stays at 8 bits: it shares its rows with the embedding and decides the token.
    "int8": {"linear": ROWS8, "head": ROWS8, "embedding": ROWS8},
    "int4": {"linear": Scheme(4, GROUP), "head": ROWS8, "embedding": ROWS8},
    "fp32": {"linear": FP32, "head": FP32, "embedding": FP32},
}


@dataclass(frozen=True)
class Weight:
    """`data` is int8 (values of `scheme.bits`) or fp32, file-backed; `scale` is [rows, groups]."""

    scheme: Scheme
    data: torch.Tensor
    scale: torch.Tensor | None


def quantize_rows(x: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    rows, width = x.shape
    low, high = -(1 << (scheme.bits - 1)), (1 << (scheme.bits - 1)) - 1
    blocks = x.view(rows, -1, scheme.group or width)
    amax = blocks.abs().amax(-1)
    scale = (amax / ((high - low) / 2)).clamp_(min=SCALE_MIN)
    if scheme.group:
        scale = scale.bfloat16().float()
    q = (blocks * (1.0 / scale).unsqueeze(-1)).round_().clamp_(low, high)
    return q.to(torch.int8).view(rows, width), scale


def map_file(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    storage = torch.UntypedStorage.from_file(str(path), True, size)
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)


def _sha256(fd: int, size: int) -> str:
    """Of a file just written: it is still in the page cache."""
    state = hashlib.sha256()
    for offset in range(0, size, CHUNK_ELEMENTS):
        state.update(os.pread(fd, min(CHUNK_ELEMENTS, size - offset), offset))
    return state.hexdigest()


class _Check:
    """NaN, infinity and all-zero over the chunks of one tensor."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nonzero = False

    def chunk(self, x: torch.Tensor) -> None:
        low, high = (float(v) for v in torch.aminmax(x))
        if not (-float("inf") < low and high < float("inf")):
            raise WorkerError("weights", f"{self.name}: has a value that is not finite")
        if low != 0.0 or high != 0.0:
            self.nonzero = True

    def done(self) -> None:
        if not self.nonzero:
            raise WorkerError(
                "weights",
                f"{self.name}: every value is zero",
                "missing weights sometimes turn into zeros when a checkpoint is converted",
            )


class Quantizer:
    def __init__(self, source, work_dir: Path, threads: int, report) -> None:
        self.source = source
        self.work_dir = work_dir
        self.threads = threads
        self.report = report
        self.files: dict[str, Path] = {}

    def matrix(self, tensor: Tensor, scheme: Scheme) -> Weight:
        rows, width = tensor.shape
        step = max(1, CHUNK_ELEMENTS // width)
        dtype = torch.int8 if scheme.bits else torch.float32
        path = self.work_dir / f"weight_{len(self.files)}.bin"
        scale = torch.empty(rows, width // (scheme.group or width)) if scheme.bits else None
        check = _Check(tensor.name)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

        def chunk(first: int) -> None:
            last = min(first + step, rows)
            data = self.source.rows(tensor.name, first, last)
            check.chunk(data)
            if scheme.bits:
                data, scale[first:last] = quantize_rows(data, scheme)
            view = memoryview(data.numpy()).cast("B")
            offset = first * width * dtype.itemsize
            while view:
                written = os.pwrite(fd, view, offset)
                view, offset = view[written:], offset + written
            self.report((last - first) * width)

        try:
            with ThreadPoolExecutor(self.threads) as pool:
                for _ in pool.map(chunk, range(0, rows, step)):
                    pass
            self.files[_sha256(fd, rows * width * dtype.itemsize)] = path
        finally:
            os.close(fd)
        check.done()
        return Weight(scheme, map_file(path, tensor.shape, dtype), scale)

    def vector(self, tensor: Tensor) -> Weight:
        data = self.source.rows(tensor.name, 0, tensor.shape[0])
        check = _Check(tensor.name)
        check.chunk(data)
        check.done()
        self.report(tensor.shape[0])
        return Weight(FP32, data.clone(), None)


def check_widths(arch: Architecture, quantization: str) -> None:
    """Upstream leaves a linear that a group does not divide unquantized and says nothing."""
    schemes = SCHEMES[quantization]
    for tensor in demanded(arch):
        group = schemes[tensor.kind].group if tensor.kind in schemes else 0
        if group and tensor.shape[1] % group:
            raise WorkerError(
                "config",
                f"{tensor.name}: width {tensor.shape[1]} is not a multiple of the group {group}",
                "use int8, which has one scale per row",
            )


def quantize(
    source, arch: Architecture, quantization: str, work_dir: Path, *, threads: int, progress
) -> tuple[dict[str, Weight], dict[str, Path]]:
    """All weights by name, and their files by digest; a tied head is the embedding's `Weight`."""
    schemes, tensors = SCHEMES[quantization], demanded(arch)
    total, done = sum(_elements(tensor) for tensor in tensors), 0

    def report(elements: int) -> None:
        nonlocal done
        done += elements
        progress(done, total)

    quantizer = Quantizer(source, work_dir, threads, report)
    # The pool already uses every thread; nested ones would only fight over the cores.
    torch.set_num_threads(1)
    try:
        weights = {
            tensor.name: quantizer.vector(tensor)
            if tensor.kind == "norm"
            else quantizer.matrix(tensor, schemes[tensor.kind])
            for tensor in tensors
        }
    finally:
        torch.set_num_threads(threads)
    if arch.tied:
        weights[HEAD] = weights[EMBEDDING]
    return weights, quantizer.files


def large_matrices(weights: dict[str, Weight], bytes_min: int) -> int:
    """How many matrices reach the delegates with at least `bytes_min` bytes."""
    packed = {4: 2}
    sizes = [
        weight.data.nbytes // packed.get(weight.scheme.bits, 1)
        for name, weight in weights.items()
        if name != EMBEDDING
    ]
    return sum(size >= bytes_min for size in sizes)


def _elements(tensor: Tensor) -> int:
    return tensor.shape[0] * (tensor.shape[1] if len(tensor.shape) > 1 else 1)
