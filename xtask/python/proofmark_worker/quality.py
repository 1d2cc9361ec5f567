"""Text quality: what quantization, export and runtime together cost, token by token.

The unquantized checkpoint in fp32 against the exported file, which another process runs: it
tokenizes the same texts itself and writes the logits after every token to its standard output.
They are compared as they come, over the whole vocabulary; no logits are stored.

The stream: one line of JSON about the file and its runtime, then for each window the number of
its tokens and the tokens (u32, little-endian), and the logits (f32) after each but the last.

**Invariant:** both sides are fed the same tokens, or the measurement ends at the first difference.
**Invariant:** neither side waits for one that has died: this one reads the end of the pipe, the
other one's next write fails.
"""

import contextlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import answers
from .architecture import Architecture
from .fields import Fields, WorkerError

ROWS = 64
LINE_BYTES_MAX = 4096
ENDING_SECONDS = 5.0
# What is recorded: more digits than any figure has meaning, few enough to read.
DIGITS = 9


@dataclass(frozen=True)
class Request:
    model: answers.Model
    window: int
    tokens_max: int
    texts: Path
    engine: tuple[str, ...]
    tokens_file: Path


def parse(value: object) -> Request:
    fields = Fields(value, "request")
    model = answers.parse_model(fields, "quality")
    request = Request(
        model=model,
        window=fields.integer("window", 2, model.seq_len),
        tokens_max=fields.integer("tokens_max", 2),
        texts=fields.path("texts"),
        engine=tuple(fields.typed("engine", list)),
        tokens_file=fields.path("tokens_file"),
    )
    fields.path("response")
    fields.done()
    return request


@dataclass(frozen=True)
class Window:
    """`scored` are the places in `tokens` whose probability counts, none of them the first."""

    id: str
    tokens: list[int]
    scored: list[int]


def windows(path: Path, writer, bos: int, size: int, tokens_max: int) -> list[Window]:
    """Texts begin with the token that begins a text and are cut into windows; conversations are as
    the template writes them, cut at the window's end; only what the assistant says is scored."""
    found, total = [], 0
    for line in path.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        if "text" in item:
            ids = writer.tokenizer.encode(item["text"], add_special_tokens=False).ids
            pieces = [[bos, *ids[at : at + size - 1]] for at in range(0, len(ids), size - 1)]
            made = [(piece, list(range(1, len(piece)))) for piece in pieces]
        else:
            text = writer.text(item["messages"])
            made = [(text.tokens[:size], [at for at in text.scored if 0 < at < size])]
        for number, (tokens, scored) in enumerate(made):
            if total + len(tokens) > tokens_max:
                return found
            found.append(Window(f"{item['id']}/{number}", tokens, scored))
            total += len(tokens)
    return found


