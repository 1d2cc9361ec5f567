"""Mistral 7B and its relatives: a Llama whose layers may have a window.

Refused by name: biases, windows shorter than the text.
"""

from .family import Family
from .settings import Settings, whole_heads

WINDOW = 4096


def describe(settings: Settings) -> dict:
    found = whole_heads(settings.decoder())
    # Left out, it is the first model's; null is none.
    config = settings.config
    window = config.get("sliding_window", WINDOW)
    found["window"] = settings.window(window)
    return found


FAMILY = Family(
    "mistral",
    "mistral",
    "MistralForCausalLM",
    describe,
    gguf_turned=True,
    written=lambda arch: {"sliding_window": arch.window},
)
