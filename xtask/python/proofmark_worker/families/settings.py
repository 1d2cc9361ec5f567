"""Reads a `config.json` as `transformers` does, and refuses by name what nothing here implements.

**Invariant:** null is as good as absent; a setting of another type than expected is refused.
"""

import math

from ..architecture import GLOBAL, WITHOUT_FEATURES
from ..fields import WorkerError
from .rope import positions, scaling

HINT = "the export does not implement it"
# Settings that change what is computed, and the value that leaves each without effect.
NEUTRAL = {
    "add_cross_attention": False,
    "alibi": False,
    "attention_bias": False,
    "attention_multiplier": None,
    "attention_out_bias": False,
    "attn_logit_softcapping": None,
    "attn_temperature_tuning": False,
    "bias": False,
    "clip_qkv": None,
    "compression_config": None,
    "dim_model_base": None,
    "embedding_multiplier": 1.0,
    "final_logit_softcapping": None,
    "hidden_activation": "silu",
    "is_causal": True,
    "is_encoder_decoder": False,
    "lm_head_bias": False,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "mlp_bias": False,
    "mlp_only_layers": 0,
    "no_rope_layer_interval": 0,
    "no_rope_layers": 0,
    "num_experts": 0,
    "num_local_experts": 0,
    "partial_rotary_factor": 1.0,
    "position_embedding_type": "rope",
    "qk_layernorm": False,
    "qk_norm": False,
    "qkv_bias": False,
    "quantization": None,
    "quantization_config": None,
    "query_pre_attn_scalar": None,
    "residual_multiplier": 1.0,
    "rope_interleaved": False,
    "rotary_pct": 1.0,
    "scale_depth": None,
    "scale_emb": 1.0,
    "use_bias": False,
    "use_bidirectional_attention": False,
    "use_parallel_residual": False,
    "use_qk_norm": False,
}


def refused(key: str, got: object, expected: str, hint: str = HINT) -> WorkerError:
    return WorkerError("config", f"config.json: {key}: got {got!r}, expected {expected}", hint)


class Settings:
    def __init__(self, config: dict, seq_len: int) -> None:
        self.config, self.seq_len = config, seq_len

    def get(self, key: str, default=None):
        found = self.config.get(key)
        return default if found is None else found

    def integer(self, key: str, default: int | None = None) -> int:
        found = self.get(key, default)
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if type(found) is not int or found < 1:
            raise refused(key, found, "a whole number above 0", "the file is damaged")
        return found

    def number(self, key: str, default: float | None = None) -> float:
        found = self.get(key, default)
        if type(found) not in (int, float) or not math.isfinite(found) or found <= 0:
            raise refused(key, found, "a number above 0", "the file is damaged")
        return float(found)

    def flag(self, key: str, default: bool) -> bool:
        found = self.get(key, default)
        if type(found) is not bool:
            raise refused(key, found, "true or false", "the file is damaged")
        return found

    def flags(self, key: str, layers: int) -> list | None:
        """One entry for each layer, if there are any."""
        found = self.get(key)
        if found is not None and (not isinstance(found, list) or len(found) < layers):
            raise refused(key, found, f"a list of {layers}", "the file is damaged")
        return found and found[:layers]

    def check_code(self, program: str) -> None:
        """Which program the weights are for."""
        named = self.get("architectures")
        if named is not None and program not in named:
            raise refused("architectures", named, program)
        own = (self.get("auto_map") or {}).get("AutoModelForCausalLM")
        if own is not None and not str(own).endswith(f".{program}"):
            raise refused("auto_map", own, f"no code of the checkpoint's own beside {program}")

    def check_neutral(self, implemented: frozenset[str]) -> None:
        for key, neutral in NEUTRAL.items():
            got = self.get(key)
            silent = got is None or got == neutral or (neutral == 0 and got == [])
            if key not in implemented and not silent:
                raise refused(key, got, "none" if neutral is None else repr(neutral))

    def activation(self, key: str, known: dict[str, str]) -> str:
        got = self.get(key, next(iter(known)))
        if got not in known:
            raise refused(key, got, f"one of {', '.join(known)}")
        return known[got]

    def window(self, tokens: int | None) -> int | None:
        """Of the layers that have one. It has no effect on texts that fit into it."""
        if tokens is not None and tokens < self.seq_len:
            raise refused(
                "sliding_window",
                tokens,
                f"none below the {self.seq_len} tokens of the export",
                f"export with a seq_len of at most {tokens}: windows are not implemented",
            )
        return tokens

    def all_global(self, layers: int) -> None:
        """Every layer sees everything before, as far as `layer_types` says."""
        for kind in self.flags("layer_types", layers) or []:
            if kind != "full_attention":
                raise refused("layer_types", kind, "full_attention in every layer")

    def decoder(self, *, theta: float = 10000.0, eps: float = 1e-6, tied: bool = False) -> dict:
        """What all families have in common, with their defaults."""
        heads, dim = self.integer("num_attention_heads"), self.integer("hidden_size")
        head_dim = self.integer("head_dim", dim // heads)
        rope = positions(self.config, theta)
        return {
            **WITHOUT_FEATURES,
            "dim": dim,
            "layers": self.integer("num_hidden_layers"),
            "heads": heads,
            "kv_heads": self.integer("num_key_value_heads", heads),
            "head_dim": head_dim,
            "ffn": self.integer("intermediate_size"),
            "vocab": self.integer("vocab_size"),
            "tied": self.flag("tie_word_embeddings", tied),
            "norm_eps": self.number("rms_norm_eps", eps),
            "rope_theta": float(rope["rope_theta"]),
            "rope_scaling": scaling(rope, self.config, self.seq_len),
            "rotary_dim": self.rotary_dim(rope, head_dim),
            "activation": self.activation("hidden_act", {"silu": "silu", "swish": "silu"}),
        }

    @staticmethod
    def rotary_dim(rope: dict, head_dim: int) -> int:
        return int(head_dim * float(rope.get("partial_rotary_factor", 1.0)))


def whole_heads(found: dict) -> dict:
    """For the families that rotate all channels of a head."""
    if found["rotary_dim"] != found["head_dim"]:
        share = found["rotary_dim"] / found["head_dim"]
        raise refused("partial_rotary_factor", share, "1.0")
    return found


def kinds(found: list[str]) -> list[str]:
    """None where all are global."""
    return [] if all(kind == GLOBAL for kind in found) else found
