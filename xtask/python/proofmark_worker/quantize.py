"""Streamed quantization: row chunks in, int8 files out, mapped back.

**Invariant:** a chunk is all of a weight that is ever in anonymous memory; the result is
file-backed, so that the kernel may drop it and read it again.
**Invariant:** the arithmetic is a symmetric scheme: values times the inverse scale, rounded, with
group scales rounded to bf16 first because XNNPACK stores them so: what is evaluated here is what
ships. A scale is torchao's (`amax / ((qmax - qmin) / 2)`), times whatever of `SHRINK` leaves the
least square error.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .architecture import Architecture
from .fields import WorkerError
from .scheme import FP32, Scheme, part
from .tensors import EMBEDDING, HEAD, VECTORS, Tensor, demanded

CHUNK_ELEMENTS = 1 << 20
# Of the widest scale, tried from the widest on. With 255 steps there is little to win.
SHRINK = {8: (1.0, 0.95, 0.9), 4: tuple(1.0 - 0.04 * n for n in range(12))}
SCALE_MIN = torch.finfo(torch.float32).smallest_normal


@dataclass(frozen=True)
class Weight:
    """`data` is int8 (values of `scheme.bits`) or fp32, file-backed; `scale` is [rows, groups].

    Where a linear takes its input in two rows, `data` has one more column, of zeros, and `sums` has
    the sum of each row of `data`.

    `rotation` [n, n] fp32, if any, is what the program multiplies each n values of the input by
    before they are quantized; `data` is that of the rotated input.
    """

    scheme: Scheme
    data: torch.Tensor
    scale: torch.Tensor | None
    sums: torch.Tensor | None = None
    rotation: torch.Tensor | None = None

    @property
    def width(self) -> int:
        return self.data.shape[1] - (self.sums is not None)

    def rows(self, first: int, last: int) -> torch.Tensor:
        """fp32 [last - first, width]: what the codes stand for."""
        data = self.data[first:last][:, : self.width].float()
        if not self.scheme.bits:
            return data
        scale = self.scale[first:last].unsqueeze(-1)
        return (data.unflatten(-1, (scale.shape[1], -1)) * scale).flatten(1)


def _codes(blocks: torch.Tensor, scale: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    return (blocks * (1.0 / scale).unsqueeze(-1)).round_().clamp_(*scheme.range)


def row_scales(x: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """`[rows, groups]`: the widest, or a smaller one where clipping costs less than it saves."""
    blocks = x.view(x.shape[0], -1, scheme.group or x.shape[1])
    low, high = scheme.range
    widest = (blocks.abs().amax(-1) / ((high - low) / 2)).clamp_(min=SCALE_MIN)
    best, least = None, None
    for factor in SHRINK[scheme.bits]:
        scale = widest * factor
        if scheme.group:
            scale = scale.bfloat16().float()
        error = _codes(blocks, scale, scheme).mul_(scale.unsqueeze(-1)).sub_(blocks)
        error = torch.linalg.vector_norm(error, dim=-1)
        best = scale if best is None else torch.where(error < least, scale, best)
        least = error if least is None else torch.minimum(error, least)
    return best


def quantize_rows(x: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    scale = row_scales(x, scheme)
    blocks = x.view(x.shape[0], -1, scheme.group or x.shape[1])
    return _codes(blocks, scale, scheme).to(torch.int8).view(x.shape), scale


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


def check_some(name: str, nonzero: bool) -> None:
    """Whether a tensor has a value that is not zero."""
    if not nonzero:
        raise WorkerError(
            "weights",
            f"{name}: every value is zero",
            "missing weights sometimes turn into zeros when a checkpoint is converted",
        )


class Quantizer:
    """`pool` does the chunks of a matrix: one for all, since the matrix library keeps buffers
    for every thread that ever called it."""

    def __init__(self, source, work_dir: Path, pool: ThreadPoolExecutor, report) -> None:
        self.source = source
        self.work_dir = work_dir
        self.pool = pool
        self.report = report
        self.files: dict[str, Path] = {}

    def matrix(self, tensor: Tensor, scheme: Scheme, by=None) -> Weight:
        """`by.quantize` rounds blocks of rows; to the nearest without it."""
        self.source.prepare(tensor.name, self.pool)
        rows, width = tensor.shape
        step, spare = max(1, CHUNK_ELEMENTS // width), scheme.rows - 1
        dtype = torch.int8 if scheme.bits else torch.float32
        sums = torch.empty(rows, dtype=torch.int64) if spare else None
        path = self.work_dir / f"weight_{len(self.files)}.bin"
        scale = torch.empty(rows, width // (scheme.group or width)) if scheme.bits else None
        nonzero, stored = False, width + spare
        rounded = by.quantize if by else quantize_rows
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

        def chunk(first: int) -> None:
            nonlocal nonzero
            last = min(first + step, rows)
            data = self.source.rows(tensor.name, first, last)
            nonzero = nonzero or bool(data.any())
            if scheme.bits:
                data, scale[first:last] = rounded(data, scheme)
            if spare:
                sums[first:last] = data.sum(-1)
                data = torch.nn.functional.pad(data, (0, spare))
            view = memoryview(data.numpy()).cast("B")
            offset = first * stored * dtype.itemsize
            while view:
                written = os.pwrite(fd, view, offset)
                view, offset = view[written:], offset + written
            self.report((last - first) * width)

        try:
            for _ in self.pool.map(chunk, range(0, rows, step)):
                pass
            self.files[_sha256(fd, rows * stored * dtype.itemsize)] = path
        finally:
            os.close(fd)
        check_some(tensor.name, nonzero)
        return Weight(scheme, map_file(path, (rows, stored), dtype), scale, sums)

    def vector(self, tensor: Tensor) -> Weight:
        data = self.source.rows(tensor.name, 0, tensor.shape[0])
        if tensor.kind == "norm":
            check_some(tensor.name, bool(data.any()))
        self.report(tensor.shape[0])
        return Weight(FP32, data.clone(), None)


def tie(embedding: Weight, head: Scheme, step: float) -> tuple[Weight, Weight]:
    """Embedding and head of one matrix: the same rows, the head's scales `step` times as wide."""
    scale = None if embedding.scale is None else embedding.scale * step
    return (
        replace(embedding, scheme=replace(head, rows=1)),
        replace(embedding, scheme=head, scale=scale),
    )


