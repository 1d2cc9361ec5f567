"""From a checkpoint to the weights that ship: rotate, or calibrate and fold; then quantize.

**Invariant:** the export and the eager model that it is compared with get their weights here, so
that both have the same ones.
"""

import math
from pathlib import Path

import torch

from . import calibrate, gptq, smooth
from .fields import WorkerError
from .quantize import Weight, quantize
from .rotation import Rotated
from .scheme import Scheme
from .tensors import parameters


class Finite:
    """A source whose every value that is read is a finite number, whoever reads it first."""

    def __init__(self, source) -> None:
        self.source = source

    def rows(self, name: str, first: int, last: int) -> torch.Tensor:
        data = self.source.rows(name, first, last)
        low, high = (value.item() for value in torch.aminmax(data))
        # A value that is not a number makes both ends one.
        if not (math.isfinite(low) and math.isfinite(high)):
            raise WorkerError("weights", f"{name}: has a value that is not finite")
        return data

    def finish(self) -> None:
        self.source.finish()


def prepared(
    source, model, schemes: dict[str, Scheme], work_dir: Path, stages
) -> tuple[dict[str, Weight], dict[str, Path]]:
    """All weights by name, and their files by digest.

    `model` says `architecture`, `tokenizer`, `seq_len`, `bos_id` and `threads`.
    """
    source, seen, tokens = Finite(source), None, None
    quantizes = any(scheme.bits for scheme in schemes.values())
    rotated = any(scheme.rotated for scheme in schemes.values())
    if quantizes:
        with stages.stage("calibrate"):
            tokens = calibrate.windows(model, parameters(model.architecture))
            if not rotated:
                seen = calibrate.look(source, model, tokens, stages.progress)

    def layers(quantizer) -> dict[str, Weight]:
        rounding = gptq.Rounding(quantizer, schemes, model, tokens.shape[1])
        rounding.run(tokens, lambda _done, _total: None)
        return rounding.weights

    with stages.stage("quantize"):
        if rotated:
            folded = Rotated(source, model.architecture, work_dir)
        else:
            folded = smooth.fold(source, model.architecture, schemes, seen)
        found = quantize(
            folded,
            model.architecture,
            schemes,
            work_dir,
            threads=model.threads,
            progress=stages.progress,
            layers=layers if quantizes else None,
        )
        source.finish()
    return found
