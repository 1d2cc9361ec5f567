"""The eager model answers: the other half of every paired test.

All prompts of a run grow side by side, one token each per step, so that a step reads the weights
once. Sampling is the engine's (same generator, same seed, fp32), so that where both models have
the same logits they choose the same token.

**Invariant:** a reply is the model's alone: no stop word, no repetition penalty, no retry.
"""

from dataclasses import dataclass
from pathlib import Path

from . import scheme
from .architecture import Architecture, parse_architecture
from .checkpoint import RandomSource, SafetensorsSource
from .fields import Fields, WorkerError
from .protocol import (
    ACTIVATIONS,
    PROTOCOL,
    QUANTIZATIONS,
    SEQ_LEN_MAX,
    THREADS_MAX,
    read_seq_len,
    read_source,
)
from .tensors import demanded

PREFILL_PROMPTS = 16
MASK = (1 << 64) - 1


class SplitMix64:
    """Sebastiano Vigna's generator, as in the engine."""

    def __init__(self, seed: int) -> None:
        self.state = seed & MASK

    def unit(self):
        import numpy as np

        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return np.float32((z ^ (z >> 31)) >> 40) * np.float32(2.0**-24)


def choose(logits, temperature: float, random: SplitMix64) -> int:
    """`logits` is fp32. Of equals the first is the best, as in the engine."""
    import numpy as np

    best = int(logits.argmax())
    if temperature <= 0.0:
        return best
    scale = np.float32(1.0) / np.float32(temperature)
    total = np.exp((logits - logits[best]) * scale, dtype=np.float32).cumsum(dtype=np.float32)
    chosen = int(np.searchsorted(total, random.unit() * total[-1], side="right"))
    return min(chosen, len(logits) - 1)


@dataclass(frozen=True)
class Run:
    name: str
    quantization: str
    activations: str
    temperature: float
    seed: int
    tokens_max: int
    prompts: tuple[dict, ...]


@dataclass(frozen=True)
class Model:
    """A checkpoint and how it reads and writes: what every question to it begins with."""

    source_dir: Path | None
    source_seed: int | None
    architecture: Architecture
    seq_len: int
    bos_id: int
    eos_ids: tuple[int, ...]
    tokenizer: Path
    chat_template: Path
    threads: int
    work_dir: Path


@dataclass(frozen=True)
class Request:
    model: Model
    runs: tuple[Run, ...]


def _run(value: object) -> Run:
    fields = Fields(value, "run")
    run = Run(
        name=fields.text("name"),
        quantization=fields.choice("quantization", QUANTIZATIONS),
        activations=fields.choice("activations", ACTIVATIONS),
        temperature=fields.typed("temperature", float),
        seed=fields.count("seed"),
        tokens_max=fields.integer("tokens_max", 1, SEQ_LEN_MAX),
        prompts=tuple(fields.typed("prompts", list)),
    )
    fields.done()
    return run


def parse_model(fields: Fields, task: str) -> Model:
    fields.integer("protocol", PROTOCOL, PROTOCOL)
    fields.choice("task", (task,))
    source_dir, source_seed = read_source(fields)
    architecture = parse_architecture(fields.raw("architecture"))
    return Model(
        source_dir=source_dir,
        source_seed=source_seed,
        architecture=architecture,
        seq_len=read_seq_len(fields, architecture),
        bos_id=fields.integer("bos_id", 0, architecture.vocab - 1),
        eos_ids=fields.tokens("eos_ids", architecture.vocab, 1),
        tokenizer=fields.path("tokenizer"),
        chat_template=fields.path("chat_template"),
        threads=fields.integer("threads", 1, THREADS_MAX),
        work_dir=fields.path("work_dir"),
    )


def parse(value: object) -> Request:
    fields = Fields(value, "request")
    request = Request(
        model=parse_model(fields, "answers"),
        runs=tuple(_run(run) for run in fields.typed("runs", list)),
    )
    fields.path("response")
    fields.done()
    return request


