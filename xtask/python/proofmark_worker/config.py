"""Cross-check of the checkpoint's `config.json` against the requested architecture.

**Invariant:** every setting that changes the arithmetic is compared; a difference names both
values. Nothing is taken from the file: it can only disagree.
"""

import json
import math
from pathlib import Path

from .protocol import Request, RopeScaling, WorkerError

_ABSENT = object()


def _differs(path: Path, key: str, got: object, expected: object) -> WorkerError:
    return WorkerError(
        "config",
        f"{path}: {key}: got {got!r}, expected {expected!r}",
        "the recipe describes another architecture than the checkpoint",
    )


def _same(got: object, expected: object) -> bool:
    if isinstance(expected, bool) or isinstance(got, bool) or got is None:
        return got is expected
    if isinstance(expected, float) and isinstance(got, int | float):
        return math.isclose(got, expected, rel_tol=1e-9)
    return got == expected


def _compare(path: Path, config: dict, key: str, expected: object, default=_ABSENT) -> None:
    got = config.get(key, default)
    if got is _ABSENT:
        raise WorkerError("config", f"{path}: missing key {key!r}, expected {expected!r}")
    if got is None and default is not _ABSENT:
        got = default
    if not _same(got, expected):
        raise _differs(path, key, got, expected)


def _rope(config: dict) -> dict:
    """Newer files keep theta and scaling together, older ones apart."""
    together = config.get("rope_parameters")
    if isinstance(together, dict):
        return together
    apart = config.get("rope_scaling")
    return {**(apart if isinstance(apart, dict) else {}), "rope_theta": config.get("rope_theta")}


def _check_rope(path: Path, config: dict, theta: float, scaling: RopeScaling | None) -> None:
    rope = _rope(config)
    got = rope.get("rope_theta")
    if not _same(10000.0 if got is None else got, theta):
        raise _differs(path, "rope_theta", got, theta)
    kind = rope.get("rope_type", rope.get("type")) or "default"
    expected = "default" if scaling is None else "llama3"
    if kind != expected:
        raise _differs(path, "rope_type", kind, expected)
    if scaling is None:
        return
    for key, value in (
        ("factor", scaling.factor),
        ("low_freq_factor", scaling.low_freq_factor),
        ("high_freq_factor", scaling.high_freq_factor),
        ("original_max_position_embeddings", scaling.original_max_position),
    ):
        _compare(path, rope, key, value)


def _check_tokens(path: Path, config: dict, request: Request) -> None:
    bos = config.get("bos_token_id")
    if bos is not None and bos != request.bos_id:
        raise _differs(path, "bos_token_id", bos, request.bos_id)
    eos = config.get("eos_token_id")
    listed = eos if isinstance(eos, list) else [] if eos is None else [eos]
    # The recipe may know more stop tokens, but one that the checkpoint names must not be lost.
    if any(token not in request.eos_ids for token in listed):
        raise _differs(path, "eos_token_id", eos, list(request.eos_ids))


def check_config(request: Request) -> None:
    path = request.source_dir / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as cause:
        raise WorkerError("config", f"{path}: cannot be read: {cause}") from cause
    if not isinstance(config, dict):
        raise WorkerError("config", f"{path}: not a json object")
    arch = request.architecture
    if "quantization_config" in config:
        raise WorkerError("config", f"{path}: the checkpoint is already quantized")
    _compare(path, config, "model_type", "llama")
    _compare(path, config, "hidden_size", arch.dim)
    _compare(path, config, "num_hidden_layers", arch.layers)
    _compare(path, config, "num_attention_heads", arch.heads)
    _compare(path, config, "num_key_value_heads", arch.kv_heads, config["num_attention_heads"])
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    _compare(path, config, "head_dim", arch.head_dim, head_dim)
    _compare(path, config, "intermediate_size", arch.ffn)
    _compare(path, config, "vocab_size", arch.vocab)
    _compare(path, config, "rms_norm_eps", arch.norm_eps, 1e-6)
    _compare(path, config, "tie_word_embeddings", arch.tied, False)
    _compare(path, config, "hidden_act", "silu", "silu")
    _compare(path, config, "attention_bias", False, False)
    _compare(path, config, "mlp_bias", False, False)
    _check_rope(path, config, arch.rope_theta, arch.rope_scaling)
    _check_tokens(path, config, request)
