"""The unquantized model in fp32 on texts that are known beforehand: what quality is held against.

Layer by layer over all texts, so that each weight is read and widened once, whatever the amount of
text. The blocks are those of the eager model; only their matrices are applied in fp32.

**Invariant:** memory holds one layer's matrices, one residual per token and the logits of one text.
"""

from collections.abc import Iterator

import torch
from torch.nn.functional import linear

from .architecture import Architecture
from .blocks import Blocks
from .eager import unquantized
from .quantize import Weight
from .tensors import demanded

# A larger matrix (the head of any real vocabulary) is applied in pieces and not kept.
HELD_ELEMENTS_MAX = 1 << 25


class _Matrices:
    """Applies a matrix of the checkpoint in fp32; those of the layer at hand are kept."""

    def __init__(self) -> None:
        self.held: dict[str, torch.Tensor] = {}

    def __call__(self, x: torch.Tensor, weight: Weight) -> torch.Tensor:
        x, data = x.float(), weight.data
        rows, width = data.shape
        if rows * width > HELD_ELEMENTS_MAX:
            return self._by_pieces(x, data, max(1, HELD_ELEMENTS_MAX // width))
        if data.name not in self.held:
            self.held[data.name] = data[0:rows]
        return linear(x, self.held[data.name]).double()

    def _by_pieces(self, x: torch.Tensor, data, step: int) -> torch.Tensor:
        rows = data.shape[0]
        out = torch.empty(x.shape[0], rows)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            out[:, first:last] = linear(x, data[first:last])
        return out.double()


def logits(
    arch: Architecture, source, texts: list[list[int]], *, last: bool = False, progress
) -> Iterator[torch.Tensor]:
    """fp64 [tokens, vocab] of each text, in order; computed in fp32. Of the last token alone if so
    asked."""
    matrices = _Matrices()
    blocks = Blocks(arch, unquantized(source, demanded(arch)), matrices)
    hidden = [blocks.embed(tokens) for tokens in texts]
    angles = [blocks.angles(0, len(tokens)) for tokens in texts]
    for layer in range(arch.layers):
        for place, (x, angle) in enumerate(zip(hidden, angles, strict=True)):
            q, k, v = blocks.qkv(layer, x, angle)
            hidden[place] = blocks.out(layer, x, blocks.attend(q, k, v))
        matrices.held.clear()
        progress(layer + 1, arch.layers)
    for x in hidden:
        yield blocks.logits(x[-1:] if last else x)
