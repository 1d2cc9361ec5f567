"""SmolLM3: a Llama some of whose layers know no positions.

Refused by name: biases, windows shorter than the text.
"""

from ..architecture import GLOBAL, UNROTATED
from .family import Family
from .settings import Settings, kinds, whole_heads


def describe(settings: Settings) -> dict:
    found = whole_heads(settings.decoder(theta=2_000_000.0, tied=True))
    layers = found["layers"]
    rotated = settings.flags("no_rope_layers", layers)
    if rotated is None:
        step = settings.integer("no_rope_layer_interval", 4)
        rotated = [(layer + 1) % step != 0 for layer in range(layers)]
    found["layer_kinds"] = kinds([GLOBAL if it else UNROTATED for it in rotated])
    if settings.flag("use_sliding_window", False):
        found["window"] = settings.window(settings.get("sliding_window"))
    else:
        settings.all_global(layers)
    return found


FAMILY = Family(
    "smollm3",
    "smollm3",
    "SmolLM3ForCausalLM",
    describe,
    implemented=frozenset({"no_rope_layers", "no_rope_layer_interval"}),
    gguf="smollm3",
    gguf_turned=True,
    written=lambda arch: {
        "no_rope_layers": [int(arch.kind(n) == GLOBAL) for n in range(arch.layers)],
        "use_sliding_window": arch.window is not None,
        "sliding_window": arch.window,
    },
)
