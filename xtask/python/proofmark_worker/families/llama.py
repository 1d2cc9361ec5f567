"""Llama 2 and 3, SmolLM2, and whatever else calls itself `llama`.

Refused by name: biases of attention and feed-forward, windows shorter than the text.
"""

from .family import Family
from .settings import Settings, whole_heads


def describe(settings: Settings) -> dict:
    found = whole_heads(settings.decoder())
    settings.all_global(found["layers"])
    # Not a setting of Llama's: what carries it is held to it all the same.
    if settings.get("use_sliding_window", True) is not False:
        settings.window(settings.get("sliding_window"))
    return found


FAMILY = Family("llama", "llama", "LlamaForCausalLM", describe, gguf_turned=True)
