"""What the eager quantized model has at every boundary of the program: recorded at export.

The engine writes these values over its own at each boundary, so that every block is judged on the
same input, and nothing that one block errs is amplified by the next.

**Invariant:** values at boundaries are fp32, as the program has them; inside a block sums run in fp64.
**Invariant:** the size of a block's own quantization noise is recorded beside each value, so that a
bound on what may differ needs no figure from the model at hand.
"""

import torch

from .blocks import Blocks
from .protocol import Architecture
from .quantize import Weight
from .reference import check_logits, linear

# Runs with a relative noise of a few fp32 roundings on what goes into every matrix: as far apart as
# two correct implementations are.
FLOOR_RUNS, FLOOR_NOISE, FLOOR_SEED = 2, 3e-7, 20261
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
    """A linear for several copies of a sequence: the first is left alone, the others get noise."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.generator = torch.Generator().manual_seed(FLOOR_SEED)

    def __call__(self, x: torch.Tensor, weight: Weight) -> torch.Tensor:
        noise = torch.randn(x.shape, generator=self.generator, dtype=torch.float64) * FLOOR_NOISE
        noise[: self.tokens] = 0.0
        return linear(x * (1.0 + noise), weight)


def _exact(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    return linear(x, weight, exact=True)


class Recorder:
    def __init__(self, arch: Architecture, weights: dict[str, Weight], tokens: list[int]) -> None:
        self.arch, self.count, self.copies = arch, len(tokens), 1 + FLOOR_RUNS
        self.tokens = tokens
        self.noisy = _Noisy(self.count)
        self.blocks = Blocks(arch, weights, self.noisy)
        self.exact = Blocks(arch, weights, _exact)
        self.kept: dict[str, list[torch.Tensor]] = {}

    def _keep(self, name: str, value: torch.Tensor) -> None:
        self.kept.setdefault(name, []).append(value[: self.count].reshape(self.count, -1).float())

    def _noise(self, name: str, got, want) -> None:
        self.kept.setdefault(f"{name}_noise", []).append(_size(got - want))

    def _layer(self, layer: int, x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        """`x` holds all copies, one after the other."""
        count = self.count
        values = self.blocks.qkv(layer, x, angle.repeat(self.copies, 1))
        exact = self.exact.qkv(layer, x[:count], angle)
        for name, got, want in zip(("query", "key", "value"), values, exact, strict=True):
            self._keep(name, got)
            self._noise(name, got[:count], want)
        q, k, v = (_rounded(value).split(count) for value in values)
        mixed = [self.blocks.attend(*copy) for copy in zip(q, k, v, strict=True)]
        y = torch.cat(mixed)
        self._keep("attention", y)
        return _rounded(y)

    def record(self, calls: list[int], progress) -> dict[str, torch.Tensor]:
        layers, count = self.arch.layers, self.count
        angle = self.blocks.angles(0, count)
        x = self.blocks.embed(self.tokens)
        self._noise("residual", x, x)
        x = x.repeat(self.copies, 1)
        for layer in range(layers):
            self._keep("residual", x)
            y = self._layer(layer, x, angle)
            last = layer + 1 == layers
            if last:
                rows = self._logit_rows(calls)
                picked = torch.cat([rows + copy * count for copy in range(self.copies)])
                x, y = x[picked], y[picked]
                self.noisy.tokens = count = len(rows)
            following = self.blocks.out(layer, x, y)
            exact = self.exact.out(layer, x[:count], y[:count])
            if not last:
                self._noise("residual", following[:count], exact)
                following = _rounded(following)
            x = following
            progress(layer + 1, layers + 1)
        logits = self.blocks.logits(x)
        found = {name: torch.stack(parts) for name, parts in self.kept.items()}
        found["logit_rows"] = rows
        found["logits_noise"] = _size(logits[: len(rows)] - self.exact.logits(exact))
        found["logits"], found["floor"] = logits[: len(rows)].float(), _floor(logits, len(rows))
        check_logits(found["logits"])
        return found

    def _logit_rows(self, calls: list[int]) -> torch.Tensor:
        """Ends of calls, and the last tokens."""
        ends = torch.tensor(calls).cumsum(0) - 1
        return torch.cat((ends, torch.arange(max(0, self.count - LOGIT_ROWS), self.count))).unique()


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
    last with its `_noise` [layers, tokens]; `logits` f32 [rows, vocab] follow the tokens
    `logit_rows`; `floor` f32 [2, runs, rows] is how far noisy runs are from the first: KL in nats,
    and the largest difference of a logit.
    """
    tokens, calls = [*prompt, *steps], call_lengths(len(prompt), len(steps))
    found = Recorder(arch, weights, tokens).record(calls, progress)
    return {"tokens": torch.tensor(tokens), "calls": torch.tensor(calls), **found}