def opened(model: Model, stages) -> tuple:
    """The checkpoint, the digests of its files, and what reads and writes for it."""
    with stages.stage("preflight"):
        if model.source_dir is None:
            source = RandomSource(model.source_seed, model.architecture)
        else:
            source = SafetensorsSource(model.source_dir, model.architecture)
    with stages.stage("digest"):
        files = source.digest(stages.progress)
    with stages.stage("import"):
        import torch

        torch.set_grad_enabled(False)
        torch.set_num_threads(model.threads)
        from . import texts
    writer = texts.Writer(model.tokenizer, model.chat_template, model.bos_id, model.eos_ids[0])
    return source, files, writer


@dataclass
class _Growing:
    """A prompt and its reply so far."""

    id: str
    prompt: list[int]
    random: SplitMix64
    cache: object = None
    tokens: list[int] | None = None
    finished: bool = False


def _starts(run: Run, writer, window: int) -> list[_Growing]:
    found = []
    for index, item in enumerate(run.prompts):
        tokens = writer.encode(item["messages"], True)
        room = min(run.tokens_max, window // 4)
        if len(tokens) + room > window:
            raise WorkerError(
                "prompts",
                f"{run.name}: {item['id']}: got {len(tokens)} tokens, "
                f"expected at most {window - room}",
            )
        found.append(_Growing(item["id"], tokens, SplitMix64(run.seed + index), tokens=[]))
    return found


def answer(model, run: Run, writer, eos_ids, window: int, *, progress) -> list[dict]:
    """Replies in the order of the prompts."""
    prompts = _starts(run, writer, window)
    growing: list[_Growing] = []
    vocabulary = writer.rows()

    def take(some: list[_Growing], logits) -> None:
        for one, row in zip(some, logits.float().numpy(), strict=True):
            token = choose(row[:vocabulary], run.temperature, one.random)
            one.finished = token in eos_ids
            if not one.finished:
                one.tokens.append(token)
            # The last token that fits needs no step of its own: nobody reads what follows it.
            most = min(run.tokens_max, window - len(one.prompt) + 1)
            if one.finished or len(one.tokens) >= most:
                one.cache = None
            else:
                growing.append(one)

    for begin in range(0, len(prompts), PREFILL_PROMPTS):
        some = prompts[begin : begin + PREFILL_PROMPTS]
        for one in some:
            one.cache = model.cache(min(window, len(one.prompt) + run.tokens_max))
        take(some, model.feed([(one.cache, one.prompt) for one in some]))
    while growing:
        progress(len(prompts) - len(growing), len(prompts))
        some, growing = growing, []
        take(some, model.feed([(one.cache, one.tokens[-1:]) for one in some]))
    progress(len(prompts), len(prompts))
    specials = writer.specials()
    return [
        {
            "id": one.id,
            "text": writer.decode(one.tokens),
            "finished": one.finished,
            "tokens": len(one.tokens),
            "special": sum(token in specials for token in one.tokens),
            "prompt_tokens": len(one.prompt),
            "forgotten": 0,
        }
        for one in prompts
    ]


def run(value: object, stages) -> dict:
    request = parse(value)
    source, files, writer = opened(request.model, stages)
    from . import eager

    model = request.model
    model.work_dir.mkdir(parents=True, exist_ok=True)
    models, answers = {}, {}
    for run in request.runs:
        if run.quantization not in models:
            found = _weights(source, model, run, stages)
            models[run.quantization] = eager.Eager(model.architecture, found)
        with stages.stage("reference"):
            asked, eos = models[run.quantization], set(model.eos_ids)
            answers[run.name] = answer(
                asked, run, writer, eos, model.seq_len, progress=stages.progress
            )
    source.finish()
    return {"source_files": files, "answers": answers}


def _weights(source, model: Model, run: Run, stages) -> dict:
    from . import eager, weights

    if run.quantization == "fp32":
        return eager.unquantized(source, demanded(model.architecture))
    schemes = scheme.schemes(run.quantization, run.activations)
    return weights.prepared(source, model, schemes, model.work_dir, stages)[0]
