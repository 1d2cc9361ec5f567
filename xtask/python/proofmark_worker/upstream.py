"""The three upstream internals that are replaced to keep memory and file small.

1. `copy_exported_program_for_preprocess` deep-copies every constant for every delegate: share them.
2. `NamedDataStore.add_named_data` keeps delegate weights as Python bytes: keep them in files; one
   that equals a quantized weight file is that file.
3. The serializer stores the tied matrix twice, as delegate data and as embedding constant: let
   both point at the same bytes.

**Invariant:** a patch is applied to the exact versions it was written for, and each patch is asked
afterwards whether it took effect. An upgrade fails loudly, it does not grow quietly.
"""

import copy
import hashlib
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from .fields import WorkerError

PINNED = {"torch": "2.15.0", "executorch": "1.5.1", "torchao": "0.18.0"}
SPILL_BYTES_MIN = 1 << 16


def versions() -> dict[str, str]:
    found = {}
    for name in (*PINNED, "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def check_versions() -> None:
    for name, expected in PINNED.items():
        got = versions()[name]
        # A local suffix such as +cpu names the build, not the code.
        if got.partition("+")[0] != expected:
            raise WorkerError(
                "version",
                f"{name}: got {got}, expected {expected}",
                "install the locked requirements",
            )


@contextmanager
def _replaced(owner, name: str, value):
    if name not in vars(owner) and not hasattr(owner, name):
        raise WorkerError("version", f"{owner.__name__}.{name} is gone upstream")
    own = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


class LowMemory:
    """Patches 1 and 2."""

    def __init__(self, work_dir: Path, known: dict[str, Path]) -> None:
        self.work_dir = work_dir
        self.known = known
        self.shared_programs = 0
        self.in_files = 0
        self.spilled: dict[str, Path] = {}

    def _file(self, data: bytes):
        from executorch.exir._serialize._cord import FileBackedData

        sha256 = hashlib.sha256(data).digest()
        key = sha256.hex()
        path = self.known.get(key) or self.spilled.get(key)
        if path is None:
            path = self.spilled[key] = self.work_dir / f"spill_{len(self.spilled)}.bin"
            path.write_bytes(data)
        self.in_files += 1
        return FileBackedData(str(path), sha256=sha256)

    @contextmanager
    def applied(self):
        import torch
        from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
        from executorch.exir._serialize._named_data_store import NamedDataStore

        add_named_data = NamedDataStore.add_named_data

        def share(_cls, program, _specs):
            self.shared_programs += 1
            constants = [c for c in program.constants.values() if isinstance(c, torch.Tensor)]
            # To deepcopy a tensor that is in the memo already is to share it.
            memo = {id(t): t for t in [*program.state_dict.values(), *constants]}
            return copy.deepcopy(program, memo)

        def add(store, key, data, *args, **kwargs):
            if isinstance(data, bytes) and len(data) >= SPILL_BYTES_MIN:
                data = self._file(data)
            return add_named_data(store, key, data, *args, **kwargs)

        with (
            _replaced(XnnpackBackend, "copy_exported_program_for_preprocess", classmethod(share)),
            _replaced(NamedDataStore, "add_named_data", add),
        ):
            yield self

    def check(self, delegates: int, large_weights: int) -> None:
        if self.shared_programs < delegates:
            raise WorkerError(
                "version", f"constants shared for {self.shared_programs} of {delegates} delegates"
            )
        if self.in_files < large_weights:
            raise WorkerError(
                "version", f"delegate weights in files: got {self.in_files} of {large_weights}"
            )


class Tie:
    """Patch 3. A segment may lie inside another one: the runtime and our verifier accept that."""

    def __init__(self) -> None:
        self.saved = 0
        self._alias: dict[int, tuple[int, int]] = {}

    @staticmethod
    def _constants(segment) -> dict[tuple[int, bytes], int]:
        """Offset inside the constant segment by (size, digest)."""
        found, offset = {}, 0
        for buffer in segment._buffers:
            if len(buffer) >= SPILL_BYTES_MIN:
                found[len(buffer), hashlib.sha256(buffer).digest()] = offset
            offset += len(buffer)
        return found

    def _extract(self, original, program, segments, buffers, entries) -> None:
        from executorch.exir._serialize._cord import FileBackedData

        index = program.constant_segment.segment_index
        constants = self._constants(segments[index].data) if segments else {}
        sizes = {size for size, _ in constants}
        buffers, hits = list(buffers), {}
        for index, buffer in enumerate(buffers):
            if len(buffer) not in sizes:
                continue
            file_backed = isinstance(buffer, FileBackedData)
            digest = buffer.sha256() if file_backed else hashlib.sha256(buffer).digest()
            if (len(buffer), digest) in constants:
                hits[index] = (constants[len(buffer), digest], len(buffer))
                buffers[index] = b""
        original(program, segments, buffers, entries)
        place = {item.key: item.segment_index for item in program.named_data}
        for key, entry in entries.items():
            if entry.buffer_index in hits:
                self._alias[place[key]] = hits[entry.buffer_index]

    def _point(self, program) -> None:
        base = program.segments[program.constant_segment.segment_index].offset
        for index, (offset, size) in self._alias.items():
            segment = program.segments[index]
            if segment.size != 0:
                raise WorkerError("version", f"tied segment {index} was not emptied")
            segment.offset, segment.size = base + offset, size
            self.saved += size

    @contextmanager
    def applied(self):
        from executorch.exir._serialize import _program as serializer

        extract, flatten = serializer._extract_named_data, serializer._program_to_flatbuffer

        def extract_tied(program, segments, buffers, entries):
            self._extract(extract, program, segments, buffers, entries)

        def flatten_tied(program, **options):
            self._point(program)
            return flatten(program, **options)

        with (
            _replaced(serializer, "_extract_named_data", extract_tied),
            _replaced(serializer, "_program_to_flatbuffer", flatten_tied),
        ):
            yield self

    def check(self, expected: int) -> None:
        if self.saved != expected:
            raise WorkerError(
                "version", f"tied matrix: saved {self.saved} bytes, expected {expected}"
            )
