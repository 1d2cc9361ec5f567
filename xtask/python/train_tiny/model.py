"""The Llama architecture in plain PyTorch, with the tensor names and layout of Hugging Face.

Small on purpose: it trains the embedded default model and scores a checkpoint. It is not the
export worker's model, so that an error in one of the two shows as a difference between them.

Invariant: `state_dict()` has exactly the names, shapes and row order of `LlamaForCausalLM` with
tied embeddings (there is no `lm_head.weight`), and rotary embedding is the half-rotation form.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CHECKPOINT_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
# see `Llama.init_weights`
CONSTANT_ENTRY = 0.16
LOOK_BACK_PAIRS = 6
LOOK_BACK_WEIGHT = 1.0


@dataclass(frozen=True)
class Shape:
    """Every size of the network. `ffn`, `dim` and `heads * head_dim` divide by 32 (int4 group)."""

    vocab: int = 1024
    dim: int = 192
    layers: int = 5
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 448
    seq_max: int = 512
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    def to_hf(self, bos: int, eos: int, pad: int) -> dict:
        """The `config.json` that `transformers` writes for these sizes."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.dim,
            "initializer_range": 0.02,
            "intermediate_size": self.ffn,
            "max_position_embeddings": self.seq_max,
            "mlp_bias": False,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pretraining_tp": 1,
            "rms_norm_eps": self.norm_eps,
            "rope_scaling": None,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "vocab_size": self.vocab,
        }

    @classmethod
    def from_hf(cls, config: dict) -> Shape:
        if config.get("rope_scaling") is not None or not config["tie_word_embeddings"]:
            raise ValueError("config.json: got rope scaling or an untied head, expected neither")
        return cls(
            vocab=config["vocab_size"],
            dim=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            ffn=config["intermediate_size"],
            seq_max=config["max_position_embeddings"],
            rope_theta=config["rope_theta"],
            norm_eps=config["rms_norm_eps"],
        )


class RmsNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half rotation: the first half of a head pairs with the second, as in Hugging Face weights."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        q_dim, kv_dim = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.dim, q_dim, bias=False)
        self.k_proj = nn.Linear(shape.dim, kv_dim, bias=False)
        self.v_proj = nn.Linear(shape.dim, kv_dim, bias=False)
        self.o_proj = nn.Linear(q_dim, shape.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: list | None) -> Tensor:
        batch, seq, _ = x.shape
        s = self.shape

        def heads(y: Tensor, count: int) -> Tensor:
            return y.view(batch, seq, count, s.head_dim).transpose(1, 2)

        q = rotate(heads(self.q_proj(x), s.heads), cos, sin)
        k = rotate(heads(self.k_proj(x), s.kv_heads), cos, sin)
        v = heads(self.v_proj(x), s.kv_heads)
        if cache is not None:
            if cache:
                k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
            cache[:] = [k, v]
        repeat = s.heads // s.kv_heads
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        past = k.shape[2] - seq
        mask = None
        if past and seq > 1:
            mask = torch.ones(seq, past + seq, dtype=torch.bool).tril(past)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=past == 0 and seq > 1)
        return self.o_proj(y.transpose(1, 2).reshape(batch, seq, s.heads * s.head_dim))


class Mlp(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.dim, shape.ffn, bias=False)
        self.up_proj = nn.Linear(shape.dim, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, shape.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(shape.dim, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RmsNorm(shape.dim, shape.norm_eps)
        self.mlp = Mlp(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: list | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """The part that Hugging Face calls `model`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.dim)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RmsNorm(shape.dim, shape.norm_eps)


class Llama(nn.Module):
    """Token ids to logits. With `cache` (one empty list per layer), continues after the cache."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Trunk(shape)
        half = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
        angles = torch.outer(
            torch.arange(shape.seq_max, dtype=torch.float32), 1.0 / shape.rope_theta**half
        )
        angles = torch.cat((angles, angles), dim=-1)
        # not part of the checkpoint: derived from the config
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def init_weights(self, generator: torch.Generator) -> None:
        """Normal 0.02 (less for what writes to the residual), and a start for looking back.

        The first entry of every embedding is the same number. Under tied embeddings it shifts all
        logits alike, and it gives attention something that does not depend on the token.
        """
        for name, weight in self.named_parameters():
            if weight.dim() < 2:
                continue
            std = 0.02
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= (2 * self.shape.layers) ** 0.5
            nn.init.normal_(weight, std=std, generator=generator)
        with torch.no_grad():
            self.model.embed_tokens.weight[:, 0] = CONSTANT_ENTRY
            self._look_back()

    def _look_back(self) -> None:
        """The query heads of the first key head, in the first layer, look 1, 2, ... tokens back.

        Copying needs heads that look at the token before; found by chance they cost most of a
        short training. Query and key are a constant vector, turned against each other.
        """
        s, attention = self.shape, self.model.layers[0].self_attn
        half = s.head_dim // 2
        fast = torch.arange(min(LOOK_BACK_PAIRS, half))
        angle = 1.0 / s.rope_theta ** (2 * fast / s.head_dim)
        attention.k_proj.weight[fast, 0] += LOOK_BACK_WEIGHT
        for head in range(s.heads // s.kv_heads):
            # a query at p, turned back by d steps, meets the key at p - d
            back = angle * (head + 1)
            start = head * s.head_dim
            attention.q_proj.weight[start + fast, 0] += LOOK_BACK_WEIGHT * back.cos()
            attention.q_proj.weight[start + half + fast, 0] -= LOOK_BACK_WEIGHT * back.sin()

    def new_cache(self) -> list[list]:
        return [[] for _ in range(self.shape.layers)]

    def hidden(self, ids: Tensor, cache: list[list] | None = None) -> Tensor:
        past = cache[0][0].shape[2] if cache and cache[0] else 0
        end = past + ids.shape[1]
        if end > self.shape.seq_max:
            raise ValueError(f"sequence: got {end} tokens, expected at most {self.shape.seq_max}")
        x = self.model.embed_tokens(ids)
        cos, sin = self.cos[past:end].to(x.dtype), self.sin[past:end].to(x.dtype)
        for index, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, None if cache is None else cache[index])
        return self.model.norm(x)

    def forward(self, ids: Tensor, cache: list[list] | None = None) -> Tensor:
        return F.linear(self.hidden(ids, cache), self.model.embed_tokens.weight)


def write_atomic(path: Path, write) -> None:
    """`write(temporary)` then rename: a reader sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)
    temporary.chmod(0o644)
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)


def save_checkpoint(model: Llama, directory: Path) -> None:
    tensors = {
        name: t.detach().to(torch.bfloat16).contiguous() for name, t in model.state_dict().items()
    }
    path = directory / CHECKPOINT_NAME
    write_atomic(path, lambda tmp: save_file(tensors, tmp, metadata={"format": "pt"}))


def load_checkpoint(directory: Path, dtype: torch.dtype = torch.float32) -> Llama:
    config = json.loads((directory / CONFIG_NAME).read_text(encoding="utf-8"))
    model = Llama(Shape.from_hf(config))
    model.load_state_dict(load_file(directory / CHECKPOINT_NAME))
    return model.to(dtype).eval()
