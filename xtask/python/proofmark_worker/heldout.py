"""What the eager model says about held-out texts: recorded at export, compared by the engine.

Teacher-forced, before quantization and after it: the probability of every token of the assistant,
and all logits at some places spread over them.

**Invariant:** the amount of text follows from the model's size alone, so that 1B costs tens of
seconds and not hours: tokens times parameters stay below `WORK_MAX`.
**Invariant:** what is recorded lies on a grid much coarser than the rounding of fp64 sums, so that
neither processor nor thread count shows in the file.
"""

import json

import torch

from .eager import Eager, unquantized
from .quantize import Weight
from .texts import Text

WORK_MAX = 1 << 38
TOKENS_MIN, TOKENS_MAX = 192, 4096
ROWS_BYTES_MAX = 2 << 20
ROWS_MIN = 16
HEAD_TOKENS = 64
GRID_QUANTIZED, GRID_FP32 = 2.0**-16, 2.0**-12


def tokens_max(parameters: int) -> int:
    return max(TOKENS_MIN, min(TOKENS_MAX, WORK_MAX // parameters))


def rows_max(vocab: int) -> int:
    return max(ROWS_MIN, ROWS_BYTES_MAX // (4 * vocab))


def spread(scored: list[int], count: int) -> list[int]:
    if len(scored) <= count:
        return scored
    return [scored[index * len(scored) // count] for index in range(count)]


def snap(x: torch.Tensor, grid: float) -> torch.Tensor:
    return ((x / grid).round() * grid).float()


def _evaluate(
    model: Eager, texts: list[Text], places: list[int], keep: set[int], grid, *, progress
):
    """Negative log-likelihood at every place, logits where they are kept."""
    nll, logits, first = [], [], 0
    scored = set(places)
    for number, text in enumerate(texts):
        cache = model.cache(len(text.tokens))
        hidden = model.rows([(cache, text.tokens)])
        wanted = [i for i in range(len(text.tokens) - 1) if first + i in scored]
        for begin in range(0, len(wanted), HEAD_TOKENS):
            chunk = wanted[begin : begin + HEAD_TOKENS]
            rows = model.logits(hidden[torch.tensor(chunk)])
            target = torch.tensor([text.tokens[i + 1] for i in chunk])
            nll.append(torch.nn.functional.cross_entropy(rows, target, reduction="none"))
            kept = [n for n, i in enumerate(chunk) if first + i in keep]
            logits.append(rows[kept])
        first += len(text.tokens)
        progress(number + 1, len(texts))
    return snap(torch.cat(nll), grid), snap(torch.cat(logits), grid)


def record(
    arch, weights: dict[str, Weight], source, tensors, texts: list[Text], *, progress
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata for the reference file. A place is that of the token before."""
    tokens, places = [], []
    for text in texts:
        places += [len(tokens) + place - 1 for place in text.scored if place]
        tokens += text.tokens
    kept = spread(places, rows_max(arch.vocab))
    found = {
        "heldout_tokens": torch.tensor(tokens),
        "heldout_lengths": torch.tensor([len(text.tokens) for text in texts]),
        "heldout_scored": torch.tensor(places),
        "heldout_rows": torch.tensor(kept),
    }
    models = (
        ("", Eager(arch, weights), GRID_QUANTIZED),
        ("_fp32", Eager(arch, unquantized(source, tensors)), GRID_FP32),
    )
    for suffix, model, grid in models:
        nll, logits = _evaluate(model, texts, places, set(kept), grid, progress=progress)
        found[f"heldout_nll{suffix}"], found[f"heldout_logits{suffix}"] = nll, logits
    messages = [text.messages for text in texts]
    return found, {"texts": json.dumps(messages, ensure_ascii=False, separators=(",", ":"))}