def quantize(
    source,
    arch: Architecture,
    schemes: dict[str, Scheme],
    work_dir: Path,
    *,
    threads: int,
    progress,
    layers=None,
) -> tuple[dict[str, Weight], dict[str, Path]]:
    """All weights by name, and their files by digest; a tied head has the embedding's rows.

    `layers(quantizer)`, if given, makes those of the blocks' linears.
    """
    tensors = demanded(arch)
    if arch.tied:
        # The matrix has the spare column that the head needs.
        schemes = {**schemes, "embedding": schemes["head"]}
    total, done = sum(tensor.elements for tensor in tensors), 0

    def report(elements: int) -> None:
        nonlocal done
        done += elements
        progress(done, total)

    # The pool already uses every thread; nested ones would only fight over the cores.
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            quantizer = Quantizer(source, work_dir, pool, report)
            weights = layers(quantizer) if layers else {}
            for tensor in tensors:
                if tensor.kind in VECTORS:
                    weights[tensor.name] = quantizer.vector(tensor)
                elif tensor.name not in weights:
                    weights[tensor.name] = quantizer.matrix(tensor, schemes[part(tensor)])
    finally:
        torch.set_num_threads(threads)
    if arch.tied:
        weights[EMBEDDING], weights[HEAD] = tie(
            weights[EMBEDDING], schemes["head"], source.head_step
        )
    for name, matrix in source.rotations.items():
        weights[name] = replace(weights[name], rotation=matrix)
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
