"""Gemma 3, text alone: four norms a layer, two bases of positions, a scaled embedding.

Most layers have a window and positions of their own. Gains are stored as what they exceed 1 by.

Refused by name: the model with images, biases, caps of scores and logits, attention to what
follows, scaled positions of the layers with a window, windows shorter than the text.
"""

import math
from types import MappingProxyType

from ..architecture import GELU, GLOBAL, LOCAL, Architecture
from ..tensors import AFTER_ATTENTION, AFTER_FFN, BEFORE_FFN, KEY_NORM, QUERY_NORM
from .family import Family, renamed
from .rope import flat, kind, scaling
from .settings import Settings, kinds, refused

THETA, LOCAL_THETA = 1_000_000.0, 10_000.0
HEAD_DIM, WINDOW, PATTERN, SCALAR = 256, 4096, 6, 256
NAMES = MappingProxyType(
    {
        # In this order: the first of these is the name of another norm in the checkpoint.
        BEFORE_FFN: "pre_feedforward_layernorm",
        AFTER_ATTENTION: "post_attention_layernorm",
        AFTER_FFN: "post_feedforward_layernorm",
    }
)


def _rope(settings: Settings) -> tuple[dict, dict]:
    """Positions of the global layers, and of those with a window."""
    config = settings.config
    both = config.get("rope_parameters") or {}
    full = {**(both.get("full_attention") or {}), **(config.get("rope_scaling") or {})}
    local = both.get("sliding_attention") or {}
    beside = {"rope_theta": config.get("rope_theta")}
    full = flat(full, beside, THETA)
    local = flat(local, {"rope_theta": config.get("rope_local_base_freq")}, LOCAL_THETA)
    if kind(local) != "default":
        raise refused("rope_parameters.sliding_attention.rope_type", kind(local), "default")
    return full, local


def _kinds(settings: Settings, layers: int) -> list[str]:
    listed = settings.flags("layer_types", layers)
    if listed is None:
        pattern = settings.integer("sliding_window_pattern", PATTERN)
        return [LOCAL if (layer + 1) % pattern else GLOBAL for layer in range(layers)]
    names = {"full_attention": GLOBAL, "sliding_attention": LOCAL}
    if not set(listed) <= set(names):
        raise refused("layer_types", listed, f"each one of {', '.join(names)}")
    return [names[it] for it in listed]


def describe(settings: Settings) -> dict:
    full, local = _rope(settings)
    # Not read here: positions, which are two, and another name of the activation.
    unread = {k: v for k, v in settings.config.items() if "rope" not in k and k != "hidden_act"}
    plain = Settings(unread, settings.seq_len)
    found = plain.decoder(tied=True)
    head_dim = settings.integer("head_dim", HEAD_DIM)
    layers = _kinds(settings, found["layers"])
    scalar = settings.number("query_pre_attn_scalar", SCALAR)
    config, windowed = settings.config, LOCAL in layers
    window = config.get("sliding_window", WINDOW)
    return {
        **found,
        "head_dim": head_dim,
        "rotary_dim": head_dim,
        "rope_theta": float(full["rope_theta"]),
        "rope_scaling": scaling(full, config, settings.seq_len),
        "layer_kinds": kinds(layers),
        "local_rope_theta": float(local["rope_theta"]) if windowed else None,
        "window": settings.window(window) if windowed else None,
        "qk_norm": True,
        "post_norms": True,
        "activation": settings.activation("hidden_activation", {"gelu_pytorch_tanh": GELU}),
        "embedding_scale": math.sqrt(found["dim"]),
        "attention_scale": None if scalar == head_dim else scalar**-0.5,
        "gain_offset": 1.0,
    }


def written(arch: Architecture) -> dict:
    names = {GLOBAL: "full_attention", LOCAL: "sliding_attention"}
    scalar = arch.head_dim if arch.attention_scale is None else arch.attention_scale**-2.0
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": round(scalar, 6),
        "sliding_window": arch.window,
        "layer_types": [names[arch.kind(layer)] for layer in range(arch.layers)],
        "rope_local_base_freq": arch.local_rope_theta,
    }


FAMILY = Family(
    "gemma3",
    "gemma3_text",
    "Gemma3ForCausalLM",
    describe,
    implemented=frozenset({"hidden_activation", "query_pre_attn_scalar"}),
    place=renamed(NAMES),
    gguf="gemma3",
    written=written,
    gguf_names=MappingProxyType(
        {
            "attn_q_norm": QUERY_NORM,
            "attn_k_norm": KEY_NORM,
            "post_attention_norm": AFTER_ATTENTION,
            "post_ffw_norm": AFTER_FFN,
        }
    ),
)
