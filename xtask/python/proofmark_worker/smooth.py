"""Changes that leave the model's function as it is and make it easier to quantize.

A channel that a norm or the `up` projection makes may be divided by a number, if what reads it is
multiplied by the same one. That moves the spread of activations into weights, or back.

**Invariant:** a factor and its inverse meet in one product, so that the changed model differs from
the model by the last bits of fp32 alone; without calibration, by nothing.
**Invariant:** what a norm gives to a linear that takes it in two rows lies within ±127.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from .architecture import Architecture
from .calibrate import Seen
from .rows import step_for
from .scheme import Scheme
from .tensors import BEFORE_ATTENTION, BEFORE_FFN, FINAL_NORM, HEAD

# What reads an input, by the part of the block that makes it.
READERS = {
    BEFORE_ATTENTION: ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    BEFORE_FFN: ("mlp.gate_proj", "mlp.up_proj"),
}


@dataclass
class Folded:
    """A source of weights with factors of rows and columns. Norms have one column."""

    source: object
    rows_by: dict[str, torch.Tensor] = field(default_factory=dict)
    columns_by: dict[str, torch.Tensor] = field(default_factory=dict)
    rotations: dict[str, torch.Tensor] = field(default_factory=dict)
    # Of a head that shares its rows with the embedding.
    head_step: float = 1.0

    def prepare(self, name: str, pool: ThreadPoolExecutor) -> None:
        """Rows do not need each other."""

    def rows(self, name: str, first: int, last: int) -> torch.Tensor:
        data = self.source.rows(name, first, last)
        if name in self.columns_by:
            data = data * self.columns_by[name]
        if name in self.rows_by:
            factor = self.rows_by[name][first:last]
            data = data * (factor.unsqueeze(-1) if data.dim() == 2 else factor)
        return data

    def finish(self) -> None:
        self.source.finish()


def bounded_step(gain: torch.Tensor) -> float:
    """The grid's step for what a norm of this gain gives: no channel exceeds sqrt(n) times it."""
    return step_for(math.sqrt(gain.numel()) * gain.abs().amax().item())


def _norm(folded: Folded, name: str, readers: list[str], factor: torch.Tensor, wide: bool) -> None:
    gain = folded.source.rows(name, 0, factor.numel())
    if wide:
        factor = factor * bounded_step(gain / factor)
    folded.rows_by[name] = 1.0 / factor
    for reader in readers:
        folded.columns_by[reader] = factor


def fold(
    source, arch: Architecture, schemes: dict[str, Scheme], seen: dict[str, Seen] | None
) -> Folded:
    """`seen` None folds no more than the grids of the linears that take two rows."""
    folded = Folded(source)
    for layer in range(arch.layers):
        prefix = f"model.layers.{layer}."
        for norm, parts in READERS.items():
            readers = [f"{prefix}{part}.weight" for part in parts]
            wide = any(schemes[p.split(".")[-1].removesuffix("_proj")].rows == 2 for p in parts)
            factor = torch.ones(arch.dim)
            if seen is not None:
                factor = seen[readers[0]].factor
            _norm(folded, f"{prefix}{norm}.weight", readers, factor, wide)
        if seen is not None:
            down = f"{prefix}mlp.down_proj.weight"
            factor = seen[down].factor
            folded.rows_by[f"{prefix}mlp.up_proj.weight"] = 1.0 / factor
            folded.columns_by[down] = factor
    if schemes["head"].rows == 2:
        _norm(folded, FINAL_NORM, [], torch.ones(arch.dim), wide=True)
        step = 1.0 / folded.rows_by[FINAL_NORM][0].item()
        if arch.tied:
            folded.head_step = step
        else:
            folded.columns_by[HEAD] = torch.full((arch.dim,), step)
    return folded
