"""A decoder described by its features, the same description for every family.

A family says how its `config.json` and its tensors come to this description; graph and eager model
know the description alone.

**Invariant:** bounds are those of `model-assets/src/limits.rs`; a test compares them by way of the
committed schema.
"""

import math
from dataclasses import dataclass

from .fields import Fields, bad

FAMILIES = ("llama", "smollm3", "mistral", "qwen2", "qwen3", "gemma3", "phi3")
# What a layer's queries and keys are rotated by: the model's positions, those of layers with a
# window, or none.
GLOBAL, LOCAL, UNROTATED = KINDS = ("global", "local", "unrotated")
SILU, GELU = ACTIVATIONS = ("silu", "gelu-tanh")
# What other families have and Llama has not, as a request says it.
WITHOUT_FEATURES = {
    "layer_kinds": [],
    "local_rope_theta": None,
    "window": None,
    "qkv_bias": False,
    "qk_norm": False,
    "post_norms": False,
    "embedding_scale": 1.0,
    "attention_scale": None,
    "gain_offset": 0.0,
    "fused": False,
}
WIDTH_MAX = 1 << 17
HEADS_MAX = 1024
HEAD_DIM_MAX = 256
LAYERS_MAX = 1024
VOCAB_MAX = 1 << 20
POSITIONS_MAX = 1 << 30


@dataclass(frozen=True)
class Llama3:
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclass(frozen=True)
class Linear:
    """Every frequency divided by one factor."""

    factor: float


@dataclass(frozen=True)
class Yarn:
    """Frequencies with few turns within the original length are divided, others are kept."""

    factor: float
    beta_fast: float
    beta_slow: float
    attention_factor: float
    original_max_position: int
    # Whether the borders of the ramp are whole pairs of channels.
    truncate: bool


@dataclass(frozen=True)
class LongRope:
    """A factor for each frequency, those for texts up to the original length."""

    short_factor: tuple[float, ...]
    attention_factor: float


@dataclass(frozen=True)
class Architecture:
    family: str
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    norm_eps: float
    rope_theta: float
    rope_scaling: Llama3 | Linear | Yarn | LongRope | None
    # Channels of a head that are rotated; the others pass.
    rotary_dim: int
    # One for each layer; none where all are global.
    layer_kinds: tuple[str, ...]
    local_rope_theta: float | None
    # Tokens that a layer with a window sees; no text is longer (`parse_request`).
    window: int | None
    qkv_bias: bool
    # Queries and keys are normed, head by head.
    qk_norm: bool
    # What a half of a layer gives is normed before it is added to the residual.
    post_norms: bool
    activation: str
    embedding_scale: float
    # What products of queries and keys are multiplied by; the head's size decides without it.
    attention_scale: float | None
    # Added to every gain that the checkpoint has.
    gain_offset: float
    # Queries, keys and values are one tensor of the checkpoint, gate and up another.
    fused: bool

    def kind(self, layer: int) -> str:
        return self.layer_kinds[layer] if self.layer_kinds else GLOBAL

    @property
    def query_factor(self) -> float:
        """What queries are multiplied by, so that attention's own scale is the head's."""
        if self.attention_scale is None:
            return 1.0
        return self.attention_scale * math.sqrt(self.head_dim)


def _scaling(value: object):
    if value is None:
        return None
    fields = Fields(value, "architecture.rope_scaling")
    kind = fields.choice("kind", ("llama3", "linear", "yarn", "longrope"))
    found = {"llama3": _llama3, "linear": _linear, "yarn": _yarn, "longrope": _longrope}[kind](
        fields
    )
    fields.done()
    return found


def _llama3(fields: Fields) -> Llama3:
    found = Llama3(
        factor=fields.positive("factor"),
        low_freq_factor=fields.positive("low_freq_factor"),
        high_freq_factor=fields.positive("high_freq_factor"),
        original_max_position=fields.integer("original_max_position", 1, POSITIONS_MAX),
    )
    if found.high_freq_factor <= found.low_freq_factor:
        raise bad(f"{fields.where}: high_freq_factor must exceed low_freq_factor")
    return found


