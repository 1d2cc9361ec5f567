"""Multiple choice: which of some answers each model finds likeliest as the first token it says.

The unquantized checkpoint and the exported file are asked the same question in the chat template,
without examples; the answers are letters. What counts is the logit after the prompt, so that no
sampler has a say.

**Invariant:** the letters are told apart by their first token, or there is no measurement.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from . import answers, quality
from .fields import Fields, WorkerError


@dataclass(frozen=True)
class Request:
    model: answers.Model
    window: int
    items: Path
    engine: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    window: quality.Window
    choices: list[int]
    answer: int


def parse(value: object) -> Request:
    fields = Fields(value, "request")
    model = answers.parse_model(fields, "choice")
    request = Request(
        model=model,
        window=fields.integer("window", 2, model.seq_len),
        items=fields.path("texts"),
        engine=tuple(fields.typed("engine", list)),
    )
    fields.path("response")
    fields.done()
    return request


def items(path: Path, writer, size: int) -> list[Item]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        value = json.loads(line)
        prompt = writer.encode(value["messages"], True)
        if len(prompt) > size:
            raise WorkerError(
                "texts", f"{value['id']}: got {len(prompt)} tokens, expected at most {size}"
            )
        found.append(
            Item(
                quality.Window(value["id"], prompt, []),
                [_first(writer, value, prompt, choice) for choice in value["choices"]],
                value["answer"],
            )
        )
        if len(set(found[-1].choices)) < len(found[-1].choices):
            raise WorkerError("tokens", f"{value['id']}: two answers begin with the same token")
    return found


def _first(writer, value: dict, prompt: list[int], choice: str) -> int:
    said = [*value["messages"], {"role": "assistant", "content": choice}]
    whole = writer.encode(said, False)
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        raise WorkerError(
            "template",
            f"{value['id']}: a conversation does not begin as its prompt does",
            "multiple choice needs a template that only appends",
        )
    return whole[len(prompt)]


def best(logits, choices: list[int]) -> int:
    """Of equals the first is the best, as everywhere."""
    return int(logits[choices].argmax())


def run(value: object, stages) -> dict:
    request = parse(value)
    source, files, writer = answers.opened(request.model, stages)
    found = items(request.items, writer, request.window)
    if not found:
        raise WorkerError("texts", f"{request.items}: no item")
    architecture = request.model.architecture
    with stages.stage("reference"):
        from . import single

        prompts = [item.window.tokens for item in found]
        logits = single.logits(architecture, source, prompts, last=True, progress=stages.progress)
        wanted = [best(row[0], item.choices) for row, item in zip(logits, found, strict=True)]
    results = []
    with stages.stage("check"):
        arguments = (*request.engine, "--last", "--windows", str(len(found)))
        stream = quality.Stream(arguments, architecture.vocab)
        try:
            for number, item in enumerate(found):
                stream.open(item.window)
                row = stream.rows(1, item.window)[0]
                if not row.isfinite().all():
                    raise WorkerError(
                        "engine", f"text {item.window.id}: got logits that are not finite"
                    )
                got = best(row, item.choices)
                right = {"fp32": wanted[number] == item.answer, "pte": got == item.answer}
                results.append({"id": item.window.id, **right})
                stages.progress(number + 1, len(found))
            stream.close()
        finally:
            stream.kill()
    source.finish()
    return {"source_files": files, "engine": stream.about, "items": results}
