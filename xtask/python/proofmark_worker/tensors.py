"""The weights that a description demands, by the names that graph and eager model use.

**Invariant:** a factor that the description demands is in the weights that a source gives, so that
nothing else knows of it.
"""

from dataclasses import dataclass

from .architecture import Architecture

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "model.norm.weight"
# Norms of a layer by their place: before attention, before the feed-forward, after each.
BEFORE_ATTENTION, BEFORE_FFN = "input_layernorm", "post_attention_layernorm"
AFTER_ATTENTION, AFTER_FFN = "attention_output_norm", "ffn_output_norm"
# Kinds that are no matrices; nobody quantizes them.
VECTORS = ("norm", "bias")
QUERY_NORM, KEY_NORM = "self_attn.q_norm", "self_attn.k_norm"


@dataclass(frozen=True)
class Tensor:
    """One weight. `kind` is embedding, linear, head, norm or bias.

    `factor` is what a source multiplies the checkpoint's numbers by.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    factor: float = 1.0

    @property
    def elements(self) -> int:
        return self.shape[0] * (self.shape[1] if len(self.shape) > 1 else 1)


def demanded(arch: Architecture) -> list[Tensor]:
    scale = arch.embedding_scale
    tensors = [Tensor(EMBEDDING, (arch.vocab, arch.dim), "embedding", scale)]
    for layer in range(arch.layers):
        tensors += _layer(arch, f"model.layers.{layer}.")
    # A head that shares the embedding's rows has their factor; the norm before it takes it back.
    tensors.append(Tensor(FINAL_NORM, (arch.dim,), "norm", 1.0 / scale if arch.tied else 1.0))
    if not arch.tied:
        tensors.append(Tensor(HEAD, (arch.vocab, arch.dim), "head"))
    return tensors


def _layer(arch: Architecture, prefix: str) -> list[Tensor]:
    query, keys = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
    # Queries are scaled where they are normed, or where they are made.
    scaled = arch.query_factor
    made, normed = (1.0, scaled) if arch.qk_norm else (scaled, 1.0)
    tensors = [
        Tensor(f"{prefix}{name}.weight", shape, "linear", made if "q_proj" in name else 1.0)
        for name, shape in (
            ("self_attn.q_proj", (query, arch.dim)),
            ("self_attn.k_proj", (keys, arch.dim)),
            ("self_attn.v_proj", (keys, arch.dim)),
            ("self_attn.o_proj", (arch.dim, query)),
            ("mlp.gate_proj", (arch.ffn, arch.dim)),
            ("mlp.up_proj", (arch.ffn, arch.dim)),
            ("mlp.down_proj", (arch.dim, arch.ffn)),
        )
    ]
    norms = [BEFORE_ATTENTION, BEFORE_FFN]
    norms += [AFTER_ATTENTION, AFTER_FFN] if arch.post_norms else []
    tensors += [Tensor(f"{prefix}{name}.weight", (arch.dim,), "norm") for name in norms]
    if arch.qk_norm:
        for name, factor in ((QUERY_NORM, normed), (KEY_NORM, 1.0)):
            tensors.append(Tensor(f"{prefix}{name}.weight", (arch.head_dim,), "norm", factor))
    if arch.qkv_bias:
        for name, rows, factor in (("q", query, made), ("k", keys, 1.0), ("v", keys, 1.0)):
            tensors.append(Tensor(f"{prefix}self_attn.{name}_proj.bias", (rows,), "bias", factor))
    return tensors


def parameters(arch: Architecture) -> int:
    return sum(tensor.elements for tensor in demanded(arch))
