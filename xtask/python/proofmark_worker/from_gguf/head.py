"""The head of a GGUF, read by bounds: metadata and the table of tensors.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 3, little-endian).

**Invariant:** no count or length is trusted: each is compared with a limit and with the file's size
before anything is read or allocated for it, and no tensor lies outside the file.
"""

import struct
from dataclasses import dataclass

from ..fields import WorkerError

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT_KEY = "general.alignment"
ALIGNMENT_BYTES = 32
# Llama 3's vocabulary and merges take 8 MB.
HEAD_BYTES_MAX = 64 << 20
KEYS_MAX = 1024
TENSORS_MAX = 1 << 16
NAME_BYTES_MAX = 256
TEXT_BYTES_MAX = 1 << 20
ELEMENTS_MAX = 1 << 22
EXTENTS_MAX = 4
READ_BYTES = 1 << 18

SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
TEXT, ARRAY = 8, 9


def bad(what: str, hint: str | None = None) -> WorkerError:
    return WorkerError("gguf", what, hint)


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in the file. `shape` is rows first, `kind` ggml's number of its type."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Head:
    """`offset` of each tensor counts from the start of the file."""

    metadata: dict[str, object]
    tensors: dict[str, Stored]


class _Cursor:
    """Reads forward through `file`; `limit` is where the head must have ended."""

    def __init__(self, file) -> None:
        self.file = file
        self.limit = min(file.size, HEAD_BYTES_MAX)
        self.buffer = b""
        self.start = 0
        self.at = 0

    def where(self) -> str:
        return f"{self.file.path}: byte {self.at}"

    def take(self, size: int, what: str) -> bytes:
        if self.at + size > self.limit:
            raise bad(
                f"{self.where()}: {what}: got {self.limit - self.at} bytes left, expected {size}",
                "the file is truncated or damaged: fetch it again",
            )
        first = self.at - self.start
        if first + size > len(self.buffer):
            self.start, first = self.at, 0
            wanted = min(max(size, READ_BYTES), self.limit - self.at)
            self.buffer = bytes(self.file.read(self.at, wanted))
        self.at += size
        return self.buffer[first : first + size]

    def number(self, code: str, what: str):
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]

    def count(self, most: int, what: str) -> int:
        found = self.number("Q", what)
        if found > most:
            raise bad(f"{self.where()}: {what}: got {found}, expected at most {most}")
        return found

    def text(self, most: int, what: str) -> str:
        raw = self.take(self.count(most, f"length of {what}"), what)
        try:
            return raw.decode()
        except UnicodeDecodeError as cause:
            raise bad(f"{self.where()}: {what}: got bytes that are not UTF-8") from cause

    def value(self, key: str, kind: int, nested: bool = False):
        if kind in SCALARS:
            return self.number(SCALARS[kind], key)
        if kind == TEXT:
            return self.text(TEXT_BYTES_MAX, key)
        if kind != ARRAY or nested:
            raise bad(f"{self.where()}: {key}: got a value of type {kind}, expected a known one")
        inner, size = self.number("I", key), self.count(ELEMENTS_MAX, f"elements of {key}")
        if inner in SCALARS:
            code = f"<{size}{SCALARS[inner]}"
            return list(struct.unpack(code, self.take(struct.calcsize(code), key)))
        return [self.value(key, inner, nested=True) for _ in range(size)]


def _metadata(cursor: _Cursor, keys: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for index in range(keys):
        key = cursor.text(NAME_BYTES_MAX, f"key {index}")
        if key in found:
            raise bad(f"{cursor.where()}: {key}: got a second one, expected one")
        found[key] = cursor.value(key, cursor.number("I", key))
    return found


def _tensor(cursor: _Cursor, index: int) -> Stored:
    name = cursor.text(NAME_BYTES_MAX, f"name of tensor {index}")
    extents = cursor.number("I", name)
    if not 1 <= extents <= EXTENTS_MAX:
        raise bad(
            f"{cursor.where()}: {name}: got {extents} dimensions, expected 1 to {EXTENTS_MAX}"
        )
    shape = tuple(cursor.number("Q", name) for _ in range(extents))
    kind, offset = cursor.number("I", name), cursor.number("Q", name)
    # A row first: the file names the width first.
    return Stored(name, tuple(reversed(shape)), kind, offset)


def read(file) -> Head:
    """The head of an open `checkpoint.File`.

    Raises:
        WorkerError: it is no GGUF, of another version, or not what it says.
    """
    cursor = _Cursor(file)
    magic = cursor.take(4, "magic")
    if magic != MAGIC:
        raise bad(f"{file.path}: got a file that begins with {magic!r}, expected {MAGIC!r}")
    version = cursor.number("I", "version")
    if version != VERSION:
        raise bad(
            f"{file.path}: got version {version}, expected {VERSION}",
            "convert it again with a current llama.cpp; big-endian files are not read",
        )
    tensors = cursor.count(TENSORS_MAX, "number of tensors")
    metadata = _metadata(cursor, cursor.count(KEYS_MAX, "number of keys"))
    table: dict[str, Stored] = {}
    for index in range(tensors):
        found = _tensor(cursor, index)
        if found.name in table:
            raise bad(f"{cursor.where()}: {found.name}: got a second one, expected one")
        table[found.name] = found
    alignment = metadata.get(ALIGNMENT_KEY, ALIGNMENT_BYTES)
    if type(alignment) is not int or not 0 < alignment <= 1 << 16 or alignment & (alignment - 1):
        raise bad(f"{file.path}: {ALIGNMENT_KEY}: got {alignment!r}, expected a power of two")
    base = -(-cursor.at // alignment) * alignment
    placed = {name: Stored(name, it.shape, it.kind, base + it.offset) for name, it in table.items()}
    return Head(metadata, placed)
