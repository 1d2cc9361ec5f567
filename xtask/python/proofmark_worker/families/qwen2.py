"""Qwen2 and Qwen2.5: biases of queries, keys and values.

Refused by name: windows shorter than the text.
"""

from types import MappingProxyType

from ..architecture import Architecture
from .family import Family
from .settings import Settings, whole_heads

WINDOW, FIRST_WITH = 4096, 28


def windows(settings: Settings, layers: int) -> int | None:
    """Of Qwen's later layers, if it is switched on."""
    if not settings.flag("use_sliding_window", False):
        settings.all_global(layers)
        return None
    config = settings.config
    window = config.get("sliding_window", WINDOW)
    listed = settings.flags("layer_types", layers)
    first = settings.get("max_window_layers", FIRST_WITH)
    has = "sliding_attention" in listed if listed is not None else first < layers
    return settings.window(window) if has else None


def describe(settings: Settings) -> dict:
    found = whole_heads(settings.decoder())
    return {**found, "qkv_bias": True, "window": windows(settings, found["layers"])}


def written(arch: Architecture) -> dict:
    return {
        "use_sliding_window": arch.window is not None,
        "sliding_window": arch.window,
        "max_window_layers": 0,
    }


FAMILY = Family(
    "qwen2",
    "qwen2",
    "Qwen2ForCausalLM",
    describe,
    # Its own way to say what it always has.
    implemented=frozenset({"qkv_bias"}),
    gguf="qwen2",
    gguf_names=MappingProxyType({f"attn_{it}": f"self_attn.{it}_proj" for it in "qkv"}),
    written=written,
)
