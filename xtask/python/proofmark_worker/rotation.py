"""A change of basis that spreads large values over many channels (QuaRot, arXiv:2404.00456).

One int8 row for a token is coarse because a few channels are much larger than the others. In
another basis no channel stands out. The residual is rotated as a whole: each matrix that reads it
takes the rotation back, each that writes it applies it, and a norm whose gain was moved into its
readers does not notice. A norm between a writer and the residual would: its gain does not commute
with the rotation. A model with such norms has no rotated form (`scheme.check_form`).

What `down` reads has no such freedom, since a product of two values made
it: the program rotates it, in groups, and `down` takes that back.

**Invariant:** the rotated model is the model but for the rounding of its fp32 weights.
**Invariant:** a rotation is made by a formula: the same matrix on every machine.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from .architecture import Architecture
from .quantize import check_some, map_file
from .tensors import BEFORE_ATTENTION, BEFORE_FFN, EMBEDDING, FINAL_NORM, HEAD, demanded

# What `down` reads is rotated in groups of this many channels at most: wide enough to spread the
# largest, and a product that hardly shows beside those of the layer.
GROUP_MAX = 128
# Of the signs. A basis without them has one vector along the mean of all channels.
SEED = 20_404
# Power-of-two factors are applied in pieces of this size.
PIECE = 64
# Of a matrix at a time.
COLUMNS, ELEMENTS = 512, 1 << 20


# Norms of the residual, whose gains move into what reads them.
MOVED = (f"{BEFORE_ATTENTION}.weight", f"{BEFORE_FFN}.weight", FINAL_NORM)
# What writes to the residual: a rotated row of these mixes all rows.
WRITERS = ("o_proj.weight", "down_proj.weight")
# What has to do with single heads alone: no rotation reaches it.
KEPT = ("q_norm.weight", "k_norm.weight", ".bias")


def even_group(width: int) -> int:
    """The largest power of two up to `GROUP_MAX` that divides `width`."""
    return math.gcd(width, GROUP_MAX)


def hartley(size: int) -> torch.Tensor:
    """Orthogonal, symmetric, fp64 [size, size]; no entry exceeds sqrt(2 / size)."""
    place = torch.arange(size, dtype=torch.float64)
    angle = torch.outer(place, place).remainder(size) * (2.0 * math.pi / size)
    return (angle.cos() + angle.sin()) / math.sqrt(size)


def hadamard(size: int) -> torch.Tensor:
    """Orthogonal, symmetric, fp64 [size, size], all entries of one size; `size` a power of two."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix / math.sqrt(size)


class Basis:
    """Of the residual: signs, then a product of small orthogonal matrices along an axis each."""

    def __init__(self, size: int) -> None:
        generator = torch.Generator().manual_seed(SEED)
        self.signs = 1.0 - 2.0 * torch.randint(2, (size,), generator=generator).double()
        self.factors = []
        even = size & -size
        while even > 1:
            self.factors.append(hadamard(min(even, PIECE)))
            even //= min(even, PIECE)
        odd = size // (size & -size)
        if odd > 1:
            self.factors.append(hartley(odd))

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """`x @ R` for `x` [rows, size], in the dtype of `x`."""
        x, right = x * self.signs.to(x.dtype), x.shape[1]
        for factor in (factor.to(x.dtype) for factor in self.factors):
            right //= factor.shape[0]
            if right == 1:
                x = (x.view(-1, factor.shape[0]) @ factor).view(x.shape)
            else:
                groups = x.view(x.shape[0], -1, factor.shape[0], right)
                x = (factor @ groups).reshape(x.shape)
        return x


class Rotated:
    """A source of the rotated model's weights. Gains of norms are ones.

    `rotations` has, by the weight's name, what the program multiplies a linear's input by.
    """

    # As `smooth.Folded` has it, for a head that shares its rows with the embedding.
    head_step = 1.0

    def __init__(self, source, arch: Architecture, work_dir: Path) -> None:
        self.source, self.arch, self.basis = source, arch, Basis(arch.dim)
        self.work_dir = work_dir
        self.shapes = {t.name: t.shape for t in demanded(arch)}
        self.group = even_group(arch.ffn)
        self.rotations: dict[str, torch.Tensor] = {}
        if self.group > 1:
            for layer in range(arch.layers):
                name = f"model.layers.{layer}.mlp.down_proj.weight"
                self.rotations[name] = hadamard(self.group).float()
        if arch.tied:
            self.rotations[HEAD] = self._final()
        self.written: tuple[str, torch.Tensor] | None = None

    def _final(self) -> torch.Tensor:
        """R^T diag(gain) R: the last gain, where the head's rows cannot take it."""
        gain = self._gain(FINAL_NORM).double()
        left = self.basis.apply(torch.diag(gain))
        return self.basis.apply(left.T.contiguous()).float()

    def rows(self, name: str, first: int, last: int) -> torch.Tensor:
        if name.endswith(MOVED):
            return torch.ones_like(self._gain(name)[first:last])
        if name.endswith(KEPT):
            return self.source.rows(name, first, last)
        if name.endswith(WRITERS):
            prepared, data = self.written
            assert prepared == name, f"{name}: not prepared"
            # The next matrix is written into the same file.
            return data[first:last].clone()
        data = self.source.rows(name, first, last)
        gain = self._gain_before(name)
        return self.basis.apply(data if gain is None else data * gain)

    def _gain_before(self, name: str) -> torch.Tensor | None:
        """Of the norm whose result the matrix reads."""
        if name == EMBEDDING:
            return None
        prefix = name.rsplit(".", 3)[0]
        norm = {
            "self_attn": f"{prefix}.{BEFORE_ATTENTION}.weight",
            "mlp": f"{prefix}.{BEFORE_FFN}.weight",
        }
        wanted = FINAL_NORM if name == HEAD else norm[name.split(".")[-3]]
        return self._gain(wanted)

    def _gain(self, name: str) -> torch.Tensor:
        """Of a norm. What is quantized shows nothing of it any more, so that it is checked here."""
        gain = self.source.rows(name, 0, self.arch.dim)
        check_some(name, bool(gain.any()))
        return gain

    def prepare(self, name: str, pool: ThreadPoolExecutor) -> None:
        """Comes before `rows` of a matrix whose rows the rotation mixes; it replaces the last one.

        The matrix is written into a file, by rows and then by columns: hardly any of it is in
        anonymous memory.
        """
        if not name.endswith(WRITERS):
            return
        rows, width = self.shapes[name]
        step, dtype = max(1, ELEMENTS // width), self.source.rows(name, 0, 1).dtype
        done = map_file(self.work_dir / f"rotated_{width}.bin", (rows, width), dtype)

        def read(first: int) -> None:
            part = self.source.rows(name, first, min(first + step, rows))
            if name in self.rotations:
                matrix = self.rotations[name].to(dtype)
                part = (part.unflatten(-1, (-1, self.group)) @ matrix).flatten(-2)
            done[first : first + step] = part

        def mix(first: int) -> None:
            part = done[:, first : first + COLUMNS]
            part.copy_(self.basis.apply(part.T.contiguous()).T)

        for work, places in ((read, range(0, rows, step)), (mix, range(0, width, COLUMNS))):
            for _ in pool.map(work, places):
                pass
        self.written = name, done

    def finish(self) -> None:
        self.source.finish()
