"""Holds the worker against the small models that `make` left: `check.py FOLDER [--only CASE ...]`.

Both forms of a `config.json` come to one description, what cannot be exported is refused by name,
and the logits of the eager model in fp32 are those of `transformers`. Leaves `described.json` in
each case's folder: `cargo xtask dev families` holds its own reading against it, and exports.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from safetensors.torch import load_file

from oracle.cases import CASES, REFUSED, SEQ_LEN, config
from proofmark_worker import families
from proofmark_worker.architecture import parse_architecture
from proofmark_worker.checkpoint import SafetensorsSource
from proofmark_worker.eager import Eager, unquantized
from proofmark_worker.fields import WorkerError
from proofmark_worker.tensors import demanded

EAGER_MAX = 1e-4


class Failed(Exception):
    pass


def describe(folder: Path) -> dict:
    """What both forms of the `config.json` come to."""
    found = [
        families.describe(json.loads((folder / place).read_text()), SEQ_LEN)
        for place in ("config.json", "resaved/config.json")
    ]
    if found[0] != found[1]:
        apart = {k: (v, found[1][k]) for k, v in found[0].items() if v != found[1][k]}
        raise Failed(f"{folder.name}: the config.json of transformers says otherwise: {apart}")
    return found[0]


def eager(folder: Path, described: dict) -> torch.Tensor:
    arch = parse_architecture(described)
    source = SafetensorsSource(folder, arch)
    source.check_tied()
    tokens = load_file(folder / "resaved/logits.safetensors")["tokens"].tolist()
    model = Eager(arch, unquantized(source, demanded(arch)))
    return model.logits(model.rows([(model.cache(len(tokens)), tokens)]))


def compare(name: str, got: torch.Tensor, want: torch.Tensor) -> float:
    apart = (got.double() - want.double()).abs().max().item()
    if not apart <= EAGER_MAX:
        raise Failed(f"{name}: got a difference of {apart:.3g}, expected at most {EAGER_MAX}")
    return apart


def refusals() -> None:
    for name, (kind, changes, key) in REFUSED.items():
        try:
            families.describe(config(kind, changes), SEQ_LEN)
        except WorkerError as refusal:
            if key not in refusal.error:
                raise Failed(f"{name}: got {refusal.error!r}, expected {key} in it") from refusal
        else:
            raise Failed(f"{name}: got a description, expected {key} to be refused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=list(CASES))
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    refusals()
    for name in options.only:
        folder = options.folder.resolve() / name
        described = describe(folder)
        wanted = load_file(folder / "resaved/logits.safetensors")["logits"]
        apart = compare(name, eager(folder, described), wanted)
        (folder / "described.json").write_text(json.dumps(described, indent=1))
        sys.stdout.write(f"{name}: eager {apart:.1e}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"error: {failure}")
