"""Qwen3: norms of queries and keys, heads whose size the width does not decide.

Refused by name: biases, windows shorter than the text.
"""

from types import MappingProxyType

from ..tensors import KEY_NORM, QUERY_NORM
from .family import Family
from .qwen2 import windows, written
from .settings import Settings, whole_heads

HEAD_DIM = 128


def describe(settings: Settings) -> dict:
    found = settings.decoder()
    if settings.get("head_dim") is None:
        found["head_dim"] = found["rotary_dim"] = HEAD_DIM
    whole_heads(found)
    return {**found, "qk_norm": True, "window": windows(settings, found["layers"])}


FAMILY = Family(
    "qwen3",
    "qwen3",
    "Qwen3ForCausalLM",
    describe,
    gguf="qwen3",
    written=written,
    gguf_names=MappingProxyType({"attn_q_norm": QUERY_NORM, "attn_k_norm": KEY_NORM}),
)
