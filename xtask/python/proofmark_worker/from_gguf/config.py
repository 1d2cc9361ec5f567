"""`config.json` from a GGUF's metadata.

**Invariant:** every setting of the architecture is read or refused: one that is not known could
change the arithmetic.
"""

import json
import math

from .. import families
from ..architecture import Architecture, Linear, Llama3
from .head import Head, bad
from .tokenizer import Tokens

ARCHITECTURE = "general.architecture"
# Those that say nothing about the arithmetic of a model that fits the recipe.
SILENT = {"context_length", "vocab_size", "tensor_data_layout"}
READ = {
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
}
CONTEXT_DEFAULT = 2048


def family_of(arch: Architecture) -> families.Family:
    found = families.ALL[arch.family]
    if found.gguf is None:
        raise bad(
            f"{ARCHITECTURE}: got a recipe of family {found.name}, expected one GGUF has whole",
            "take the model's own checkpoint",
        )
    return found


def check_family(head: Head, arch: Architecture) -> None:
    """The recipe's architecture, with none but known settings."""
    wanted, got = family_of(arch).gguf, head.metadata.get(ARCHITECTURE)
    if got != wanted:
        raise bad(
            f"{ARCHITECTURE}: got {got!r}, expected {wanted!r}",
            "the recipe describes another model than the GGUF",
        )
    prefix = f"{wanted}."
    known = {prefix + key for key in READ | SILENT}
    unknown = sorted(k for k in head.metadata if k.startswith(prefix) and k not in known)
    if unknown:
        raise bad(f"{unknown[0]}: got {head.metadata[unknown[0]]!r}, expected no such setting")
    _check_scaling(head, arch)
    window = head.metadata.get(f"{prefix}attention.sliding_window")
    if window is not None and window != arch.window:
        raise bad(f"{prefix}attention.sliding_window: got {window!r}, expected {arch.window}")


def _check_scaling(head: Head, arch: Architecture) -> None:
    """Llama 3's is in a tensor, which `check_rope` compares; one factor for all is a setting."""
    scaling, prefix = arch.rope_scaling, family_of(arch).gguf
    if scaling is not None and not isinstance(scaling, Llama3 | Linear):
        raise bad("rope.scaling: got another kind in the recipe, expected none, llama3 or linear")
    linear = isinstance(scaling, Linear)
    wanted = ("linear", scaling.factor) if linear else ("none", None)
    got = head.metadata.get(f"{prefix}.rope.scaling.type", "none")
    factor = head.metadata.get(f"{prefix}.rope.scaling.factor")
    if got != wanted[0]:
        raise bad(f"{prefix}.rope.scaling.type: got {got!r}, expected {wanted[0]!r}")
    if factor != wanted[1]:
        raise bad(f"{prefix}.rope.scaling.factor: got {factor!r}, expected {wanted[1]}")


class _Settings:
    """Of the file's own architecture."""

    def __init__(self, head: Head, prefix: str) -> None:
        self.head, self.prefix = head, prefix

    def number(self, key: str, kind: type, default=None):
        found = self.head.metadata.get(f"{self.prefix}.{key}", default)
        if type(found) is not kind:
            raise bad(f"{self.prefix}.{key}: got {found!r}, expected a number ({kind.__name__})")
        return found


def _decimal(value: float) -> float:
    """The shortest number that is this one in single precision: 1e-05, not 9.99999974e-06."""
    import numpy as np

    return float(str(np.float32(value)))


def _scaling(scaling: Llama3 | Linear | None) -> dict | None:
    """The recipe's, which was held against the file."""
    if isinstance(scaling, Linear):
        return {"rope_type": "linear", "factor": scaling.factor}
    return scaling and {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_position,
    }


def settings(head: Head, arch: Architecture, tokens: Tokens) -> dict:
    """What `config.json` says: the GGUF's settings, and the recipe's where GGUF has none."""
    family = family_of(arch)
    it = _Settings(head, family.gguf)
    heads, dim = it.number("attention.head_count", int), it.number("embedding_length", int)
    if heads < 1 or dim < 1:
        raise bad(f"{family.gguf}.attention.head_count: got {heads} of {dim}, expected at least 1")
    head_dim = it.number("attention.key_length", int, dim // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        got = it.number(key, int, head_dim)
        if got != head_dim:
            raise bad(f"{family.gguf}.{key}: got {got}, expected the key length, {head_dim}")
    return {
        "architectures": [family.program],
        "model_type": family.model_type,
        "hidden_size": dim,
        "num_hidden_layers": it.number("block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": it.number("attention.head_count_kv", int, heads),
        "head_dim": head_dim,
        "intermediate_size": it.number("feed_forward_length", int),
        "vocab_size": head.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in head.tensors,
        "rms_norm_eps": _decimal(it.number("attention.layer_norm_rms_epsilon", float)),
        "rope_theta": _decimal(it.number("rope.freq_base", float, 10000.0)),
        "rope_scaling": _scaling(arch.rope_scaling),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": it.number("context_length", int, CONTEXT_DEFAULT),
        "bos_token_id": tokens.bos,
        "eos_token_id": list(tokens.eos) if len(tokens.eos) > 1 else tokens.eos[0],
        **family.written(arch),
    }


def check(found: dict, arch: Architecture) -> None:
    """The settings that no tensor's shape shows are the recipe's."""
    for key, got, expected in (
        ("attention.head_count", found["num_attention_heads"], arch.heads),
        ("attention.head_count_kv", found["num_key_value_heads"], arch.kv_heads),
        ("attention.key_length", found["head_dim"], arch.head_dim),
        ("block_count", found["num_hidden_layers"], arch.layers),
        ("embedding_length", found["hidden_size"], arch.dim),
        ("feed_forward_length", found["intermediate_size"], arch.ffn),
        ("attention.layer_norm_rms_epsilon", found["rms_norm_eps"], arch.norm_eps),
        ("rope.freq_base", found["rope_theta"], arch.rope_theta),
    ):
        if not math.isclose(got, expected, rel_tol=1e-9):
            raise bad(
                f"{family_of(arch).gguf}.{key}: got {got}, expected {expected}",
                "the recipe describes another model than the GGUF",
            )


def text(found: dict) -> bytes:
    """`config.json`."""
    return (json.dumps(found, indent=2) + "\n").encode()
