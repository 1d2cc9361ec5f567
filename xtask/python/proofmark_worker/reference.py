"""Parts of the eager model, by other code than the exported graph, and the reference file.

Norms by a mean; positions are in `turns`, the model itself is in `blocks` and `eager`.

**Invariant:** a weight is widened by row chunks, never whole.
**Invariant:** sums of codes are exact, so that neither order nor thread count shows in the result:
of int8 weights and one int8 row in pieces that fp32 holds, of (int4 x bf16) weights in fp64. Of
activations in two rows they err by the last bits of fp64.
"""

import json

import torch

from .fields import WorkerError
from .protocol import publish
from .quantize import Weight
from .rows import SHIFT, TINY, unit_step

CHUNK_ELEMENTS = 1 << 19
# Products of codes have at most 255 * 128, so that sums of so many are whole numbers below 2^24.
EXACT_WIDTH = 512
NONE = slice(0)


def quantize_activations(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-token asymmetric int8 in fp32: `(q - zero_point, scale)`.

    Bit for bit what XNNPACK computes (`src/xnnpack/quantization.h` and its conversion kernels): the
    multiplier is rounded, not the scale, values are rounded before the zero point is added, and the
    zero point comes from the end of the range where it errs less.
    """
    low, high = x.amin(-1, keepdim=True).clamp(max=0.0), x.amax(-1, keepdim=True).clamp(min=0.0)
    one = torch.ones_like(low)
    # A tensor divided by a tensor: by way of a scalar it would be a product with an inverse.
    multiplier = torch.where(low == high, one, torch.full_like(low, 255.0) / (high - low))
    low, high = low * multiplier, high * multiplier
    zero = torch.where((-128.0 + low) + (127.0 + high) > 0.0, -128.0 - low, 127.0 - high)
    zero = zero.clamp(-128.0, 127.0).round()
    return ((x * multiplier).round() + zero).clamp(-128.0, 127.0) - zero, one / multiplier


def two_rows(x: torch.Tensor) -> torch.Tensor:
    """The input [tokens, in], within ±127, as the two int8 rows say it: whole numbers, and rest.

    Moved to 1 to 255 and beside a constant 255, whole numbers are their own int8 codes.
    """
    moved = x + SHIFT
    whole = moved.floor()
    centred, scale = quantize_activations(moved - whole)
    return (whole.double() - SHIFT) + centred.double() * scale.double()


def linear(x: torch.Tensor, weight: Weight, exact: slice = NONE) -> torch.Tensor:
    """`x` is fp64 [tokens, in]; the result is fp64 [tokens, out].

    Activations of the tokens `exact` are left as they are, in fp32 where the others are codes: the
    difference is what quantizing them costs.
    """
    scheme = weight.scheme
    if weight.rotation is not None:
        matrix = weight.rotation.double()
        x = (x.unflatten(-1, (-1, matrix.shape[0])) @ matrix.T).flatten(-2)
    given, token_scale, product = x, None, _product
    if scheme.rows == 2:
        x = two_rows(x.float())
    elif scheme.bits:
        x, token_scale = quantize_activations(x.float())
        token_scale[exact] = 1.0
        if not scheme.group:
            product = _product_of_codes
        else:
            x = x.double()
    if scheme.bits:
        x[exact] = given[exact].to(x.dtype)
    rows, step = weight.data.shape[0], max(1, CHUNK_ELEMENTS // weight.width)
    out = torch.empty(x.shape[0], rows, dtype=torch.float64)
    for first in range(0, rows, step):
        chunk = slice(first, min(first + step, rows))
        out[:, chunk] = product(x, weight, chunk)
    return out if token_scale is None else out * token_scale.double()


def _product(x: torch.Tensor, weight: Weight, rows: slice) -> torch.Tensor:
    chunk = weight.data[rows][:, : weight.width].double()
    if weight.scheme.group:
        scale = weight.scale[rows].double().unsqueeze(-1)
        chunk = (chunk.unflatten(-1, (scale.shape[1], -1)) * scale).flatten(1)
        return x @ chunk.T
    return x @ chunk.T * _row_scales(weight, rows)


def _product_of_codes(x: torch.Tensor, weight: Weight, rows: slice) -> torch.Tensor:
    """By the faster products of fp32."""
    pieces = weight.data[rows][:, : weight.width].float().split(EXACT_WIDTH, -1)
    out = sum(
        (one @ other.T).double()
        for one, other in zip(x.split(EXACT_WIDTH, -1), pieces, strict=True)
    )
    return out * _row_scales(weight, rows)


def _row_scales(weight: Weight, rows: slice) -> torch.Tensor | float:
    return weight.scale[rows, 0].double() if weight.scheme.bits else 1.0


def unit_size(x: torch.Tensor, weight: Weight) -> torch.Tensor | float:
    """What to divide the input of a linear by that takes two rows, where nothing bounds it."""
    if weight.scheme.rows == 1:
        return 1.0
    return torch.sqrt((x * x).mean(-1, keepdim=True) * unit_step(x.shape[-1]) ** 2 + TINY)


def embed(tokens: torch.Tensor, weight: Weight) -> torch.Tensor:
    rows = weight.data[tokens].float()[:, : weight.width]
    return (rows * weight.scale[tokens] if weight.scheme.bits else rows).double()


def norm(x: torch.Tensor, weight: Weight, epsilon: float) -> torch.Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + epsilon) * weight.data.double()


def check_logits(logits: torch.Tensor) -> None:
    if not torch.isfinite(logits).all():
        raise WorkerError("reference", "reference logits have a value that is not finite")
    if (logits == logits[:, :1]).all():
        raise WorkerError("reference", "reference logits are all equal: the model says nothing")


def write_safetensors(path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Own writer: the library keeps metadata in a hash map, whose order is not fixed."""
    names = {torch.int64: "I64", torch.float32: "F32"}
    header, offset = {"__metadata__": dict(sorted(metadata.items()))}, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.itemsize
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)

    def write(file) -> None:
        file.write(len(head).to_bytes(8, "little") + head)
        for tensor in tensors.values():
            file.write(tensor.contiguous().numpy().tobytes())

    publish(path, write)
