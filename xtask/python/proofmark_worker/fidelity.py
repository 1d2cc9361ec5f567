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


class _Noisy:
    """A linear for several copies of a sequence: the first `tokens` rows are left alone, the others
    get noise."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.generator = torch.Generator().manual_seed(FLOOR_SEED)

    def __call__(self, x: torch.Tensor, weight: Weight) -> torch.Tensor:
        out = linear(x * (1.0 + self._noise(x) * FLOOR_NOISE), weight)
        if weight.scheme.rows == 2:
            # The program adds numbers of this size and takes them away again.
            size = SHIFT * weight.scale.squeeze(-1).double() * weight.sums.abs()
            out += self._noise(out) * size * torch.finfo(torch.float32).eps / 2
        return out

    def _noise(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(x.shape, generator=self.generator, dtype=torch.float64)
        noise[: self.tokens] = 0.0
        return noise


def _exact(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    return linear(x, weight, exact=True)


class Recorder:
    """All copies of the sequence go through the model one below the other."""

    def __init__(self, arch: Architecture, weights: dict[str, Weight], tokens: list[int]) -> None:
        self.arch, self.count, self.copies = arch, len(tokens), 1 + FLOOR_RUNS
        self.tokens = tokens
        self.noisy = _Noisy(self.count)
        self.blocks = Blocks(arch, weights, self.noisy)
        # These judge one block on the input of the copy that is left alone.
        self.exact = Blocks(arch, weights, _exact)
        self.shaken = Blocks(arch, weights, _Noisy(0))
        self.kept: dict[str, list[torch.Tensor]] = {}

    def _keep(self, name: str, value: torch.Tensor, exact, shaken) -> None:
        """`exact` is the same without quantization, `shaken` are copies of it with rounding."""
        value = value[: self.count]
        parts = {
            name: value.reshape(self.count, -1).float(),
            f"{name}_noise": _size(value - exact),
            f"{name}_floor": _spread(value, shaken),
        }
        for key, part in parts.items():
            self.kept.setdefault(key, []).append(part)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Nothing in it is quantized: rounding is all that may differ."""
        parts = (_rounded(value).split(self.count) for value in (q, k, v))
        mixed = _rounded(
            torch.cat([self.blocks.attend(*copy) for copy in zip(*parts, strict=True)])
        )
        self.kept.setdefault("attention", []).append(mixed[: self.count].float())
        return mixed

    def _layer(self, layer: int, x: torch.Tensor, alone, angle: torch.Tensor) -> torch.Tensor:
        """`alone` are the residuals of the block on its own input: exact, and shaken."""
        values = self.blocks.qkv(layer, x, angle.repeat(self.copies, 1))
        exact = self.exact.qkv(layer, alone[0], angle)
        shaken = self.shaken.qkv(layer, alone[1], angle.repeat(BLOCK_RUNS, 1))
        self._keep("residual", x, *alone)
        for name, *found in zip(("query", "key", "value"), values, exact, shaken, strict=True):
            self._keep(name, *found)
        return self._attend(*values)

    def record(self, calls: list[int], progress) -> dict[str, torch.Tensor]:
        layers = self.arch.layers
        angle = self.blocks.angles(0, self.count)
        x = self.blocks.embed(self.tokens)
        alone = x, x.repeat(BLOCK_RUNS, 1)
        x = x.repeat(self.copies, 1)
        for layer in range(layers):
            y = self._layer(layer, x, alone, angle)
            if layer + 1 == layers:
                rows = self._logit_rows(calls)
                picked = torch.cat([rows + copy * self.count for copy in range(self.copies)])
                x, y = x[picked], y[picked]
                self.noisy.tokens = self.count = len(rows)
            alone = self._out_alone(layer, x, y)
            x = self.blocks.out(layer, x, y)
            if layer + 1 < layers:
                x = _rounded(x)
            progress(layer + 1, layers + 1)
        logits = self.blocks.logits(x)
        self._keep("logits", logits, self.exact.logits(alone[0]), self.shaken.logits(alone[1]))
        found = {name: torch.stack(parts) for name, parts in self.kept.items()}
        for name in ("logits", "logits_noise", "logits_floor"):
            found[name] = found[name][0]
        found["logit_rows"], found["floor"] = rows, _floor(logits, len(rows))
        check_logits(found["logits"])
        return found

    def _out_alone(self, layer: int, x: torch.Tensor, y: torch.Tensor) -> tuple:
        x, y = x[: self.count], y[: self.count]
        runs = (part.repeat(BLOCK_RUNS, 1) for part in (x, y))
        return self.exact.out(layer, x, y), self.shaken.out(layer, *runs)

    def _logit_rows(self, calls: list[int]) -> torch.Tensor:
        """Ends of calls, and the last tokens."""
        ends = torch.tensor(calls).cumsum(0) - 1
        return torch.cat((ends, torch.arange(max(0, self.count - LOGIT_ROWS), self.count))).unique()


def _spread(value: torch.Tensor, shaken: torch.Tensor) -> torch.Tensor:
    """Of each token: how far its copies are from it, as a root mean square."""
    apart = [_size(copy - value) for copy in shaken.split(value.shape[0])]
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
