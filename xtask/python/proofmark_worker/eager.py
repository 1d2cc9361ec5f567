"""The eager model with a key/value cache, for many sequences at once.

Every call feeds some tokens of some sequences. The matrices see the tokens of all of them
together, so that at 1B each weight is widened once per call and not once per sequence; attention
goes sequence by sequence over each one's own cache.

**Invariant:** rope by slices, norms by a mean, attention by a softmax over a mask: other code than
the exported graph. A sequence fed in one piece, in several, or beside others gives the same logits
but for the order of fp64 sums.
"""

import math

import torch

from .checkpoint import EMBEDDING, FINAL_NORM, HEAD
from .protocol import Architecture
from .quantize import Weight
from .reference import embed, frequencies, linear, norm, rotate, unit_linear
from .scheme import FP32


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
        if tensor.kind == "norm":
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
        self.arch, self.weights = arch, weights
        self.frequencies = torch.tensor(frequencies(arch), dtype=torch.float64)

    def cache(self, room: int) -> Cache:
        return Cache(self.arch, room)

    def _attention(self, layer: int, x, prefix: str, parts, angle) -> torch.Tensor:
        arch = self.arch
        shared = arch.heads // arch.kv_heads
        names = (f"{prefix}self_attn.{name}_proj.weight" for name in "qkv")
        q, k, v = (linear(x, self.weights[n]).view(x.shape[0], -1, arch.head_dim) for n in names)
        q, k = rotate(q, angle), rotate(k, angle)
        mixed, first = [], 0
        for cache, tokens in parts:
            last, begin = first + len(tokens), cache.length
            end = begin + len(tokens)
            cache.keys[layer, begin:end] = k[first:last]
            cache.values[layer, begin:end] = v[first:last]
            keys = cache.keys[layer, :end].repeat_interleave(shared, 1)
            values = cache.values[layer, :end].repeat_interleave(shared, 1)
            scores = torch.einsum("qhd,khd->hqk", q[first:last], keys) / math.sqrt(arch.head_dim)
            future = torch.ones(last - first, end, dtype=torch.bool).triu(begin + 1)
            share = scores.masked_fill(future, -math.inf).softmax(-1)
            mixed.append(torch.einsum("hqk,khd->qhd", share, values).reshape(last - first, -1))
            first = last
        return linear(torch.cat(mixed), self.weights[f"{prefix}self_attn.o_proj.weight"])

    def rows(self, parts, progress=lambda _done, _total: None) -> torch.Tensor:
        arch, weights = self.arch, self.weights
        place = [
            torch.arange(cache.length, cache.length + len(tokens), dtype=torch.float64)
            for cache, tokens in parts
        ]
        angle = torch.outer(torch.cat(place), self.frequencies)
        tokens = torch.tensor([token for _, tokens in parts for token in tokens])
        x = embed(tokens, weights[EMBEDDING])
        for layer in range(arch.layers):
            prefix = f"model.layers.{layer}."
            before = norm(x, weights[f"{prefix}input_layernorm.weight"], arch.norm_eps)
            x = x + self._attention(layer, before, prefix, parts, angle)
            after = norm(x, weights[f"{prefix}post_attention_layernorm.weight"], arch.norm_eps)
            gate = linear(after, weights[f"{prefix}mlp.gate_proj.weight"])
            up = linear(after, weights[f"{prefix}mlp.up_proj.weight"])
            down = weights[f"{prefix}mlp.down_proj.weight"]
            x = x + unit_linear(gate * torch.sigmoid(gate) * up, down)
            progress(layer + 1, arch.layers + 1)
        for cache, fed in parts:
            cache.length += len(fed)
        return x

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """fp64 logits after the tokens that gave `rows`."""
        return linear(norm(rows, self.weights[FINAL_NORM], self.arch.norm_eps), self.weights[HEAD])

    def feed(self, parts) -> torch.Tensor:
        """Logits after the last token of each part."""
        last = torch.tensor([len(tokens) for _, tokens in parts]).cumsum(0) - 1
        return self.logits(self.rows(parts)[last])
