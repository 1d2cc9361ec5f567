"""The weights: which tensors there must be, how they are stored, and `model.safetensors`.

**Invariant:** no tensor is ever held whole in memory: rows are read, turned into numbers, put in
order and written by the chunk.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from .. import families
from ..architecture import Architecture, Linear
from ..fields import WorkerError
from ..tensors import EMBEDDING, FINAL_NORM, HEAD, Tensor, demanded
from .config import family_of
from .head import Head, Stored, bad

CHUNK_ELEMENTS = 1 << 20
ROPE_FACTORS = "rope_freqs.weight"
ROPE_TOLERANCE = 1e-5
OUTSIDE = {"token_embd.weight": EMBEDDING, "output_norm.weight": FINAL_NORM, "output.weight": HEAD}
INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# What llama.cpp rotates in pairs of neighbours and Hugging Face in halves of a head.
TURNED = ("self_attn.q_proj", "self_attn.k_proj")
# Stored as they are; every other type is dequantized to F16.
FLOATS = {0: ("F32", 4), 1: ("F16", 2), 30: ("BF16", 2)}
HALF_BYTES = 2
HALF_MAX = 65504.0


@dataclass(frozen=True)
class Part:
    """A tensor of the checkpoint and where its rows come from."""

    tensor: Tensor
    # In the checkpoint.
    name: str
    stored: Stored
    dtype: str
    width: int
    # Bytes of a row: in the GGUF, and as it is written.
    row_bytes: int
    out_bytes: int

    @property
    def rows(self) -> int:
        return self.tensor.shape[0] if len(self.tensor.shape) > 1 else 1


def _names(arch: Architecture) -> dict[str, str]:
    found, family = dict(OUTSIDE), family_of(arch)
    for layer in range(arch.layers):
        for ours, theirs in INSIDE.items():
            found[f"blk.{layer}.{ours}.weight"] = f"model.layers.{layer}.{theirs}.weight"
        for ours, theirs in family.gguf_names.items():
            end = "weight" if "norm" in ours else "bias"
            found[f"blk.{layer}.{ours}.{end}"] = f"model.layers.{layer}.{theirs}.{end}"
    return found


def _row_bytes(stored: Stored, width: int) -> int:
    """Bytes of `width` numbers of the tensor's type."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    if stored.kind in FLOATS:
        return width * FLOATS[stored.kind][1]
    try:
        kind = GGMLQuantizationType(stored.kind)
        block, size = GGML_QUANT_SIZES[kind]
        dequantize(np.zeros((1, size), dtype=np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError, AttributeError) as cause:
        raise bad(
            f"{stored.name}: got type {stored.kind}, expected one that can be dequantized",
            "take a GGUF of BF16, F16, Q8_0 or another common type",
        ) from cause
    if width % block:
        raise bad(
            f"{stored.name}: got a width of {width}, expected a multiple of {kind.name}'s {block}"
        )
    return width // block * size


def plan(file, head: Head, arch: Architecture) -> list[Part]:
    """The parts of the checkpoint in its order, each inside the file."""
    names = _names(arch)
    extra = sorted(head.tensors.keys() - names.keys() - {ROPE_FACTORS})
    if extra:
        raise bad(
            f"{file.path}: {extra[0]}: unexpected tensor ({len(extra)} in all)",
            "the recipe describes another architecture than the GGUF",
        )
    stored = {names[name]: it for name, it in head.tensors.items() if name in names}
    if arch.tied and HEAD in stored:
        raise bad(f"{file.path}: output.weight: got a head of its own, expected a tied one")
    parts, placed = [], families.places(arch)
    for tensor in demanded(arch):
        found = stored.get(tensor.name)
        if found is None:
            raise bad(f"{file.path}: {tensor.name}: missing, with {len(stored)} tensors there")
        if found.shape != tensor.shape:
            raise bad(
                f"{file.path}: {found.name}: got shape {list(found.shape)}, "
                f"expected {list(tensor.shape)}"
            )
        width = tensor.shape[-1]
        row = _row_bytes(found, width)
        dtype, size = FLOATS.get(found.kind, ("F16", HALF_BYTES))
        name = placed[tensor.name].name
        part = Part(tensor, name, found, dtype, width, row, width * size)
        end = found.offset + part.rows * row
        if end > file.size:
            raise bad(
                f"{file.path}: {found.name}: ends at byte {end}, got a file of {file.size}",
                "the file is truncated: fetch it again",
            )
        parts.append(part)
    _check_overlap(file, parts)
    return parts


def _check_overlap(file, parts: list[Part]) -> None:
    """Two tensors of the same bytes would be one tensor lost."""
    end, before = 0, ""
    for part in sorted(parts, key=lambda part: part.stored.offset):
        if part.stored.offset < end:
            raise bad(f"{file.path}: {part.stored.name}: lies within {before}")
        end, before = part.stored.offset + part.rows * part.row_bytes, part.stored.name


def check_rope(file, head: Head, arch: Architecture) -> None:
    """The factors by which llama.cpp divides the rotary frequencies are the recipe's scaling."""
    import numpy as np

    stored, scaling = head.tensors.get(ROPE_FACTORS), arch.rope_scaling
    # One factor for all frequencies is a setting, which was compared.
    scaling = None if isinstance(scaling, Linear) else scaling
    if stored is None and scaling is None:
        return
    if stored is None or scaling is None:
        got = "none" if stored is None else "rope_freqs.weight"
        raise bad(
            f"{file.path}: rotary scaling: got {got}, expected the recipe's {scaling}",
            "the recipe describes another model, or the GGUF is of an old llama.cpp",
        )
    wanted = _rope_factors(arch)
    if stored.kind != 0 or stored.shape != (len(wanted),):
        raise bad(
            f"{file.path}: {ROPE_FACTORS}: got shape {list(stored.shape)} of type {stored.kind}"
        )
    if stored.offset + 4 * len(wanted) > file.size:
        raise bad(f"{file.path}: {ROPE_FACTORS}: ends behind the file's {file.size} bytes")
    got = np.frombuffer(file.read(stored.offset, 4 * len(wanted)), dtype="<f4")
    if not np.allclose(got, wanted, rtol=ROPE_TOLERANCE, atol=0.0):
        raise bad(f"{file.path}: {ROPE_FACTORS}: got other factors than the recipe's scaling gives")


def _rope_factors(arch: Architecture) -> list[float]:
    """Llama 3.1's scaling, as `transformers` computes it (modeling_rope_utils)."""
    import math

    scaling, factors = arch.rope_scaling, []
    context = scaling.original_max_position
    for index in range(0, arch.head_dim, 2):
        wavelength = 2 * math.pi * arch.rope_theta ** (index / arch.head_dim)
        if wavelength < context / scaling.high_freq_factor:
            factors.append(1.0)
        elif wavelength > context / scaling.low_freq_factor:
            factors.append(scaling.factor)
        else:
            span = scaling.high_freq_factor - scaling.low_freq_factor
            smooth = (context / wavelength - scaling.low_freq_factor) / span
            factors.append(1.0 / ((1.0 - smooth) / scaling.factor + smooth))
    return factors


def file_bytes(parts: list[Part]) -> int:
    """Size of the safetensors file."""
    return len(_header(parts)) + sum(part.rows * part.out_bytes for part in parts)


def _header(parts: list[Part]) -> bytes:
    table, at = {}, 0
    for part in parts:
        size = part.rows * part.out_bytes
        table[part.name] = {
            "dtype": part.dtype,
            "shape": list(part.tensor.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **table}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _converted(part: Part, raw: bytearray, rows: int):
    """Rows of a GGUF as rows of the checkpoint: a two-dimensional array of bits or halves."""
    import numpy as np

    name = part.stored.name
    if part.stored.kind in FLOATS:
        bits = np.frombuffer(raw, dtype=f"<u{FLOATS[part.stored.kind][1]}").reshape(
            rows, part.width
        )
        mask = {0: 0x7F800000, 1: 0x7C00, 30: 0x7F80}[part.stored.kind]
        if ((bits & mask) == mask).any():
            raise bad(f"{name}: got a weight that is not finite")
        return bits
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    blocks = np.frombuffer(raw, dtype=np.uint8).reshape(rows, part.row_bytes)
    values = dequantize(blocks, GGMLQuantizationType(part.stored.kind))
    largest = float(np.abs(values).max())
    # Not `>`: nothing is larger than what is not a number.
    if not largest <= HALF_MAX:
        raise bad(f"{name}: got a weight of {largest:g}, expected at most fp16's {HALF_MAX:g}")
    return values.astype("<f2")


def _without_offset(part: Part, values, offset: float):
    """Gains as the checkpoint has them: llama.cpp adds what the model adds."""
    if part.dtype != "F32":
        raise bad(f"{part.stored.name}: got {part.dtype}, expected F32 in a norm")
    import numpy as np

    return values.view("<f4") - np.float32(offset)


def _turned(values, head_rows: int):
    """Rows of whole heads, from pairs of neighbours to halves."""
    width = values.shape[1]
    return values.reshape(-1, head_rows // 2, 2, width).swapaxes(1, 2).reshape(-1, width)


def write(file, parts: list[Part], arch: Architecture, path: Path, report) -> None:
    """Writes `model.safetensors` and makes it durable."""
    total, done = sum(part.rows * part.row_bytes for part in parts), 0
    interleaved = family_of(arch).gguf_turned
    with path.open("xb") as out:
        out.write(_header(parts))
        for part in parts:
            turned = interleaved and any(name in part.tensor.name for name in TURNED)
            step = max(1, CHUNK_ELEMENTS // part.width)
            if turned:
                step = max(1, step // arch.head_dim) * arch.head_dim
            for first in range(0, part.rows, step):
                rows = min(step, part.rows - first)
                offset, size = part.stored.offset + first * part.row_bytes, rows * part.row_bytes
                values = _converted(part, file.read(offset, size), rows)
                if part.tensor.kind == "norm" and arch.gain_offset:
                    values = _without_offset(part, values, arch.gain_offset)
                out.write((_turned(values, arch.head_dim) if turned else values).tobytes())
                file.forget(offset, size)
                done += size
                report(done, total)
        out.flush()
        os.fsync(out.fileno())
    if path.stat().st_size != file_bytes(parts):
        raise WorkerError("internal", f"{path}: got another size than was planned")
