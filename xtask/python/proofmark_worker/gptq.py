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
from .tensors import EMBEDDING, FINAL_NORM, HEAD, Tensor, demanded

# Of the mean of the diagonal, added to it: the fewer the tokens, the more it holds back.
DAMPING = 0.01
BLOCK = 64
WIDTH_MAX = 2048


class Spread:
    """How an error in one input channel is made up for by the later ones; of one input.

    Channels further apart than `WIDTH_MAX` do not make up for each other: the work grows with the
    cube of the width.
    """

    ROWS_MAX = 512

    def __init__(self, x: torch.Tensor) -> None:
        """`x` is [tokens, in]. At most three matrices [WIDTH_MAX, WIDTH_MAX] are alive at once."""
        if not torch.isfinite(x.square().sum()):
            raise WorkerError("calibrate", "an input of a linear is not finite")
        self.parts = [self._part(part) for part in x.split(WIDTH_MAX, 1)]

    @staticmethod
    def _part(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Channels in the order of their size, the largest first, while there is most left to make
        up with; and the upper triangle of the inverse of how they go together."""
        order = torch.argsort(x.square().sum(0), descending=True, stable=True)
        x = x[:, order.flip(0)]
        products = x.T @ x
        products /= products.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
        products.diagonal().add_(DAMPING)
        # The inverse is wanted as U^T U. With everything backwards, U is the inverse of L.
        lower = torch.linalg.cholesky(products)
        del products
        upper = torch.linalg.solve_triangular(lower, torch.eye(lower.shape[0]), upper=False)
        return order, upper.flip(0, 1)

    def quantize(self, x: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
        """As `quantize_rows`: codes [rows, in] and scales [rows, groups]."""
        scale = row_scales(x, scheme)
        wide = scale.repeat_interleave(scheme.group or x.shape[1], 1)
        codes, first = torch.empty(x.shape, dtype=torch.int8), 0
        for order, upper in self.parts:
            columns = order + first
            found = _rounded(x[:, columns].T, wide[:, columns].T, upper, scheme.range)
            codes[:, columns] = found.T
            first += len(order)
        return codes, scale


def _rounded(x: torch.Tensor, scales: torch.Tensor, upper, low_high) -> torch.Tensor:
    """int8 codes of `x` [in, rows]: channels one below the other, each one run in memory."""
    left, scales = x.contiguous(), scales.contiguous()
    codes = torch.empty(x.shape, dtype=torch.int8)
    for first in range(0, len(left), BLOCK):
        last = min(first + BLOCK, len(left))
        block = left[first:last]
        errors = torch.empty_like(block)
        for at in range(last - first):
            code = (block[at] / scales[first + at]).round_().clamp_(*low_high)
            codes[first + at] = code
            errors[at] = (block[at] - code * scales[first + at]) / upper[first + at, first + at]
            follow = upper[first + at, first + at + 1 : last]
            block[at + 1 :].addr_(follow, errors[at], alpha=-1.0)
        left[last:].addmm_(upper[first:last, last:].T, errors, alpha=-1.0)
    return codes


class Rounding(Pass):
    """Quantizes each linear when it meets its input, which the quantized ones before it gave."""

    def __init__(self, quantizer: Quantizer, schemes: dict[str, Scheme], request: Request, count):
        super().__init__(quantizer.source, request.architecture, request.threads, count)
        self.quantizer, self.schemes = quantizer, schemes
        self.rotations = quantizer.source.rotations
        self.tensors: dict[str, Tensor] = {t.name: t for t in demanded(request.architecture)}
        self.weights: dict[str, Weight] = {}

    def meet(self, x: torch.Tensor, names: list[str]) -> None:
        spread = Spread(x)
        for name in names:
            tensor = self.tensors[name]
            self.weights[name] = self.quantizer.matrix(tensor, self.schemes[part(tensor)], spread)

    def end(self, x: torch.Tensor) -> None:
        """The head; where it has the embedding's rows, they are rounded for the head's input."""
        x = self.norm(x, FINAL_NORM)
        if HEAD in self.rotations:
            x = x @ self.rotations[HEAD].T
        tensor = self.tensors[EMBEDDING if self.arch.tied else HEAD]
        self.weights[tensor.name] = self.quantizer.matrix(tensor, self.schemes["head"], Spread(x))

    def chunk(self, name: str, first: int, last: int) -> torch.Tensor:
        weight = self.weights[name]
        data = weight.data[first:last, : weight.width].float()
        scale = weight.scale[first:last].unsqueeze(-1)
        return (data.unflatten(-1, (scale.shape[1], -1)) * scale).flatten(1)