class Stream:
    """The other process, frame by frame."""

    def __init__(self, arguments: tuple[str, ...], vocab: int) -> None:
        self.vocab = vocab
        self.process = subprocess.Popen(  # noqa: S603
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        line = self.process.stdout.readline(LINE_BYTES_MAX)
        try:
            self.about = json.loads(line)
        except ValueError as cause:
            raise self._ended("before its first line") from cause

    def _ended(self, when: str) -> WorkerError:
        # One that closed its output is about to end; its own code says more than that of a kill.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDING_SECONDS)
        self.kill()
        code = self.process.returncode
        return WorkerError("engine", f"the engine ended {when}, with code {code}", "see the log")

    def _read(self, dtype: str, count: int, when: str):
        import numpy as np

        size = count * np.dtype(dtype).itemsize
        raw = self.process.stdout.read(size)
        if len(raw) < size:
            raise self._ended(when)
        # A copy: torch wants memory that may be written.
        return np.frombuffer(raw, dtype=dtype).copy()

    def open(self, window: Window) -> None:
        count = int(self._read("<u4", 1, f"before text {window.id}")[0])
        if count > 1 << 20:
            raise self._ended(f"with a text {window.id} of {count} tokens")
        tokens = self._read("<u4", count, f"in text {window.id}").tolist()
        if tokens == window.tokens:
            return
        pairs = enumerate(zip(tokens, window.tokens, strict=False))
        shorter = min(len(tokens), len(window.tokens))
        place = next((at for at, (a, b) in pairs if a != b), shorter)
        self.kill()
        raise WorkerError(
            "tokens",
            f"text {window.id}: the engine's tokens differ from place {place} on: got "
            f"{tokens[place : place + 4]}, expected {window.tokens[place : place + 4]}",
            "the tokenizer or the chat template is read differently by the app",
        )

    def rows(self, count: int, window: Window):
        import torch

        values = self._read("<f4", count * self.vocab, f"in text {window.id}")
        return torch.from_numpy(values).view(count, self.vocab)

    def close(self) -> None:
        extra = self.process.stdout.read(1)
        if extra or self.process.wait() != 0:
            raise self._ended("with more than was asked for" if extra else "after the last text")

    def kill(self) -> None:
        self.process.kill()
        self.process.stdout.close()
        self.process.wait()


def compare(want, got, targets) -> dict[str, list]:
    """Of each row: likelihood of the target under both, KL over the whole vocabulary, same best."""
    import torch

    p, q = want.double().log_softmax(-1), got.double().log_softmax(-1)
    picked = torch.tensor(targets).unsqueeze(1)
    return {
        "nll_fp32": (-p.gather(1, picked)[:, 0]).tolist(),
        "nll": (-q.gather(1, picked)[:, 0]).tolist(),
        # Rounding can leave a sum of a few -1e-17 for equal rows.
        "kl": (p.exp() * (p - q)).sum(-1).clamp(min=0.0).tolist(),
        "same_top": (want.argmax(-1) == got.argmax(-1)).int().tolist(),
    }


def score(window: Window, want, stream: Stream) -> dict[str, list]:
    found: dict[str, list] = {"nll_fp32": [], "nll": [], "kl": [], "same_top": []}
    stream.open(window)
    scored, last = set(window.scored), len(window.tokens) - 1
    for first in range(0, last, ROWS):
        count = min(ROWS, last - first)
        got = stream.rows(count, window)
        if not got.isfinite().all():
            raise WorkerError("engine", f"text {window.id}: got logits that are not finite")
        kept = [at for at in range(count) if first + at + 1 in scored]
        if kept:
            targets = [window.tokens[first + at + 1] for at in kept]
            rows = compare(want[[first + at for at in kept]], got[kept], targets)
            for name, values in rows.items():
                found[name] += values
    return found


def summed(window: Window, rows: dict[str, list]) -> dict:
    total = {name: sum(values) for name, values in rows.items()}
    return {
        "id": window.id,
        "scored": len(rows["kl"]),
        **{name: float(f"{total[name]:.{DIGITS}g}") for name in ("nll_fp32", "nll", "kl")},
        "same_top": total["same_top"],
    }


def run(value: object, stages) -> dict:
    request = parse(value)
    source, files, writer = answers.opened(request.model, stages)
    found = windows(request.texts, writer, request.model.bos_id, request.window, request.tokens_max)
    if not any(window.scored for window in found):
        raise WorkerError("texts", f"{request.texts}: no token to score")
    architecture: Architecture = request.model.architecture
    with stages.stage("reference"):
        from . import single

        texts = [window.tokens for window in found]
        wanted = single.logits(architecture, source, texts, progress=stages.progress)
        first = next(wanted)
    summaries = []
    with stages.stage("check"):
        arguments = (*request.engine, "--windows", str(len(found)))
        stream = Stream(arguments, architecture.vocab)
        try:
            with request.tokens_file.open("w", encoding="utf-8") as file:
                for number, window in enumerate(found):
                    rows = score(window, next(wanted) if number else first, stream)
                    summaries.append(summed(window, rows))
                    line = {"id": window.id, "tokens": window.tokens, **_rounded(rows)}
                    file.write(json.dumps(line, separators=(",", ":")) + "\n")
                    stages.progress(number + 1, len(found))
            stream.close()
        finally:
            stream.kill()
    source.finish()
    return {"source_files": files, "engine": stream.about, "windows": summaries}


def _rounded(rows: dict[str, list]) -> dict[str, list]:
    return {name: [float(f"{x:.6g}") for x in values] for name, values in rows.items()}
