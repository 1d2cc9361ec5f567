"""A third evaluation of the same model, as plainly as it can be written: fp32, one token at a time,
one head at a time. Only for comparison.
"""

import math

import torch


def frequencies(arch: dict) -> torch.Tensor:
    """After the published reference of Llama 3.1's scaling, by wavelength."""
    half = arch["head_dim"] // 2
    freqs = [1.0 / arch["rope_theta"] ** (2 * i / arch["head_dim"]) for i in range(half)]
    scaling = arch["rope_scaling"]
    if scaling is None:
        return torch.tensor(freqs)
    old = scaling["original_max_position"]
    low_wavelength = old / scaling["low_freq_factor"]
    high_wavelength = old / scaling["high_freq_factor"]
    new = []
    for freq in freqs:
        wavelength = 2 * math.pi / freq
        if wavelength < high_wavelength:
            new.append(freq)
        elif wavelength > low_wavelength:
            new.append(freq / scaling["factor"])
        else:
            smooth = (old / wavelength - scaling["low_freq_factor"]) / (
                scaling["high_freq_factor"] - scaling["low_freq_factor"]
            )
            new.append((1 - smooth) * freq / scaling["factor"] + smooth * freq)
    return torch.tensor(new)


def rotate(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    half = len(x) // 2
    out = torch.empty_like(x)
    for i in range(half):
        turned = complex(x[i], x[i + half]) * complex(math.cos(angles[i]), math.sin(angles[i]))
        out[i], out[i + half] = turned.real, turned.imag
    return out


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return weight * x / torch.sqrt(x.square().mean() + eps)


def logits(arch: dict, weights: dict, tokens: list[int]) -> torch.Tensor:
    """[tokens, vocab]: the logits after each token."""
    freqs, size = frequencies(arch), arch["head_dim"]
    shared = arch["heads"] // arch["kv_heads"]
    keys = [[] for _ in range(arch["layers"])]
    values = [[] for _ in range(arch["layers"])]
    head = weights["model.embed_tokens.weight" if arch["tied"] else "lm_head.weight"]
    out = []
    for position, token in enumerate(tokens):
        x = weights["model.embed_tokens.weight"][token]
        for layer in range(arch["layers"]):
            w = {k.split(".")[-2]: v for k, v in weights.items() if f"layers.{layer}." in k}
            h = norm(x, w["input_layernorm"], arch["norm_eps"])
            q, k, v = w["q_proj"] @ h, w["k_proj"] @ h, w["v_proj"] @ h
            k = torch.cat([rotate(part, position * freqs) for part in k.split(size)])
            keys[layer].append(k)
            values[layer].append(v)
            mixed = []
            for number, part in enumerate(q.split(size)):
                turned, at = rotate(part, position * freqs), number // shared * size
                score = torch.stack([turned @ k[at : at + size] for k in keys[layer]])
                share = torch.softmax(score / math.sqrt(size), 0)
                seen = torch.stack([v[at : at + size] for v in values[layer]])
                mixed.append(share @ seen)
            x = x + w["o_proj"] @ torch.cat(mixed)
            h = norm(x, w["post_attention_layernorm"], arch["norm_eps"])
            gate = w["gate_proj"] @ h
            x = x + w["down_proj"] @ (gate * torch.sigmoid(gate) * (w["up_proj"] @ h))
        out.append(head @ norm(x, weights["model.norm.weight"], arch["norm_eps"]))
    return torch.stack(out)
