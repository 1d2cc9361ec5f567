"""What the eager quantized model has at every boundary of the program: recorded at export.

The engine writes these values over its own at each boundary, so that every block is judged on the
same input, and nothing that one block errs is amplified by the next.

**Invariant:** values at boundaries are fp32, as the program has them; inside a block sums run in
fp64.
**Invariant:** beside each value stand two sizes of the block that made it, on the same input: what
quantization changes, and what fp32 rounding changes. So a bound on what may differ needs no figure
from the model at hand. A block is a delegate: from one attention call to the next.
"""

import torch

from .architecture import Architecture
from .blocks import Blocks
from .quantize import Weight
from .reference import check_logits, linear
from .rows import SHIFT

# Copies with a relative noise on what goes into every matrix: as far apart as two correct
# implementations are. XNNPACK's own tests let sigmoid and inverse square root err by more.
FLOOR_NOISE, FLOOR_SEED = 1e-6, 20261
# Of the whole model, and of each block on its own input.
FLOOR_RUNS, BLOCK_RUNS = 2, 3
# Logits are compared at so many of the last tokens.
LOGIT_ROWS = 16
# The first of the two calls that feed the prompt takes this share of it.
FIRST_CALL = (5, 8)


def call_lengths(prompt: int, steps: int) -> list[int]:
    """The prompt in two calls, so that a position lies past the end of one, then single steps."""
    first = max(1, prompt * FIRST_CALL[0] // FIRST_CALL[1])
    return [part for part in (first, prompt - first) if part] + [1] * steps


def _rounded(x: torch.Tensor) -> torch.Tensor:
    return x.float().double()


def _size(x: torch.Tensor) -> torch.Tensor:
    """Of each token: its norm over everything else."""
    return x.reshape(x.shape[0], -1).norm(dim=-1).float()


class Copies:
    """How a linear treats the copies of a sequence, one below the other, each `tokens` long.

    Of the whole model there are one that is left alone and `FLOOR_RUNS` with noise. The rest go
    through one block, on the input of the first: one without quantization, and `BLOCK_RUNS` with
    noise.
    """

    WHOLE, ALL = 1 + FLOOR_RUNS, 2 + FLOOR_RUNS + BLOCK_RUNS

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.generator = torch.Generator().manual_seed(FLOOR_SEED)

    def linear(self, x: torch.Tensor, weight: Weight) -> torch.Tensor:
        exact = slice(self.WHOLE * self.tokens, (self.WHOLE + 1) * self.tokens)
        out = linear(x * (1.0 + self._noise(x) * FLOOR_NOISE), weight, exact)
        if weight.scheme.rows == 2:
            # The program adds numbers of this size and takes them away again.
            size = SHIFT * weight.scale.squeeze(-1).double() * weight.sums.abs()
            out += self._noise(out) * size * torch.finfo(torch.float32).eps / 2
        return out

    def _noise(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(x.shape, generator=self.generator, dtype=torch.float64)
        for copy in (0, self.WHOLE):
            noise[copy * self.tokens : (copy + 1) * self.tokens] = 0.0
        return noise

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        """Those of the whole model."""
        return x[: self.WHOLE * self.tokens]

    def alone(self, x: torch.Tensor) -> torch.Tensor:
        """Those of the whole model, and the input of the first for each of the others."""
        others = self.ALL - self.WHOLE
        return torch.cat((self.whole(x), x[: self.tokens].repeat(others, *[1] * (x.dim() - 1))))

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The one left alone, the one without quantization, and the noisy ones of one block."""
        found = x.split(self.tokens)
        return found[0], found[self.WHOLE], torch.stack(found[self.WHOLE + 1 :])


class Recorder:
    """All copies of the sequence go through the model one below the other."""

    def __init__(self, arch: Architecture, weights: dict[str, Weight], tokens: list[int]) -> None:
        self.arch, self.count, self.tokens = arch, len(tokens), tokens
        self.copies = Copies(self.count)
        self.blocks = Blocks(arch, weights, self.copies.linear)
        self.kept: dict[str, list[torch.Tensor]] = {}

    def _keep(self, name: str, value: torch.Tensor) -> None:
        value, exact, shaken = self.copies.split(value)
        parts = {
            name: value.reshape(self.count, -1).float(),
            f"{name}_noise": _size(value - exact),
            f"{name}_floor": _spread(value, shaken),
        }
        for key, part in parts.items():
            self.kept.setdefault(key, []).append(part)

    def _attend(self, *values: torch.Tensor) -> torch.Tensor:
        """Nothing in it is quantized: rounding is all that may differ."""
        parts = (_rounded(self.copies.whole(value)).split(self.count) for value in values)
        mixed = torch.cat([self.blocks.attend(*copy) for copy in zip(*parts, strict=True)])
        mixed = _rounded(mixed)
        self.kept.setdefault("attention", []).append(mixed[: self.count].float())
        return mixed

    def _layer(self, layer: int, x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        """Residuals of all copies to the attention of those of the whole model."""
        values = self.blocks.qkv(layer, x, angle.repeat(self.copies.ALL, 1))
        for name, value in (("residual", x), *zip(("query", "key", "value"), values, strict=True)):
            self._keep(name, value)
        return self._attend(*values)

    def record(self, calls: list[int], progress) -> dict[str, torch.Tensor]:
        layers = self.arch.layers
        angle = self.blocks.angles(0, self.count)
        x = self.blocks.embed(self.tokens).repeat(self.copies.ALL, 1)
        for layer in range(layers):
            y = self._layer(layer, x, angle)
            x = self.copies.whole(x)
            if layer + 1 == layers:
                rows = self._logit_rows(calls)
                x, y = (
                    part.unflatten(0, (-1, self.count))[:, rows].flatten(0, 1) for part in (x, y)
                )
                self.copies.tokens = self.count = len(rows)
            x = self.blocks.out(layer, self.copies.alone(x), self.copies.alone(y))
            if layer + 1 < layers:
                self.copies.whole(x).copy_(_rounded(self.copies.whole(x)))
            progress(layer + 1, layers + 1)
        logits = self.blocks.logits(x)
        self._keep("logits", logits)
        found = {name: torch.stack(parts) for name, parts in self.kept.items()}
        for name in ("logits", "logits_noise", "logits_floor"):
            found[name] = found[name][0]
        logits = self.copies.whole(logits)
        found["logit_rows"], found["floor"] = rows, _floor(logits, len(rows))
        check_logits(found["logits"])
        return found

    def _logit_rows(self, calls: list[int]) -> torch.Tensor:
        """Ends of calls, and the last tokens."""
        ends = torch.tensor(calls).cumsum(0) - 1
        return torch.cat((ends, torch.arange(max(0, self.count - LOGIT_ROWS), self.count))).unique()


def _spread(value: torch.Tensor, shaken: torch.Tensor) -> torch.Tensor:
    """Of each token: how far its copies are from it, as a root mean square."""
    apart = [_size(copy - value) for copy in shaken]
    return torch.stack(apart).square().mean(0).sqrt()


def _floor(logits: torch.Tensor, rows: int) -> torch.Tensor:
    """KL divergence of every noisy run from the first, by row, and their largest difference."""
    clean, *others = logits.split(rows)
    logs = clean.log_softmax(-1)
    apart = [(logs.exp() * (logs - other.log_softmax(-1))).sum(-1) for other in others]
    largest = [(clean - other).abs().amax(-1) for other in others]
    return torch.stack((torch.stack(apart).clamp(min=0.0), torch.stack(largest))).float()


def record(
    arch: Architecture,
    weights: dict[str, Weight],
    prompt: list[int],
    steps: list[int],
    *,
    progress=lambda _done, _total: None,
) -> dict[str, torch.Tensor]:
    """Tensors of the reference file.

    `residual`, `query`, `key`, `value`, `attention` are f32 [layers, tokens, width], each but the
    last with its `_noise` and `_floor` [layers, tokens]: what quantization and what fp32 rounding
    change in its block, as norms. `logits` f32 [rows, vocab] follow the tokens `logit_rows` and
    have `logits_noise` and `logits_floor` [rows]. `floor` f32 [2, runs, rows] is how far noisy
    runs of the whole model are from the first: KL in nats, and the largest difference of a logit.
    """
    tokens, calls = [*prompt, *steps], call_lengths(len(prompt), len(steps))
    found = Recorder(arch, weights, tokens).record(calls, progress)
    return {"tokens": torch.tensor(tokens), "calls": torch.tensor(calls), **found}
