"""Requests to the worker for what is written in Python: tests, comparisons.

`schemas/worker-request.json` describes them; a test holds this file against it.
"""

from __future__ import annotations

from pathlib import Path

# What the other families have and Llama has not; `rotary_dim` follows from the head.
FEATURES = {
    "rope_scaling": None,
    "layer_kinds": [],
    "local_rope_theta": None,
    "window": None,
    "qkv_bias": False,
    "qk_norm": False,
    "post_norms": False,
    "activation": "silu",
    "embedding_scale": 1.0,
    "attention_scale": None,
    "gain_offset": 0.0,
    "fused": False,
}


def described(shape: dict) -> dict:
    """A whole description of what a shape says and leaves out."""
    return {**FEATURES, "rotary_dim": shape["head_dim"], **shape}


def export(folder: Path, shape: dict, **changes) -> dict:
    """An export of random weights into a folder."""
    return {
        "protocol": 1,
        "model": "test",
        "source": {"kind": "random", "seed": 7},
        "architecture": described(shape),
        "quantization": "int8",
        "activations": "rotated",
        "seq_len": 64,
        "backend": "xnnpack",
        "bos_id": 1,
        "eos_ids": [2],
        "expected_partitions": None,
        "expected_delegated_linears": None,
        "file_bytes_min": 1,
        "file_bytes_max": 100_000_000,
        "threads": 2,
        "work_dir": str(folder / "work"),
        "pte": str(folder / "model.pte"),
        "reference": str(folder / "reference.safetensors"),
        "response": str(folder / "response.json"),
        "reference_prompt": [1],
        "reference_decode": [],
        "words": None,
        **changes,
    }
