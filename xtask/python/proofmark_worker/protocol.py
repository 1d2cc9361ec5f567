"""The wire: request, events, response, and the one exception that becomes an error response.

**Invariant:** an unknown, missing or wrongly typed request key is an error, never a default.
**Invariant:** a response is complete or absent: temporary sibling, fsync, rename.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from . import PROTOCOL

EVENT_PREFIX = "@proofmark "
REQUEST_BYTES_MAX = 4 << 20

QUANTIZATIONS = ("int8", "int4", "fp32")
# How many int8 rows a linear takes its input in, where the quantization leaves the choice.
ACTIVATIONS = ("rotated", "two-rows", "one-row")
BACKENDS = ("xnnpack", "portable")


class WorkerError(Exception):
    """A failure with a name. `kind` is for the machine, `error` and `hint` are for people."""

    def __init__(self, kind: str, error: str, hint: str | None = None) -> None:
        super().__init__(error)
        self.kind = kind
        self.error = error
        self.hint = hint


@dataclass(frozen=True)
class RopeScaling:
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclass(frozen=True)
class Architecture:
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None


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


def _bad(what: str) -> WorkerError:
    return WorkerError("request", what)


class Fields:
    """Takes typed fields out of a JSON object and complains about what is left over."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise _bad(f"{where}: got {type(value).__name__}, expected an object")
        self.left = dict(value)
        self.where = where

    def raw(self, key: str) -> object:
        if key not in self.left:
            raise _bad(f"{self.where}: missing key {key!r}")
        return self.left.pop(key)

    def typed(self, key: str, kind: type) -> object:
        value = self.raw(key)
        # bool is an int in Python; a JSON integer is a fine float, never the other way round.
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise _bad(f"{self.where}.{key}: got {value!r}, expected {kind.__name__}")
        return value

    def integer(self, key: str, low: int, high: int = 1 << 62) -> int:
        value = self.typed(key, int)
        if not low <= value <= high:
            raise _bad(f"{self.where}.{key}: got {value}, expected {low} to {high}")
        return value

    def optional_integer(self, key: str) -> int | None:
        if key in self.left and self.left[key] is None:
            return self.left.pop(key)
        return self.integer(key, 0)

    def positive(self, key: str) -> float:
        value = self.typed(key, float)
        if not 0.0 < value < 1e12:
            raise _bad(f"{self.where}.{key}: got {value}, expected a positive number")
        return value

    def text(self, key: str) -> str:
        value = self.typed(key, str)
        if not value:
            raise _bad(f"{self.where}.{key}: got an empty string")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in choices:
            raise _bad(f"{self.where}.{key}: got {value!r}, expected one of {', '.join(choices)}")
        return value

    def path(self, key: str) -> Path:
        value = Path(self.text(key))
        if not value.is_absolute():
            raise _bad(f"{self.where}.{key}: got {value}, expected an absolute path")
        return value

    def tokens(self, key: str, vocab: int, least: int) -> tuple[int, ...]:
        value = self.typed(key, list)
        if len(value) < least:
            raise _bad(f"{self.where}.{key}: got {len(value)} tokens, expected at least {least}")
        for token in value:
            if type(token) is not int or not 0 <= token < vocab:
                raise _bad(f"{self.where}.{key}: got {token!r}, expected a token below {vocab}")
        return tuple(value)

    def done(self) -> None:
        if self.left:
            raise _bad(f"{self.where}: unknown key {sorted(self.left)[0]!r}")


def parse_architecture(value: object) -> Architecture:
    fields = Fields(value, "architecture")
    fields.choice("family", ("llama",))
    scaling = fields.raw("rope_scaling")
    if scaling is not None:
        inner = Fields(scaling, "architecture.rope_scaling")
        inner.choice("kind", ("llama3",))
        scaling = RopeScaling(
            factor=inner.positive("factor"),
            low_freq_factor=inner.positive("low_freq_factor"),
            high_freq_factor=inner.positive("high_freq_factor"),
            original_max_position=inner.integer("original_max_position", 1),
        )
        inner.done()
        if scaling.high_freq_factor <= scaling.low_freq_factor:
            raise _bad("architecture.rope_scaling: high_freq_factor must exceed low_freq_factor")
    architecture = Architecture(
        dim=fields.integer("dim", 1, 1 << 16),
        layers=fields.integer("layers", 1, 1024),
        heads=fields.integer("heads", 1, 1024),
        kv_heads=fields.integer("kv_heads", 1, 1024),
        head_dim=fields.integer("head_dim", 2, 1024),
        ffn=fields.integer("ffn", 1, 1 << 18),
        vocab=fields.integer("vocab", 2, 1 << 22),
        tied=fields.typed("tied", bool),
        norm_eps=fields.positive("norm_eps"),
        rope_theta=fields.positive("rope_theta"),
        rope_scaling=scaling,
    )
    fields.done()
    if architecture.heads % architecture.kv_heads:
        raise _bad(
            f"architecture.heads: got {architecture.heads}, expected a multiple of kv_heads "
            f"{architecture.kv_heads}"
        )
    if architecture.head_dim % 2:
        raise _bad(f"architecture.head_dim: got {architecture.head_dim}, expected an even number")
    return architecture


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


def parse_request(value: object) -> Request:
    fields = Fields(value, "request")
    version = fields.raw("protocol")
    if version != PROTOCOL or type(version) is not int:
        raise _bad(f"request.protocol: got {version!r}, expected {PROTOCOL}")
    source = Fields(fields.raw("source"), "source")
    kind = source.choice("kind", ("safetensors", "random"))
    source_dir = source.path("dir") if kind == "safetensors" else None
    source_seed = source.integer("seed", 0) if kind == "random" else None
    source.done()
    architecture = parse_architecture(fields.raw("architecture"))
    vocab = architecture.vocab
    request = Request(
        model=fields.text("model"),
        source_dir=source_dir,
        source_seed=source_seed,
        architecture=architecture,
        quantization=fields.choice("quantization", QUANTIZATIONS),
        activations=fields.choice("activations", ACTIVATIONS),
        seq_len=fields.integer("seq_len", 8, 1 << 17),
        backend=fields.choice("backend", BACKENDS),
        bos_id=fields.integer("bos_id", 0, vocab - 1),
        eos_ids=fields.tokens("eos_ids", vocab, 1),
        expected_partitions=fields.optional_integer("expected_partitions"),
        expected_delegated_linears=fields.optional_integer("expected_delegated_linears"),
        file_bytes_min=fields.integer("file_bytes_min", 1),
        file_bytes_max=fields.integer("file_bytes_max", 1),
        threads=fields.integer("threads", 1, 1024),
        work_dir=fields.path("work_dir"),
        pte=fields.path("pte"),
        reference=fields.path("reference"),
        response=fields.path("response"),
        reference_prompt=fields.tokens("reference_prompt", vocab, 1),
        reference_decode=fields.tokens("reference_decode", vocab, 0),
        words=_words(fields.raw("words")),
    )
    fields.done()
    positions = len(request.reference_prompt) + len(request.reference_decode)
    if positions > request.seq_len:
        raise _bad(f"reference: got {positions} tokens, expected at most seq_len {request.seq_len}")
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
        raise _bad(f"{path}: larger than {REQUEST_BYTES_MAX} bytes")
    try:
        return json.loads(raw)
    except ValueError as cause:
        raise _bad(f"{path}: not json: {cause}") from cause


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
