"""The eager model in blocks, cut where the exported graph is cut: around attention.

What lies between two attention calls is one delegate of the program. Here it is two functions,
`out` of one layer and `qkv` of the next, so that each can be run on an input of its own.

**Invariant:** this is the only place that says what a layer computes; the whole eager model and the
block-by-block reference are both made of these functions.
"""

import math

import torch

from .architecture import GELU, Architecture
from .quantize import Weight
from .reference import embed, linear, norm, unit_size
from .tensors import (
    AFTER_ATTENTION,
    AFTER_FFN,
    BEFORE_ATTENTION,
    BEFORE_FFN,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    KEY_NORM,
    QUERY_NORM,
)
from .turns import Turns


class Blocks:
    """`linear(x, weight)` is how matrices are applied; all tensors are fp64, rows are tokens."""

    def __init__(self, arch: Architecture, weights: dict[str, Weight], linear=linear) -> None:
        self.arch, self.weights, self.linear = arch, weights, linear
        self.turns = Turns(arch)

    def angles(self, begin: int, count: int) -> torch.Tensor:
        """Of the positions from `begin` on: [count, pairs of all kinds]."""
        return self.turns.angles(begin, count)

    def embed(self, tokens: list[int]) -> torch.Tensor:
        return embed(torch.tensor(tokens), self.weights[EMBEDDING])

    def _normed(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return norm(x, self.weights[name], self.arch.norm_eps)

    def qkv(self, layer: int, x: torch.Tensor, angle: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Residual to rotated query and key, and value: each [n, heads, head_dim]."""
        prefix = f"model.layers.{layer}."
        h = self._normed(x, f"{prefix}{BEFORE_ATTENTION}.weight")
        q, k, v = (self._heads(h, f"{prefix}self_attn.{name}_proj") for name in "qkv")
        if self.arch.qk_norm:
            q = self._normed(q, f"{prefix}{QUERY_NORM}.weight")
            k = self._normed(k, f"{prefix}{KEY_NORM}.weight")
        return self.turns.turn(layer, q, angle), self.turns.turn(layer, k, angle), v

    def _heads(self, h: torch.Tensor, name: str) -> torch.Tensor:
        found = self.linear(h, self.weights[f"{name}.weight"])
        if self.arch.qkv_bias:
            found = found + self.weights[f"{name}.bias"].data.double()
        return found.view(h.shape[0], -1, self.arch.head_dim)

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
        mixed = self.linear(y, weights[f"{prefix}self_attn.o_proj.weight"])
        if self.arch.post_norms:
            mixed = self._normed(mixed, f"{prefix}{AFTER_ATTENTION}.weight")
        x = x + mixed
        h = self._normed(x, f"{prefix}{BEFORE_FFN}.weight")
        gate = self.linear(h, weights[f"{prefix}mlp.gate_proj.weight"])
        up = self.linear(h, weights[f"{prefix}mlp.up_proj.weight"])
        h, down = self._bent(gate) * up, weights[f"{prefix}mlp.down_proj.weight"]
        size = unit_size(h, down)
        fed = self.linear(h / size, down) * size
        if self.arch.post_norms:
            fed = self._normed(fed, f"{prefix}{AFTER_FFN}.weight")
        return x + fed

    def _bent(self, gate: torch.Tensor) -> torch.Tensor:
        if self.arch.activation == GELU:
            inner = math.sqrt(2.0 / math.pi) * (gate + 0.044715 * gate**3)
            return 0.5 * gate * (1.0 + torch.tanh(inner))
        return gate * torch.sigmoid(gate)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Residual after the last layer to logits."""
        return self.linear(self._normed(x, FINAL_NORM), self.weights[HEAD])
