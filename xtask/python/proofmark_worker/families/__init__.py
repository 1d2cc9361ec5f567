"""The families of decoders: one file each.

A family says which `config.json` is its own, how that comes to the one description of a decoder
(`architecture`), which settings it refuses, and how the checkpoint names its tensors. `describe`
does the first, `places` the last.

**Invariant:** a setting that changes the arithmetic is in the description or refused by name.
"""

from ..architecture import Architecture
from ..tensors import demanded
from . import gemma3, llama, mistral, phi3, qwen2, qwen3, smollm3
from .family import Family, Place
from .settings import Settings, refused

ALL: dict[str, Family] = {
    it.name: it
    for it in (
        llama.FAMILY,
        smollm3.FAMILY,
        mistral.FAMILY,
        qwen2.FAMILY,
        qwen3.FAMILY,
        gemma3.FAMILY,
        phi3.FAMILY,
    )
}


def describe(config: dict, seq_len: int) -> dict:
    """The description of a `config.json`, as a request has it."""
    kinds = {family.model_type: family for family in ALL.values()}
    got = config.get("model_type")
    if got not in kinds:
        raise refused("model_type", got, f"one of {', '.join(kinds)}")
    family = kinds[got]
    settings = Settings(config, seq_len)
    settings.check_code(family.program)
    found = family.describe(settings)
    settings.check_neutral(family.implemented)
    return {"family": family.name, **found}


def places(arch: Architecture) -> dict[str, Place]:
    """Where a checkpoint has each weight that the description demands."""
    family = ALL[arch.family]
    return {tensor.name: family.place(arch, tensor.name) for tensor in demanded(arch)}


def stored(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """The tensors of a checkpoint and their shapes: several weights may share one."""
    found: dict[str, tuple[int, ...]] = {}
    placed = places(arch)
    for tensor in demanded(arch):
        place = placed[tensor.name]
        rows = max(place.first + tensor.shape[0], found.get(place.name, (0,))[0])
        found[place.name] = (rows, *tensor.shape[1:])
    return found
