"""Reference logits: the quantized model evaluated eagerly, by other code than the exported graph.

Rope by slices instead of a matrix, norms by a mean, attention by a softmax over a mask. All tokens
are known (teacher forcing), and attention is causal, so that one pass over prompt and decode
tokens gives the same numbers as feeding them one by one.

**Invariant:** a weight is widened by row chunks, never whole.
**Invariant:** sums run in fp64. Products of int8 activations and int8 or (int4 x bf16) weights are
exact there, so that neither order nor thread count shows in the result.
"""

import json
import math

import torch

from .checkpoint import EMBEDDING, FINAL_NORM, HEAD
from .protocol import Architecture, WorkerError, publish
from .quantize import Weight

CHUNK_ELEMENTS = 1 << 20


def quantize_activations(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per-token asymmetric int8 in fp32, as XNNPACK does it: `(q - zero_point, scale)`.

    The zero point comes from the end of the range where it errs less.
    """
    low, high = x.amin(-1, keepdim=True).clamp(max=0.0), x.amax(-1, keepdim=True).clamp(min=0.0)
    scale = ((high - low) / 255.0).clamp(min=torch.finfo(torch.float32).eps)
    low, high = low / scale, high / scale
    zero = torch.where(low + high > 1.0, -128.0 - low, 127.0 - high)
    zero = zero.clamp(-128.0, 127.0).round()
    return (x * (1.0 / scale) + zero).round().clamp(-128.0, 127.0) - zero, scale


def linear(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """`x` is fp64 [tokens, in]; the result is fp64 [tokens, out]."""
    scheme, data = weight.scheme, weight.data
    rows, width = data.shape
    out = torch.empty(x.shape[0], rows, dtype=torch.float64)
    if scheme.bits:
        x, token_scale = (part.double() for part in quantize_activations(x.float()))
    step = max(1, CHUNK_ELEMENTS // width)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        chunk = data[first:last].double()
        if scheme.group:
            scale = weight.scale[first:last].double().unsqueeze(-1)
            chunk = (chunk.view(last - first, -1, scheme.group) * scale).view(last - first, width)
        part = x @ chunk.T
        if scheme.bits and not scheme.group:
            part *= weight.scale[first:last, 0].double()
        out[:, first:last] = part
    return out * token_scale if scheme.bits else out


def embed(tokens: torch.Tensor, weight: Weight) -> torch.Tensor:
    rows = weight.data[tokens].float()
    return (rows * weight.scale[tokens] if weight.scheme.bits else rows).double()


def norm(x: torch.Tensor, weight: Weight, epsilon: float) -> torch.Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + epsilon) * weight.data.double()


def frequencies(arch: Architecture) -> list[float]:
    """Scaled as Llama 3.1 does: keep short waves, stretch long ones, blend in between."""
    found, scaling = [], arch.rope_scaling
    for pair in range(arch.head_dim // 2):
        value = arch.rope_theta ** (-2.0 * pair / arch.head_dim)
        if scaling is not None:
            turns = scaling.original_max_position * value / (2.0 * math.pi)
            if turns < scaling.low_freq_factor:
                value /= scaling.factor
            elif turns <= scaling.high_freq_factor:
                span = scaling.high_freq_factor - scaling.low_freq_factor
                smooth = (turns - scaling.low_freq_factor) / span
                value = (1.0 - smooth) * value / scaling.factor + smooth * value
        found.append(value)
    return found


def rotate(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """`x` is [tokens, heads, head_dim]: pairs are (i, i + head_dim / 2)."""
    first, second = x.chunk(2, -1)
    cos, sin = angle.cos().unsqueeze(1), angle.sin().unsqueeze(1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def attention(arch: Architecture, x: torch.Tensor, weights: dict[str, Weight], prefix: str, angle):
    tokens, shared = x.shape[0], arch.heads // arch.kv_heads
    names = (f"{prefix}self_attn.{name}_proj.weight" for name in "qkv")
    q, k, v = (linear(x, weights[name]).view(tokens, -1, arch.head_dim) for name in names)
    q, k = rotate(q, angle), rotate(k, angle)
    k, v = (part.repeat_interleave(shared, 1) for part in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(arch.head_dim)
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    share = scores.masked_fill(future, -math.inf).softmax(-1)
    mixed = torch.einsum("hqk,khd->qhd", share, v).reshape(tokens, -1)
    return linear(mixed, weights[f"{prefix}self_attn.o_proj.weight"])


def evaluate(
    arch: Architecture,
    weights: dict[str, Weight],
    tokens: list[int],
    keep: int,
    progress=lambda _done, _total: None,
) -> torch.Tensor:
    """fp32 logits [keep, vocab] of the last `keep` of `tokens`, which start at position 0."""
    place = torch.arange(len(tokens), dtype=torch.float64)
    angle = torch.outer(place, torch.tensor(frequencies(arch), dtype=torch.float64))
    x = embed(torch.tensor(tokens), weights[EMBEDDING])
    for layer in range(arch.layers):
        prefix = f"model.layers.{layer}."
        before = norm(x, weights[f"{prefix}input_layernorm.weight"], arch.norm_eps)
        x = x + attention(arch, before, weights, prefix, angle)
        after = norm(x, weights[f"{prefix}post_attention_layernorm.weight"], arch.norm_eps)
        gate, up = (linear(after, weights[f"{prefix}mlp.{n}_proj.weight"]) for n in ("gate", "up"))
        x = x + linear(gate * torch.sigmoid(gate) * up, weights[f"{prefix}mlp.down_proj.weight"])
        progress(layer + 1, arch.layers + 1)
    logits = linear(norm(x[-keep:], weights[FINAL_NORM], arch.norm_eps), weights[HEAD])
    progress(arch.layers + 1, arch.layers + 1)
    return logits.float()


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
