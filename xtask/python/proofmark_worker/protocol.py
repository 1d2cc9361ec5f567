"""The wire: request, events and response. `schemas/worker-request.json` describes the requests.

**Invariant:** an unknown, missing or wrongly typed request key is an error, never a default.
**Invariant:** a response is complete or absent: temporary sibling, fsync, rename.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from . import PROTOCOL
from .architecture import Architecture, parse_architecture
from .fields import Fields, WorkerError, bad
from .scheme import check_form

EVENT_PREFIX = "@proofmark "
REQUEST_BYTES_MAX = 4 << 20

QUANTIZATIONS = ("int8", "int4", "fp32")
# How many int8 rows a linear takes its input in, where the quantization leaves the choice.
ACTIVATIONS = ("rotated", "two-rows", "one-row")
BACKENDS = ("xnnpack", "portable")
SEQ_LEN_MIN, SEQ_LEN_MAX = 8, 1 << 17
THREADS_MAX = 1024


@dataclass(frozen=True)
class Words:
    """What turns conversations into tokens, and how the app renders some of them."""

    tokenizer: Path
    chat_template: Path
    # What the template may print.
    bos_token: str
    eos_token: str
    reference: tuple[dict, ...]


@dataclass(frozen=True)
class Request:
    model: str
    source_dir: Path | None
    source_seed: int | None
    architecture: Architecture
    quantization: str
    activations: str
    seq_len: int
    backend: str
    bos_id: int
    eos_ids: tuple[int, ...]
    expected_partitions: int | None
    expected_delegated_linears: int | None
    file_bytes_min: int
    file_bytes_max: int
    threads: int
    work_dir: Path
    pte: Path
    reference: Path
    response: Path
    reference_prompt: tuple[int, ...]
    reference_decode: tuple[int, ...]
    # Absent for random weights, which have no tokenizer.
    words: Words | None

    @property
    def tokenizer(self) -> Path | None:
        """What turns the calibration text into tokens; random ones without it."""
        return self.words.tokenizer if self.words else None


def _words(value: object) -> Words | None:
    if value is None:
        return None
    fields = Fields(value, "words")
    found = Words(
        tokenizer=fields.path("tokenizer"),
        chat_template=fields.path("chat_template"),
        bos_token=fields.typed("bos_token", str),
        eos_token=fields.typed("eos_token", str),
        reference=tuple(_prompt(it) for it in fields.typed("reference", list)),
    )
    fields.done()
    return found


def _prompt(value: object) -> dict:
    fields = Fields(value, "words.reference")
    found = {
        "messages": fields.typed("messages", list),
        "add_generation_prompt": fields.typed("add_generation_prompt", bool),
        "prompt": fields.typed("prompt", str),
    }
    fields.done()
    return found


def read_source(fields: Fields) -> tuple[Path | None, int | None]:
    """Directory of a checkpoint, or seed of random weights."""
    source = Fields(fields.raw("source"), "source")
    kind = source.choice("kind", ("safetensors", "random"))
    folder = source.path("dir") if kind == "safetensors" else None
    seed = source.count("seed") if kind == "random" else None
    source.done()
    return folder, seed


def read_seq_len(fields: Fields, arch: Architecture) -> int:
    found = fields.integer("seq_len", SEQ_LEN_MIN, SEQ_LEN_MAX)
    if arch.window is not None and found > arch.window:
        raise WorkerError(
            "request",
            f"{fields.where}.seq_len: got {found}, expected at most architecture.window "
            f"{arch.window}",
            "windows shorter than the text are not implemented: lower seq_len in the recipe",
        )
    return found


def parse_request(value: object) -> Request:
    fields = Fields(value, "request")
    version = fields.raw("protocol")
    if version != PROTOCOL or type(version) is not int:
        raise bad(f"request.protocol: got {version!r}, expected {PROTOCOL}")
    source_dir, source_seed = read_source(fields)
    architecture = parse_architecture(fields.raw("architecture"))
    vocab = architecture.vocab
    request = Request(
        model=fields.text("model"),
        source_dir=source_dir,
        source_seed=source_seed,
        architecture=architecture,
        quantization=fields.choice("quantization", QUANTIZATIONS),
        activations=fields.choice("activations", ACTIVATIONS),
        seq_len=read_seq_len(fields, architecture),
        backend=fields.choice("backend", BACKENDS),
        bos_id=fields.integer("bos_id", 0, vocab - 1),
        eos_ids=fields.tokens("eos_ids", vocab, 1),
        expected_partitions=fields.optional("expected_partitions", fields.count),
        expected_delegated_linears=fields.optional("expected_delegated_linears", fields.count),
        file_bytes_min=fields.integer("file_bytes_min", 1),
        file_bytes_max=fields.integer("file_bytes_max", 1),
        threads=fields.integer("threads", 1, THREADS_MAX),
        work_dir=fields.path("work_dir"),
        pte=fields.path("pte"),
        reference=fields.path("reference"),
        response=fields.path("response"),
        reference_prompt=fields.tokens("reference_prompt", vocab, 1),
        reference_decode=fields.tokens("reference_decode", vocab, 0),
        words=_words(fields.raw("words")),
    )
    fields.done()
    check_form(architecture, request.quantization, request.activations)
    positions = len(request.reference_prompt) + len(request.reference_decode)
    if positions > request.seq_len:
        raise bad(f"reference: got {positions} tokens, expected at most seq_len {request.seq_len}")
    if request.backend == "portable" and request.quantization != "fp32":
        raise WorkerError(
            "request",
            f"backend portable: got quantization {request.quantization}, expected fp32",
            "the portable kernels have no quantized linear; use backend xnnpack",
        )
    return request


def read_request(path: Path) -> object:
    with path.open("rb") as file:
        raw = file.read(REQUEST_BYTES_MAX + 1)
    if len(raw) > REQUEST_BYTES_MAX:
        raise bad(f"{path}: larger than {REQUEST_BYTES_MAX} bytes")
    try:
        return json.loads(raw)
    except ValueError as cause:
        raise bad(f"{path}: not json: {cause}") from cause


def emit(event: dict) -> None:
    line = EVENT_PREFIX + json.dumps(event, separators=(",", ":"))
    # One write per line: the pipe is shared with whatever upstream libraries print.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def publish(path: Path, write) -> None:
    """Calls `write(file)` on a temporary sibling, makes it durable, then renames it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink(missing_ok=True)


def write_response(path: Path, response: dict) -> None:
    body = json.dumps({"protocol": PROTOCOL, **response}, indent=1).encode() + b"\n"
    publish(path, lambda file: file.write(body))