def _linear(fields: Fields) -> Linear:
    return Linear(fields.positive("factor"))


def _yarn(fields: Fields) -> Yarn:
    return Yarn(
        factor=fields.positive("factor"),
        beta_fast=fields.positive("beta_fast"),
        beta_slow=fields.positive("beta_slow"),
        attention_factor=fields.positive("attention_factor"),
        original_max_position=fields.integer("original_max_position", 1, POSITIONS_MAX),
        truncate=fields.typed("truncate", bool),
    )


def _longrope(fields: Fields) -> LongRope:
    return LongRope(
        short_factor=fields.positives("short_factor", HEAD_DIM_MAX // 2),
        attention_factor=fields.positive("attention_factor"),
    )


def parse_architecture(value: object) -> Architecture:
    fields = Fields(value, "architecture")
    found = Architecture(
        family=fields.choice("family", FAMILIES),
        dim=fields.integer("dim", 1, WIDTH_MAX),
        layers=fields.integer("layers", 1, LAYERS_MAX),
        heads=fields.integer("heads", 1, HEADS_MAX),
        kv_heads=fields.integer("kv_heads", 1, HEADS_MAX),
        head_dim=fields.integer("head_dim", 2, HEAD_DIM_MAX),
        ffn=fields.integer("ffn", 1, WIDTH_MAX),
        vocab=fields.integer("vocab", 2, VOCAB_MAX),
        tied=fields.typed("tied", bool),
        norm_eps=fields.positive("norm_eps"),
        rope_theta=fields.positive("rope_theta"),
        rope_scaling=_scaling(fields.raw("rope_scaling")),
        rotary_dim=fields.integer("rotary_dim", 2, HEAD_DIM_MAX),
        layer_kinds=fields.choices("layer_kinds", KINDS, LAYERS_MAX),
        local_rope_theta=fields.optional("local_rope_theta", fields.positive),
        window=fields.optional("window", lambda key: fields.integer(key, 1, POSITIONS_MAX)),
        qkv_bias=fields.typed("qkv_bias", bool),
        qk_norm=fields.typed("qk_norm", bool),
        post_norms=fields.typed("post_norms", bool),
        activation=fields.choice("activation", ACTIVATIONS),
        embedding_scale=fields.positive("embedding_scale"),
        attention_scale=fields.optional("attention_scale", fields.positive),
        gain_offset=fields.number("gain_offset", 0.0, 1.0),
        fused=fields.typed("fused", bool),
    )
    fields.done()
    _check(found)
    return found


def _check(it: Architecture) -> None:
    """What no field alone shows."""
    longrope, half = isinstance(it.rope_scaling, LongRope), it.rotary_dim // 2
    local = LOCAL in it.layer_kinds
    for wrong, key, got, expected in (
        (it.heads % it.kv_heads, "heads", it.heads, f"a multiple of kv_heads {it.kv_heads}"),
        (it.head_dim % 2, "head_dim", it.head_dim, "an even number"),
        (
            it.rotary_dim % 2 or it.rotary_dim > it.head_dim,
            "rotary_dim",
            it.rotary_dim,
            f"an even number up to head_dim {it.head_dim}",
        ),
        (
            it.layer_kinds and len(it.layer_kinds) != it.layers,
            "layer_kinds",
            f"{len(it.layer_kinds)} layers",
            f"none or {it.layers}",
        ),
        (
            local != (it.local_rope_theta is not None),
            "local_rope_theta",
            it.local_rope_theta,
            "a number if layers are local, else none",
        ),
        (
            longrope and len(it.rope_scaling.short_factor) != half,
            "rope_scaling.short_factor",
            f"{len(it.rope_scaling.short_factor) if longrope else 0} numbers",
            f"{half}, one for each rotated pair",
        ),
    ):
        if wrong:
            raise bad(f"architecture.{key}: got {got}, expected {expected}")
