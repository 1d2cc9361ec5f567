"""The eager model in blocks, cut where the exported graph is cut: around attention.

What lies between two attention calls is one delegate of the program. Here it is two functions,
`out` of one layer and `qkv` of the next, so that each can be run on an input of its own.

**Invariant:** this is the only place that says what a layer computes; the whole eager model and the
block-by-block reference are both made of these functions.
"""

import math

import torch

from .checkpoint import EMBEDDING, FINAL_NORM, HEAD
from .protocol import Architecture
from .quantize import Weight
from .reference import embed, frequencies, linear, norm, rotate, unit_size


class Blocks:
    """`linear(x, weight)` is how matrices are applied; all tensors are fp64, rows are tokens."""

    def __init__(self, arch: Architecture, weights: dict[str, Weight], linear=linear) -> None:
        self.arch, self.weights, self.linear = arch, weights, linear
        self.frequencies = torch.tensor(frequencies(arch), dtype=torch.float64)

    def angles(self, begin: int, count: int) -> torch.Tensor:
        """Of the positions from `begin` on: [count, head_dim / 2]."""
        place = torch.arange(begin, begin + count, dtype=torch.float64)
        return torch.outer(place, self.frequencies)

    def embed(self, tokens: list[int]) -> torch.Tensor:
        return embed(torch.tensor(tokens), self.weights[EMBEDDING])

    def _normed(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return norm(x, self.weights[name], self.arch.norm_eps)

    def qkv(self, layer: int, x: torch.Tensor, angle: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Residual to rotated query and key, and value: each [n, heads, head_dim]."""
        prefix = f"model.layers.{layer}."
        h = self._normed(x, f"{prefix}input_layernorm.weight")
        q, k, v = (
            self.linear(h, self.weights[f"{prefix}self_attn.{name}_proj.weight"]).view(
                x.shape[0], -1, self.arch.head_dim
            )
            for name in "qkv"
        )
        return rotate(q, angle), rotate(k, angle), v

    def attend(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """The last tokens of a sequence over all of it, causally: [n, heads * head_dim]."""
        count, end = q.shape[0], keys.shape[0]
        shared = self.arch.heads // self.arch.kv_heads
        keys, values = keys.repeat_interleave(shared, 1), values.repeat_interleave(shared, 1)
        scores = torch.einsum("qhd,khd->hqk", q, keys) / math.sqrt(self.arch.head_dim)
        future = torch.ones(count, end, dtype=torch.bool).triu(end - count + 1)
        share = scores.masked_fill(future, -math.inf).softmax(-1)
        return torch.einsum("hqk,khd->qhd", share, values).reshape(count, -1)

    def out(self, layer: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Residual and attention's output to the next layer's residual."""
        prefix, weights = f"model.layers.{layer}.", self.weights
        x = x + self.linear(y, weights[f"{prefix}self_attn.o_proj.weight"])
        h = self._normed(x, f"{prefix}post_attention_layernorm.weight")
        gate = self.linear(h, weights[f"{prefix}mlp.gate_proj.weight"])
        up = self.linear(h, weights[f"{prefix}mlp.up_proj.weight"])
        h, down = gate * torch.sigmoid(gate) * up, weights[f"{prefix}mlp.down_proj.weight"]
        size = unit_size(h, down)
        return x + self.linear(h / size, down) * size

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Residual after the last layer to logits."""
        return self.linear(self._normed(x, FINAL_NORM), self.weights[HEAD])
