"""Phi-3 and Phi-4-mini: fused projections, heads that are rotated in part, LongRoPE.

Refused by name: biases, texts longer than the original length of LongRoPE, windows shorter than
the text.
"""

from ..architecture import Architecture
from .family import Family, Place
from .rope import ORIGINAL
from .settings import Settings

# What the family calls LongRoPE.
OLD_NAMES = ("su", "yarn")
ORIGINAL_MAX = 4096


def _positions(config: dict) -> dict:
    """With LongRoPE under its one name, and its original length where others have it."""
    found = {"max_position_embeddings": ORIGINAL_MAX, **config}
    for place in ("rope_parameters", "rope_scaling"):
        rope = config.get(place)
        if isinstance(rope, dict) and rope:
            named = rope.get("rope_type", rope.get("type", "default"))
            named = "longrope" if named in OLD_NAMES else named
            original = config.get(ORIGINAL) or ORIGINAL_MAX
            found[place] = {**rope, "rope_type": named, ORIGINAL: original}
    return found


def describe(settings: Settings) -> dict:
    found = Settings(_positions(settings.config), settings.seq_len).decoder(eps=1e-5)
    window = settings.window(settings.get("sliding_window"))
    return {**found, "window": window, "fused": True}


def place(arch: Architecture, name: str) -> Place:
    query, keys = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
    for part, fused, first in (
        ("self_attn.q_proj", "self_attn.qkv_proj", 0),
        ("self_attn.k_proj", "self_attn.qkv_proj", query),
        ("self_attn.v_proj", "self_attn.qkv_proj", query + keys),
        ("mlp.gate_proj", "mlp.gate_up_proj", 0),
        ("mlp.up_proj", "mlp.gate_up_proj", arch.ffn),
    ):
        if f".{part}." in name:
            return Place(name.replace(part, fused), first)
    return Place(name)


FAMILY = Family(
    "phi3",
    "phi3",
    "Phi3ForCausalLM",
    describe,
    implemented=frozenset({"partial_rotary_factor"}),
    place=place,
    # Its files have LongRoPE as tensors and settings that are not read.
    gguf=None,
)
