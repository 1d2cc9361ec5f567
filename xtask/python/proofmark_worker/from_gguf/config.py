"""`config.json` from a GGUF's metadata.

**Invariant:** every setting of the architecture is read or refused: one that is not known could
change the arithmetic.
"""

import json
import math

from ..architecture import Architecture, Llama3
from .head import Head, bad
from .tokenizer import Tokens

ARCHITECTURE = "general.architecture"
PREFIX = "llama."
# Those that say nothing about the arithmetic of a model that fits the recipe.
SILENT = {"llama.context_length", "llama.vocab_size", "llama.tensor_data_layout"}
READ = {
    "llama.block_count",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
    "llama.rope.scaling.type",
}
CONTEXT_DEFAULT = 2048


def check_family(head: Head) -> None:
    """Only the architecture that the worker has, with none but known settings."""
    family = head.metadata.get(ARCHITECTURE)
    if family != "llama":
        raise bad(
            f"{ARCHITECTURE}: got {family!r}, expected 'llama'",
            "no other architecture can be exported",
        )
    unknown = sorted(k for k in head.metadata if k.startswith(PREFIX) and k not in READ | SILENT)
    if unknown:
        raise bad(f"{unknown[0]}: got {head.metadata[unknown[0]]!r}, expected no such setting")
    scaling = head.metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise bad(f"llama.rope.scaling.type: got {scaling!r}, expected 'none'")


def _number(head: Head, key: str, kind: type, default=None):
    found = head.metadata.get(PREFIX + key, default)
    if type(found) is not kind:
        raise bad(f"{PREFIX}{key}: got {found!r}, expected a number ({kind.__name__})")
    return found


def _decimal(value: float) -> float:
    """The shortest number that is this one in single precision: 1e-05, not 9.99999974e-06."""
    import numpy as np

    return float(str(np.float32(value)))


def _scaling(scaling: Llama3 | None) -> dict | None:
    """The recipe's, which `check_rope` held against the factors in the file."""
    return scaling and {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_position,
    }


def settings(head: Head, arch: Architecture, tokens: Tokens) -> dict:
    """What `config.json` says: the GGUF's own settings, whose scaling was held to the recipe's."""
    heads = _number(head, "attention.head_count", int)
    dim = _number(head, "embedding_length", int)
    if heads < 1 or dim < 1:
        raise bad(f"llama.attention.head_count: got {heads} of {dim}, expected at least 1")
    head_dim = _number(head, "attention.key_length", int, dim // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        got = _number(head, key, int, head_dim)
        if got != head_dim:
            raise bad(f"{PREFIX}{key}: got {got}, expected the key length, {head_dim}")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": dim,
        "num_hidden_layers": _number(head, "block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": _number(head, "attention.head_count_kv", int, heads),
        "head_dim": head_dim,
        "intermediate_size": _number(head, "feed_forward_length", int),
        "vocab_size": head.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in head.tensors,
        "rms_norm_eps": _decimal(_number(head, "attention.layer_norm_rms_epsilon", float)),
        "rope_theta": _decimal(_number(head, "rope.freq_base", float, 10000.0)),
        "rope_scaling": _scaling(arch.rope_scaling),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": _number(head, "context_length", int, CONTEXT_DEFAULT),
        "bos_token_id": tokens.bos,
        "eos_token_id": list(tokens.eos) if len(tokens.eos) > 1 else tokens.eos[0],
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
                f"{PREFIX}{key}: got {got}, expected {expected}",
                "the recipe describes another model than the GGUF",
            )


def text(found: dict) -> bytes:
    """`config.json`."""
    return (json.dumps(found, indent=2) + "\n").encode()
