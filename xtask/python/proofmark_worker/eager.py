"""The eager model with a key/value cache, for many sequences at once.

Every call feeds some tokens of some sequences. The matrices see the tokens of all of them
together, so that at 1B each weight is widened once per call and not once per sequence; attention
goes sequence by sequence over each one's own cache.

**Invariant:** rope by slices, norms by a mean, attention by a softmax over a mask: other code than
the exported graph. A sequence fed in one piece, in several, or beside others gives the same logits
but for the order of fp64 sums.
"""

import torch

from .architecture import Architecture
from .blocks import Blocks
from .quantize import Weight
from .scheme import FP32
from .tensors import EMBEDDING, HEAD, VECTORS


class Rows:
    """A matrix of the checkpoint, read by rows when they are wanted: fp32 without its memory."""

    def __init__(self, source, name: str, shape: tuple[int, ...]) -> None:
        self.source, self.name, self.shape = source, name, shape

    def __getitem__(self, index) -> torch.Tensor:
        if isinstance(index, slice):
            return self.source.rows(self.name, index.start, index.stop)
        wanted, place = torch.unique(index, return_inverse=True)
        rows = [self.source.rows(self.name, int(row), int(row) + 1) for row in wanted]
        return torch.cat(rows)[place]


def unquantized(source, tensors) -> dict[str, Weight]:
    """All weights as the checkpoint has them; a tied head is the embedding's."""
    weights = {}
    for tensor in tensors:
        if tensor.kind in VECTORS:
            data = source.rows(tensor.name, 0, tensor.shape[0]).clone()
        else:
            data = Rows(source, tensor.name, tensor.shape)
        weights[tensor.name] = Weight(FP32, data, None)
    weights.setdefault(HEAD, weights[EMBEDDING])
    return weights


class Cache:
    """Keys and values of one sequence."""

    def __init__(self, arch: Architecture, room: int) -> None:
        shape = (arch.layers, room, arch.kv_heads, arch.head_dim)
        self.keys = torch.zeros(shape, dtype=torch.float64)
        self.values = torch.zeros(shape, dtype=torch.float64)
        self.length = 0


class Eager:
    """`feed` takes `(cache, tokens)` pairs; `rows` is the hidden state after every token."""

    def __init__(self, arch: Architecture, weights: dict[str, Weight]) -> None:
        self.arch, self.blocks = arch, Blocks(arch, weights)

    def cache(self, room: int) -> Cache:
        return Cache(self.arch, room)

    def _attention(self, layer: int, x: torch.Tensor, parts, angle) -> torch.Tensor:
        q, k, v = self.blocks.qkv(layer, x, angle)
        mixed, first = [], 0
        for cache, tokens in parts:
            last, begin = first + len(tokens), cache.length
            end = begin + len(tokens)
            keys, values = cache.keys[layer], cache.values[layer]
            keys[begin:end], values[begin:end] = k[first:last], v[first:last]
            mixed.append(self.blocks.attend(q[first:last], keys[:end], values[:end]))
            first = last
        return torch.cat(mixed)

    def rows(self, parts, progress=lambda _done, _total: None) -> torch.Tensor:
        arch, blocks = self.arch, self.blocks
        angle = torch.cat([blocks.angles(cache.length, len(tokens)) for cache, tokens in parts])
        x = blocks.embed([token for _, tokens in parts for token in tokens])
        for layer in range(arch.layers):
            x = blocks.out(layer, x, self._attention(layer, x, parts, angle))
            progress(layer + 1, arch.layers + 1)
        for cache, fed in parts:
            cache.length += len(fed)
        return x

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """fp64 logits after the tokens that gave `rows`."""
        return self.blocks.logits(rows)

    def feed(self, parts) -> torch.Tensor:
        """Logits after the last token of each part."""
        last = torch.tensor([len(tokens) for _, tokens in parts]).cumsum(0) - 1
        return self.logits(self.rows(parts)[last])
