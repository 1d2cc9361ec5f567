"""What a family's file fills in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..architecture import Architecture
from .settings import Settings


@dataclass(frozen=True)
class Place:
    """A tensor of the checkpoint, and its row at which a weight begins."""

    name: str
    first: int = 0


def same(_arch: Architecture, name: str) -> Place:
    """Where the checkpoint's names are the description's."""
    return Place(name)


def renamed(names: Mapping[str, str]) -> Callable[[Architecture, str], Place]:
    """Where only some parts of a layer are called differently."""

    def place(_arch: Architecture, name: str) -> Place:
        for ours, theirs in names.items():
            if f".{ours}." in name:
                return Place(name.replace(f".{ours}.", f".{theirs}."))
        return Place(name)

    return place


@dataclass(frozen=True)
class Family:
    name: str
    # As `config.json` says them: `model_type`, and the class in `architectures`.
    model_type: str
    program: str
    describe: Callable[[Settings], dict]
    # Settings that `describe` reads although most families have no such thing.
    implemented: frozenset[str] = frozenset()
    place: Callable[[Architecture, str], Place] = same
    # By the names of GGUF: its architecture, none where a file cannot be turned into a checkpoint;
    # and tensors of a layer that only this family has.
    gguf: str | None = "llama"
    gguf_names: Mapping[str, str] = field(default_factory=dict)
    # Whether GGUF has queries and keys with the rows of a head interleaved.
    gguf_turned: bool = False
    # What a `config.json` says of a description beside the sizes: the way back from `describe`.
    written: Callable[[Architecture], dict] = lambda _arch: {}
