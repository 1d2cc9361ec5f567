"""Rotary positions for the eager model, by other code than the exported graph's (`rope`).

Frequencies one by one, and rope by slices instead of a matrix.
"""

import math

import torch

from .architecture import GLOBAL, LOCAL, UNROTATED, Architecture, Linear, Llama3, LongRope, Yarn

# In this order their angles stand side by side.
TURNED = (GLOBAL, LOCAL)


def frequencies(arch: Architecture, kind: str = GLOBAL) -> list[float]:
    theta = arch.local_rope_theta if kind == LOCAL else arch.rope_theta
    scaling = None if kind == LOCAL else arch.rope_scaling
    found = []
    for pair in range(arch.rotary_dim // 2):
        value = theta ** (-2.0 * pair / arch.rotary_dim)
        if isinstance(scaling, Llama3):
            value = _llama3(value, scaling)
        elif isinstance(scaling, Linear):
            value /= scaling.factor
        elif isinstance(scaling, Yarn):
            value *= _yarn(pair, scaling, arch)
        elif isinstance(scaling, LongRope):
            value /= scaling.short_factor[pair]
        found.append(value)
    return found


def _llama3(value: float, scaling: Llama3) -> float:
    """Keep short waves, stretch long ones, blend in between."""
    turns = scaling.original_max_position * value / (2.0 * math.pi)
    if turns < scaling.low_freq_factor:
        value /= scaling.factor
    elif turns <= scaling.high_freq_factor:
        span = scaling.high_freq_factor - scaling.low_freq_factor
        smooth = (turns - scaling.low_freq_factor) / span
        value = (1.0 - smooth) * value / scaling.factor + smooth * value
    return value


def _yarn(pair: int, scaling: Yarn, arch: Architecture) -> float:
    """What a frequency is multiplied by (arXiv:2309.00071): 1 for many turns, 1/factor for few."""
    ends = []
    for turns in (scaling.beta_fast, scaling.beta_slow):
        # The channel that makes so many turns within the original length.
        waves = math.log(scaling.original_max_position / (turns * 2.0 * math.pi))
        ends.append(arch.rotary_dim * waves / (2.0 * math.log(arch.rope_theta)))
    if scaling.truncate:
        ends = [math.floor(ends[0]), math.ceil(ends[1])]
    low, high = max(ends[0], 0), min(ends[1], arch.rotary_dim - 1)
    if low == high:
        high += 0.001
    stretched = min(1.0, max(0.0, (pair - low) / (high - low)))
    return stretched / scaling.factor + 1.0 - stretched


class Turns:
    """Angles of positions [n, pairs], for each kind of layer side by side."""

    def __init__(self, arch: Architecture) -> None:
        self.arch, self.pairs = arch, arch.rotary_dim // 2
        kinds = {arch.kind(layer) for layer in range(arch.layers)}
        self.kinds = [kind for kind in TURNED if kind in kinds]
        found = [value for kind in self.kinds for value in frequencies(arch, kind)]
        self.frequencies = torch.tensor(found, dtype=torch.float64)

    def angles(self, begin: int, count: int) -> torch.Tensor:
        """Of the positions from `begin` on."""
        place = torch.arange(begin, begin + count, dtype=torch.float64)
        return torch.outer(place, self.frequencies)

    def turn(self, layer: int, x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        """`x` is [n, heads, head_dim], `angle` what `angles` gave for its tokens."""
        kind = self.arch.kind(layer)
        if kind == UNROTATED:
            return x
        first = self.kinds.index(kind) * self.pairs
        scaling, size = self.arch.rope_scaling, 1.0
        if kind == GLOBAL and isinstance(scaling, Yarn | LongRope):
            size = scaling.attention_factor
        turned, rest = x[..., : 2 * self.pairs], x[..., 2 * self.pairs :]
        turned = rotate(turned, angle[:, first : first + self.pairs])
        return torch.cat((turned * size, rest), -1)


def rotate(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """`x` is [tokens, heads, channels]: pairs are (i, i + channels / 2)."""
    first, second = x.chunk(2, -1)
    cos, sin = angle.cos().unsqueeze(1), angle.sin().unsqueeze(1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
