"""Where weights come from: safetensors files or a seeded generator, both read by row chunks.

**Invariant:** nothing here unpickles, and no offset is used before it is checked against the file.
**Invariant:** the files are opened once; digest and weights come from the same descriptors, and a
file that changes in between is an error.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from . import families
from .architecture import Architecture
from .fields import WorkerError
from .tensors import EMBEDDING, HEAD, demanded

HEADER_BYTES_MAX = 100 << 20
DIGEST_CHUNK_BYTES = 4 << 20
DTYPE_BYTES = {"BF16": 2, "F16": 2, "F32": 4}
# Tables that old exporters saved beside the weights; they follow from the configuration.
IGNORED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
RANDOM_STD = 0.02
RANDOM_BLOCK_ELEMENTS = 1 << 16


def _weights(what: str, hint: str | None = None) -> WorkerError:
    return WorkerError("weights", what, hint)


class File:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY)
        self.stamp = self._stamp()
        self.size = os.fstat(self.fd).st_size
        self.sha256: str | None = None

    def _stamp(self) -> tuple:
        stat = os.fstat(self.fd)
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    def unchanged(self) -> bool:
        return self.stamp == self._stamp()

    def read(self, offset: int, size: int) -> bytearray:
        buffer = bytearray(size)
        view, got = memoryview(buffer), 0
        while got < size:
            count = os.preadv(self.fd, [view[got:]], offset + got)
            if count == 0:
                raise _weights(
                    f"{self.path}: ended at byte {offset + got}, expected {offset + size}"
                )
            got += count
        return buffer

    def forget(self, offset: int, size: int) -> None:
        """Clean pages that were read once must not push others out of the page cache."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, offset, size, os.POSIX_FADV_DONTNEED)

    def digest(self, report) -> str:
        state, offset = hashlib.sha256(), 0
        while offset < self.size:
            size = min(DIGEST_CHUNK_BYTES, self.size - offset)
            state.update(self.read(offset, size))
            offset += size
            report(size)
        self.sha256 = state.hexdigest()
        return self.sha256


@dataclass(frozen=True)
class _Entry:
    file: File
    offset: int
    shape: tuple[int, ...]
    dtype: str


def _pairs(pairs: list[tuple]) -> dict:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("duplicate key")
    return dict(pairs)


def _header(file: File) -> tuple[dict, int]:
    if file.size < 8:
        raise _weights(f"{file.path}: got {file.size} bytes, expected a safetensors header")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > min(HEADER_BYTES_MAX, file.size - 8):
        raise _weights(
            f"{file.path}: header length {length} does not fit in {file.size} bytes",
            "the file is truncated or no safetensors file",
        )
    try:
        header = json.loads(file.read(8, length), object_pairs_hook=_pairs)
    except ValueError as cause:
        raise _weights(f"{file.path}: header is not json: {cause}") from cause
    if not isinstance(header, dict):
        raise _weights(f"{file.path}: header is not a json object")
    header.pop("__metadata__", None)
    return header, 8 + length


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in value)


def _entries(file: File) -> dict[str, _Entry]:
    header, base = _header(file)
    spans, found = [], {}
    for name, item in header.items():
        where = f"{file.path}: {name}"
        if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
            raise _weights(f"{where}: malformed header entry")
        shape, offsets, dtype = item["shape"], item["data_offsets"], item["dtype"]
        if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
            raise _weights(f"{where}: malformed shape or offsets")
        begin, end = offsets
        if dtype not in DTYPE_BYTES:
            if not IGNORED.fullmatch(name):
                raise _weights(f"{where}: got dtype {dtype}, expected BF16, F16 or F32")
        else:
            size = DTYPE_BYTES[dtype]
            for extent in shape:
                size *= extent
            if end - begin != size:
                raise _weights(f"{where}: got {end - begin} bytes, expected {size}")
        spans.append((begin, end, name))
        found[name] = _Entry(file, base + begin, tuple(shape), dtype)
    _check_cover(file, base, sorted(spans))
    return found


def _check_cover(file: File, base: int, spans: list[tuple]) -> None:
    expected = 0
    for begin, end, name in spans:
        if begin != expected or end < begin:
            raise _weights(f"{file.path}: {name}: starts at {begin}, expected {expected}")
        expected = end
    if base + expected != file.size:
        raise _weights(
            f"{file.path}: got {file.size} bytes, expected {base + expected}",
            "the file is truncated or has bytes that no tensor covers",
        )


