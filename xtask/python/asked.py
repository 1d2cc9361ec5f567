"""Requests to the worker for what is written in Python: tests, comparisons.

`schemas/worker-request.json` describes them; a test holds this file against it.
"""

from __future__ import annotations

from pathlib import Path

from proofmark_worker.architecture import SILU, WITHOUT_FEATURES


def described(shape: dict) -> dict:
    """A whole description of what a shape says and leaves out."""
    usual = {"rope_scaling": None, "activation": SILU, "rotary_dim": shape["head_dim"]}
    return {**WITHOUT_FEATURES, **usual, **shape}


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
