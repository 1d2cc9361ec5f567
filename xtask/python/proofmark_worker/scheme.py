"""How many bits each part of the model gets, and in how many rows a linear takes its input.

A product of int8 weights with activations in one int8 row loses more by the activations than by
the weights, unless the activations are rotated first (`rotation`). In two rows the input is a
number on a fixed grid and what that leaves over (`rows`): some 16 bits, by the same int8 kernels as
a batch twice as high.
"""

from dataclasses import dataclass, replace

from .architecture import Architecture
from .fields import WorkerError
from .tensors import VECTORS, Tensor

GROUP = 32


@dataclass(frozen=True)
class Scheme:
    """`bits` 0 means fp32; `group` 0 means one scale for a whole row of weights."""

    bits: int
    group: int
    rows: int = 1
    rotated: bool = False

    @property
    def name(self) -> str:
        if not self.bits:
            return "fp32"
        shape = f"_g{self.group}" if self.group else "_per_channel"
        inputs = "_rotated" if self.rotated else "_two_rows" if self.rows == 2 else ""
        return f"8da{self.bits}w{shape}{inputs}"

    @property
    def range(self) -> tuple[int, int]:
        return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1


FP32 = Scheme(0, 0)
ROW8 = Scheme(8, 0)
TWO8 = Scheme(8, 0, 2)
BLOCK4 = Scheme(4, GROUP)

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")


def part(tensor: Tensor) -> str:
    """`q` to `down`, or the tensor's kind."""
    if tensor.kind != "linear":
        return tensor.kind
    return tensor.name.split(".")[-2].removesuffix("_proj")


def schemes(quantization: str, activations: str) -> dict[str, Scheme]:
    """By part. The head stays at 8 bits: it has the embedding's rows, and decides the token."""
    if quantization == "fp32":
        return dict.fromkeys((*LINEARS, "head", "embedding"), FP32)
    wide = TWO8 if activations == "two-rows" else ROW8
    found = dict.fromkeys(LINEARS, wide if quantization == "int8" else BLOCK4)
    if quantization == "int8":
        # What attention gives is an average of values: one row loses next to nothing of it.
        found["o"] = ROW8
    else:
        # What coarse steps hurt most (`docs/quantization.md`); `v` and `o` are small.
        found["v"] = found["o"] = found["down"] = ROW8
    found = {**found, "head": wide, "embedding": ROW8}
    rotated = activations == "rotated"
    return {part: replace(scheme, rotated=rotated) for part, scheme in found.items()}


def check_widths(tensors: list[Tensor], found: dict[str, Scheme]) -> None:
    """Upstream leaves a linear that a group does not divide unquantized and says nothing."""
    for tensor in tensors:
        group = found[part(tensor)].group if tensor.kind not in VECTORS else 0
        if group and tensor.shape[1] % group:
            raise WorkerError(
                "config",
                f"{tensor.name}: width {tensor.shape[1]} is not a multiple of the group {group}",
                "use int8, which has one scale per row",
            )


def check_form(arch: Architecture, quantization: str, activations: str) -> None:
    """Whether the model has a form that takes its inputs so."""
    if arch.post_norms and quantization != "fp32" and activations == "rotated":
        raise WorkerError(
            "request",
            "activations: got rotated, expected two-rows or one-row: a norm before the residual "
            "does not commute with a rotation",
            'write activations = "two-rows" under [export] in the recipe',
        )
