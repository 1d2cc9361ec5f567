"""The task: request in, a folder with the checkpoint out."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..architecture import Architecture, parse_architecture
from ..checkpoint import File
from ..fields import Fields, WorkerError
from ..protocol import PROTOCOL
from . import config, head, tokenizer, weights

SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class Request:
    """`dir` is an empty folder that becomes the checkpoint."""

    gguf: Path
    architecture: Architecture
    bos_id: int
    eos_ids: tuple[int, ...]
    tokenizer: str
    dir: Path


def parse(value: object) -> Request:
    fields = Fields(value, "request")
    fields.integer("protocol", PROTOCOL, PROTOCOL)
    fields.choice("task", ("from-gguf",))
    architecture = parse_architecture(fields.raw("architecture"))
    request = Request(
        gguf=fields.path("gguf"),
        architecture=architecture,
        bos_id=fields.integer("bos_id", 0, architecture.vocab - 1),
        eos_ids=fields.tokens("eos_ids", architecture.vocab, 1),
        tokenizer=fields.text("tokenizer"),
        dir=fields.path("dir"),
    )
    fields.path("response")
    fields.done()
    return request


def _open(path: Path) -> File:
    if not path.is_file():
        raise head.bad(f"{path}: got no such file, expected a GGUF")
    try:
        return File(path)
    except OSError as cause:
        raise head.bad(f"{path}: cannot be opened: {cause}") from cause


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise WorkerError("disk", f"{folder}: {free} bytes free, expected {needed + SPARE_BYTES}")


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def run(value: object, stages) -> dict:
    request = parse(value)
    arch = request.architecture
    with stages.stage("preflight"):
        file = _open(request.gguf)
        found = head.read(file)
        config.check_family(found, arch)
        parts = weights.plan(file, found, arch)
        weights.check_rope(file, found, arch)
        special = tokenizer.special(found, arch.vocab)
        tokenizer.check_special(special, request.bos_id, request.eos_ids)
        settings = config.settings(found, arch, special)
        config.check(settings, arch)
        small = {
            "config.json": config.text(settings),
            request.tokenizer: tokenizer.tokenizer(found, arch.vocab, special.bos),
            **tokenizer.companions(found, special),
        }
        _check_disk(request.dir, weights.file_bytes(parts))
    with stages.stage("digest"):
        done = 0

        def step(size: int) -> None:
            nonlocal done
            done += size
            stages.progress(done, file.size)

        digest = file.digest(step)
    with stages.stage("write"):
        for name, data in small.items():
            _write(request.dir / name, data)
        weights.write(file, parts, arch, request.dir / "model.safetensors", stages.progress)
        if not file.unchanged():
            raise head.bad(f"{file.path}: changed while it was read")
    return {"gguf": {"name": file.path.name, "bytes": file.size, "sha256": digest}}
