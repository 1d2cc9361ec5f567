"""Rounding that makes up for itself: GPTQ (Frantar et al., 2022, arXiv:2210.17323).

Column by column, the error of a rounded weight is spread over the columns that follow, by how
inputs go together in a calibration text. Rows do not depend on each other, so that they stream.

**Invariant:** scales are fixed first, and the codes stay within the scheme's range.
"""

import torch

from .calibrate import Pass
from .checkpoint import Tensor, demanded
from .protocol import Request, WorkerError
from .quantize import Quantizer, Weight, row_scales
from .scheme import Scheme, part

# Of the mean of the diagonal, added to it: the fewer the tokens, the more it holds back.
DAMPING = 0.01
BLOCK = 64


class Spread:
    """How an error in one input channel is made up for by the later ones; of one input."""

    def __init__(self, x: torch.Tensor) -> None:
        """`x` is [tokens, in]. At most three matrices [in, in] are alive at once."""
        size = x.square().sum(0)
        if not torch.isfinite(size).all():
            raise WorkerError("calibrate", "an input of a linear is not finite")
        # The most important channels go first, while there is most left to make up with.
        self.order = torch.argsort(size, descending=True, stable=True)
        x = x[:, self.order.flip(0)]
        products = x.T @ x
        products /= products.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
        products.diagonal().add_(DAMPING)
        # The inverse is wanted as U^T U. With everything backwards, U is the inverse of L.
        lower = torch.linalg.cholesky(products)
        del products
        upper = torch.linalg.solve_triangular(lower, torch.eye(lower.shape[0]), upper=False)
        del lower
        self.upper = upper.flip(0, 1)

    def quantize(self, x: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
        """As `quantize_rows`: codes [rows, in] and scales [rows, groups]."""
        scale = row_scales(x, scheme)
        wide = scale.repeat_interleave(scheme.group or x.shape[1], 1)[:, self.order]
        left, low_high, upper = x[:, self.order].clone(), scheme.range, self.upper
        codes = torch.empty(x.shape, dtype=torch.int8)
        for first in range(0, x.shape[1], BLOCK):
            last = min(first + BLOCK, x.shape[1])
            # Columns one below the other: each is one run in memory.
            block, scales = left[:, first:last].T.contiguous(), wide[:, first:last].T.contiguous()
            errors = torch.empty_like(block)
            for at in range(last - first):
                code = (block[at] / scales[at]).round_().clamp_(*low_high)
                codes[:, self.order[first + at]] = code.to(torch.int8)
                errors[at] = (block[at] - code * scales[at]) / upper[first + at, first + at]
                follow = upper[first + at, first + at + 1 : last].unsqueeze(-1)
                block[at + 1 :] -= follow * errors[at]
            left[:, last:] -= errors.T @ upper[first:last, last:]
        return codes, scale


class Rounding(Pass):
    """Quantizes each linear when it meets its input, which the quantized ones before it gave."""

    def __init__(self, quantizer: Quantizer, schemes: dict[str, Scheme], request: Request, count):
        super().__init__(quantizer.source, request.architecture, request.threads, count)
        self.quantizer, self.schemes = quantizer, schemes
        self.tensors: dict[str, Tensor] = {t.name: t for t in demanded(request.architecture)}
        self.weights: dict[str, Weight] = {}

    def meet(self, x: torch.Tensor, names: list[str]) -> None:
        found = {name: self.schemes[part(self.tensors[name])] for name in names}
        spread = Spread(x) if any(is_coarse(scheme) for scheme in found.values()) else None
        for name, scheme in found.items():
            by = spread if is_coarse(scheme) else None
            self.weights[name] = self.quantizer.matrix(self.tensors[name], scheme, by)

    def chunk(self, name: str, first: int, last: int) -> torch.Tensor:
        weight = self.weights[name]
        data = weight.data[first:last, : weight.width].float()
        scale = weight.scale[first:last].unsqueeze(-1)
        return (data.unflatten(-1, (scale.shape[1], -1)) * scale).flatten(1)


def is_coarse(scheme: Scheme) -> bool:
    """Whether it is worth the effort: at 8 bits rounding to the nearest is close already."""
    return 0 < scheme.bits < 8
