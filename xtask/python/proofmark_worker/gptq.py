"""Rounding that makes up for itself: GPTQ (Frantar et al., 2022, arXiv:2210.17323).

Column by column, the error of a rounded weight is spread over the columns that follow, by how
inputs go together in a calibration text. Rows do not depend on each other, so that they stream.

**Invariant:** scales are fixed first, and the codes stay within the scheme's range.
"""

import torch

from .calibrate import Pass
from .fields import WorkerError
from .protocol import Request
from .quantize import Quantizer, Weight, row_scales
from .scheme import Scheme, part
from .tensors import EMBEDDING, FINAL_NORM, HEAD, Tensor, demanded, parameters

# Of the mean of the diagonal, added to it: the fewer the tokens, the more it holds back.
DAMPING = 0.01
BLOCK = 32
# Parameters times channels that make up for each other, by bits, so that a large model's rounding
# takes a minute. The wider, the less is left of an error that all tokens share
# (`docs/quantization.md`).
WORK_MAX = {8: 1 << 39, 4: 1 << 42}
WIDTH_MIN, WIDTH_MAX = 32, 2048


def width_max(bits: int, parameters: int) -> int:
    return min(WIDTH_MAX, max(WIDTH_MIN, WORK_MAX[bits] // parameters))


def part_width(width: int, most: int) -> int:
    """The largest divisor of `width` up to `most`."""
    return max(size for size in range(1, min(width, most) + 1) if width % size == 0)


class Spread:
    """How errors in the input channels that are rounded already move the next one; of one input.

    Channels make up for each other in parts, since the work grows with the width of one. All parts
    take the same step at once.
    """

    def __init__(self, x: torch.Tensor, most: int) -> None:
        """`x` is [tokens, in]. Makes two matrices [parts, width, width].

        With H = R^T R for how channels go together, the error of the outputs is a sum of squares,
        one a channel: R[i, i] times the channel's own error, and R[i, j] times that of each later
        one. From the last channel to the first, each is rounded to what makes its square least.
        The largest come first, while there is most left to make up with (Chen et al., 2025,
        arXiv:2507.18553: this is what GPTQ does, without its inverse of H).
        """
        sizes = x.square().sum(0)
        if not torch.isfinite(sizes.sum()):
            raise WorkerError("calibrate", "an input of a linear is not finite")
        width = part_width(x.shape[1], most)
        first = torch.arange(0, x.shape[1], width).unsqueeze(1)
        # [parts, width]: by size, the largest last.
        self.columns = torch.argsort(sizes.view(-1, width), stable=True) + first
        x = x[:, self.columns].transpose(0, 1)
        products = x.mT @ x
        diagonal = products.diagonal(dim1=1, dim2=2)
        mean = diagonal.mean().clamp(min=torch.finfo(torch.float32).tiny)
        products /= mean
        diagonal += DAMPING
        lower = torch.linalg.cholesky(products)
        # [parts, width, width]: R[i, j] / R[i, i].
        self.follow = (lower / lower.diagonal(dim1=1, dim2=2).unsqueeze(1)).mT

    def quantize(self, x: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
        """As `quantize_rows`: codes [rows, in] and scales [rows, groups]."""
        scale, (rows, width) = row_scales(x, scheme), x.shape
        columns = self.columns.flatten()
        # Channels one below the other, each one run in memory.
        weights = x.T.contiguous()[columns].view(*self.columns.shape, rows)
        groups, group = scale.T.contiguous(), self.columns // (scheme.group or width)
        codes = torch.empty(width, rows, dtype=torch.int8)
        found = _rounded(weights, groups, group, self.follow, scheme.range)
        codes[columns] = found.to(torch.int8).view(-1, rows)
        return codes.T.contiguous(), scale


def _rounded(weights: torch.Tensor, groups, group, follow: torch.Tensor, low_high) -> torch.Tensor:
    """Codes of `weights` [parts, width, rows], the last channel first; they become errors.

    `groups` [groups, rows] has the scales, `group` [parts, width] says which is a channel's.
    """
    codes, errors = torch.empty_like(weights), weights
    each, error = codes.unbind(1), errors.unbind(1)
    scales = [groups] if len(groups) == 1 else [groups[column] for column in group.T]
    for last in range(weights.shape[1], 0, -BLOCK):
        first = max(0, last - BLOCK)
        # What the channels of the blocks before ask of all of this one, then channel by channel.
        wanted = torch.baddbmm(
            weights[:, first:last], follow[:, first:last, last:], errors[:, last:]
        )
        near = follow[:, first:last, first:last].contiguous()
        for at in reversed(range(first, last)):
            row = slice(at - first, at - first + 1)
            want = torch.baddbmm(wanted[:, row], near[:, row, row.stop :], errors[:, at + 1 : last])
            scale = scales[at % len(scales)]
            code = torch.div(want.squeeze(1), scale, out=each[at]).round_().clamp_(*low_high)
            error[at].addcmul_(code, scale, value=-1.0)
    return codes


class Rounding(Pass):
    """Quantizes each linear when it meets its input, which the quantized ones before it gave."""

    def __init__(self, quantizer: Quantizer, schemes: dict[str, Scheme], request: Request, count):
        super().__init__(quantizer.source, request.architecture, request.threads, count)
        self.quantizer, self.schemes = quantizer, schemes
        self.rotations = quantizer.source.rotations
        self.tensors: dict[str, Tensor] = {t.name: t for t in demanded(request.architecture)}
        self.weights: dict[str, Weight] = {}
        self.parameters = parameters(request.architecture)

    def meet(self, x: torch.Tensor, names: list[str]) -> None:
        tensors = [self.tensors[name] for name in names]
        schemes = [self.schemes[part(tensor)] for tensor in tensors]
        spread = self.spread(x, min(scheme.bits for scheme in schemes))
        for name, tensor, scheme in zip(names, tensors, schemes, strict=True):
            self.weights[name] = self.quantizer.matrix(tensor, scheme, spread)

    def end(self, x: torch.Tensor) -> None:
        """The head; where it has the embedding's rows, they are rounded for the head's input."""
        x = self.norm(x, FINAL_NORM)
        if HEAD in self.rotations:
            x = x @ self.rotations[HEAD].T
        tensor = self.tensors[EMBEDDING if self.arch.tied else HEAD]
        scheme = self.schemes["head"]
        spread = self.spread(x, scheme.bits)
        self.weights[tensor.name] = self.quantizer.matrix(tensor, scheme, spread)

    def spread(self, x: torch.Tensor, bits: int) -> Spread:
        return Spread(x, width_max(bits, self.parameters))

    def chunk(self, name: str, first: int, last: int) -> torch.Tensor:
        return self.weights[name].rows(first, last)
