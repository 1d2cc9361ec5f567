"""Rotary positions for the exported graph: tables, and a rotation that is a matrix.

Channels of a head that are not rotated have a cosine of 1 and a sine of 0. The eager model computes
the same by other code (`reference`).
"""

import math

import torch

from .architecture import LOCAL, Architecture, Linear, Llama3, LongRope, Yarn


def rope_frequencies(arch: Architecture, kind: str) -> torch.Tensor:
    """fp64, one for each rotated pair of channels."""
    exponent = torch.arange(0, arch.rotary_dim, 2, dtype=torch.float64) / arch.rotary_dim
    if kind == LOCAL:
        return 1.0 / arch.local_rope_theta**exponent
    frequency = 1.0 / arch.rope_theta**exponent
    match arch.rope_scaling:
        case None:
            return frequency
        case Llama3() as scaling:
            return _llama3(frequency, scaling)
        case Linear(factor):
            return frequency / factor
        case Yarn() as scaling:
            return _yarn(frequency, scaling, arch)
        case LongRope() as scaling:
            return frequency / torch.tensor(scaling.short_factor, dtype=torch.float64)


def _llama3(frequency: torch.Tensor, scaling: Llama3) -> torch.Tensor:
    wavelength = 2 * torch.pi / frequency
    ramp = (scaling.original_max_position / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    ramp = ramp.clamp(0.0, 1.0)
    return (1.0 - ramp) * frequency / scaling.factor + ramp * frequency


def _yarn(frequency: torch.Tensor, scaling: Yarn, arch: Architecture) -> torch.Tensor:
    """Pairs before `low` are kept, those behind `high` are divided; a ramp lies between."""

    def border(turns: float) -> float:
        wave = scaling.original_max_position / (2 * math.pi * turns)
        return arch.rotary_dim * math.log(wave) / (2 * math.log(arch.rope_theta))

    low, high = border(scaling.beta_fast), border(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, arch.rotary_dim - 1)
    # As published: a ramp of no width would be a division by zero.
    high += 0.001 if low == high else 0.0
    ramp = (torch.arange(len(frequency), dtype=torch.float64) - low) / (high - low)
    ramp = ramp.clamp(0.0, 1.0)
    return frequency / scaling.factor * ramp + frequency * (1.0 - ramp)


def rope_size(arch: Architecture, kind: str) -> float:
    """What rotated channels are multiplied by."""
    scaling = arch.rope_scaling
    scaled = kind != LOCAL and isinstance(scaling, Yarn | LongRope)
    return scaling.attention_factor if scaled else 1.0


def rope_tables(arch: Architecture, seq_len: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, fp32 [seq_len, head_dim]."""
    place = torch.arange(seq_len, dtype=torch.float64)
    angle = torch.outer(place, rope_frequencies(arch, kind))
    angle = torch.cat((angle, angle), -1)
    passes = arch.head_dim - arch.rotary_dim
    size = rope_size(arch, kind)
    cos = torch.nn.functional.pad(angle.cos() * size, (0, passes), value=1.0)
    sin = torch.nn.functional.pad(angle.sin() * size, (0, passes))
    return cos.float(), sin.float()


def half_turn(head_dim: int, rotary_dim: int) -> torch.Tensor:
    """`x @ half_turn.T` is rotate-half of the rotated channels: the second half negated, then the
    first; zeros for the others."""
    half = rotary_dim // 2
    matrix = torch.zeros(head_dim, head_dim)
    matrix[:half, half:rotary_dim] = -torch.eye(half)
    matrix[half:rotary_dim, :half] = torch.eye(half)
    return matrix