class SafetensorsSource:
    """A directory of `*.safetensors` files that together hold exactly the demanded tensors."""

    def __init__(self, directory: Path, arch: Architecture) -> None:
        self.arch = arch
        self.tensors = {tensor.name: tensor for tensor in demanded(arch)}
        self.places = families.places(arch)
        paths = sorted(directory.glob("*.safetensors"))
        if not paths:
            raise _weights(f"{directory}: no *.safetensors file")
        self.files = [File(path) for path in paths]
        self.entries: dict[str, _Entry] = {}
        for file in self.files:
            for name, entry in _entries(file).items():
                if name in self.entries:
                    other = self.entries[name].file.path.name
                    raise _weights(f"{file.path}: {name}: also in {other}")
                self.entries[name] = entry
        self._check_index(directory)
        self._check_names(arch)

    def _check_index(self, directory: Path) -> None:
        for path in sorted(directory.glob("*.safetensors.index.json")):
            try:
                listed = json.loads(path.read_bytes())["weight_map"]
                pairs = {str(name): str(file) for name, file in listed.items()}
            except (ValueError, KeyError, AttributeError, TypeError) as cause:
                raise _weights(f"{path}: not a safetensors index: {cause!r}") from cause
            held = {name: entry.file.path.name for name, entry in self.entries.items()}
            for name in sorted(pairs.keys() | held.keys()):
                if pairs.get(name) != held.get(name):
                    raise _weights(
                        f"{path}: {name}: listed in {pairs.get(name)}, found in {held.get(name)}"
                    )

    def _check_names(self, arch: Architecture) -> None:
        wanted = families.stored(arch)
        if arch.tied and HEAD in self.entries:
            # Some exporters store the tied matrix twice; `check_tied` compares the bytes.
            wanted[HEAD] = (arch.vocab, arch.dim)
        missing = sorted(wanted.keys() - self.entries.keys())
        extra = sorted(n for n in self.entries.keys() - wanted.keys() if not IGNORED.fullmatch(n))
        if missing:
            raise _weights(f"missing tensor {missing[0]} ({len(missing)} missing in all)")
        if extra:
            raise _weights(
                f"unexpected tensor {extra[0]} ({len(extra)} unexpected in all)",
                "the checkpoint is of another architecture, or tied is set wrongly",
            )
        for name, shape in wanted.items():
            got = self.entries[name].shape
            if got != shape:
                raise _weights(f"{name}: got shape {list(got)}, expected {list(shape)}")

    def check_tied(self) -> None:
        """A second copy of the tied matrix may only be a copy."""
        if not self.arch.tied or HEAD not in self.entries:
            return
        pair = self.entries[HEAD], self.entries[EMBEDDING]
        same = pair[0].dtype == pair[1].dtype
        total = DTYPE_BYTES[pair[0].dtype] * self.arch.vocab * self.arch.dim
        for at in range(0, total if same else 0, DIGEST_CHUNK_BYTES):
            size = min(DIGEST_CHUNK_BYTES, total - at)
            same = same and len({bytes(e.file.read(e.offset + at, size)) for e in pair}) == 1
        if not same:
            raise _weights(f"{HEAD} differs from {EMBEDDING} although the architecture ties them")

    def digest(self, report) -> list[dict]:
        total, done = sum(file.size for file in self.files), 0

        def step(size: int) -> None:
            nonlocal done
            done += size
            report(done, total)

        return [
            {"name": file.path.name, "bytes": file.size, "sha256": file.digest(step)}
            for file in self.files
        ]

    def rows(self, name: str, first: int, last: int):
        """Rows `first..last` as fp32, as the description means them."""
        import torch

        tensor, place = self.tensors[name], self.places[name]
        entry = self.entries[place.name]
        first, last = first + place.first, last + place.first
        dtype = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[entry.dtype]
        width = DTYPE_BYTES[entry.dtype]
        for extent in entry.shape[1:]:
            width *= extent
        offset, size = entry.offset + first * width, (last - first) * width
        raw = torch.frombuffer(entry.file.read(offset, size), dtype=dtype)
        entry.file.forget(offset, size)
        data = raw.view(last - first, *entry.shape[1:]).float()
        if tensor.kind == "norm" and self.arch.gain_offset:
            data = data + self.arch.gain_offset
        return data if tensor.factor == 1.0 else data * tensor.factor

    def finish(self) -> None:
        for file in self.files:
            if not file.unchanged():
                raise _weights(f"{file.path}: changed while it was read")


class RandomSource:
    """Seeded weights for a rehearsal; each value depends on seed, name and place only."""

    def __init__(self, seed: int, arch: Architecture) -> None:
        self.seed = seed
        self.tensors = {tensor.name: tensor for tensor in demanded(arch)}

    def check_tied(self) -> None:
        """There is one matrix by construction."""

    def digest(self, report) -> list[dict]:
        report(1, 1)
        return []

    def rows(self, name: str, first: int, last: int):
        import torch

        tensor = self.tensors[name]
        width = tensor.shape[1] if len(tensor.shape) > 1 else 1
        begin, end = first * width, last * width
        out = torch.empty(end - begin, dtype=torch.float32)
        # Fixed blocks, so that the values do not depend on how the caller cuts its chunks.
        for block in range(begin // RANDOM_BLOCK_ELEMENTS, -(-end // RANDOM_BLOCK_ELEMENTS)):
            at = block * RANDOM_BLOCK_ELEMENTS
            key = f"{self.seed}\0{name}\0{block}".encode()
            number = int.from_bytes(hashlib.sha256(key).digest()[:8], "little") >> 1
            generator = torch.Generator().manual_seed(number)
            values = torch.randn(RANDOM_BLOCK_ELEMENTS, generator=generator).mul_(RANDOM_STD)
            low, high = max(at, begin), min(at + RANDOM_BLOCK_ELEMENTS, end)
            out[low - begin : high - begin] = values[low - at : high - at]
        if tensor.kind == "norm":
            out += 1.0
        out *= tensor.factor
        return out.view(last - first, *tensor.shape[1:])

    def finish(self) -> None:
        """Nothing to change underneath."""
