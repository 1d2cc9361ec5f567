"""The rotary positions of a `config.json`, which has them in four places.

**Invariant:** each setting is taken from the place from which `transformers` takes it.
**Invariant:** what depends on the length of the text is decided by the export's own length, or
refused.
"""

import math

from ..fields import WorkerError

NUMBER_HINT = "the file is damaged"
ORIGINAL = "original_max_position_embeddings"


def _refused(key: str, got: object, expected: str, hint: str) -> WorkerError:
    return WorkerError("config", f"config.json: {key}: got {got!r}, expected {expected}", hint)


def positions(config: dict, theta: float) -> dict:
    """An older `rope_scaling` goes before `rope_parameters`; what it leaves out stands beside."""
    found: dict = {}
    for key in ("rope_parameters", "rope_scaling"):
        own = config.get(key)
        if own is not None and not isinstance(own, dict):
            raise _refused(key, own, "an object", NUMBER_HINT)
        found = own or found
    for key, value in found.items():
        if isinstance(value, dict):
            raise _refused(f"rope_parameters.{key}", value, "one object for all layers", "")
    return flat(found, config, theta)


def flat(rope: dict, config: dict, theta: float) -> dict:
    found = {key: value for key, value in rope.items() if value is not None}
    for key in ("rope_theta", "partial_rotary_factor"):
        if config.get(key) is not None:
            found.setdefault(key, config[key])
    found.setdefault("rope_theta", theta)
    return found


def kind(rope: dict) -> str:
    return rope.get("rope_type", rope.get("type", "default"))


def scaling(rope: dict, config: dict, seq_len: int) -> dict | None:
    """As a request has it."""
    got, longest = kind(rope), config.get("max_position_embeddings") or 2048
    if got == "default":
        return None
    if got == "dynamic":
        return _dynamic(rope, longest, seq_len)
    make = {"linear": _linear, "llama3": _llama3, "yarn": _yarn, "longrope": _longrope}.get(got)
    if make is None:
        known = "default, dynamic, linear, llama3, longrope, yarn"
        raise _refused("rope_type", got, f"one of {known}", "the export does not implement it")
    return {"kind": got, **make(rope, longest, seq_len)}


def _number(rope: dict, key: str, default: float | None = None) -> float:
    found = rope.get(key, default)
    if type(found) not in (int, float) or not 0.0 < found < math.inf:
        raise _refused(key, found, "a number above 0", NUMBER_HINT)
    return float(found)


def _original(rope: dict, longest: int) -> int:
    """Where it is left out, the model was trained on all its positions."""
    found = rope.get(ORIGINAL, longest)
    if type(found) is not int or found < 1:
        raise _refused(ORIGINAL, found, "a whole number above 0", NUMBER_HINT)
    return found


def _dynamic(rope: dict, longest: int, seq_len: int) -> None:
    """Stretches the base once a text is longer than the model's positions, not before."""
    _number(rope, "factor")
    if seq_len > longest:
        hint = f"export with a seq_len of at most {longest}"
        raise _refused("rope_type", "dynamic", f"another kind for {seq_len} tokens", hint)


def _linear(rope: dict, _longest: int, _seq_len: int) -> dict:
    return {"factor": _number(rope, "factor")}


def _llama3(rope: dict, longest: int, _seq_len: int) -> dict:
    keys = ("factor", "low_freq_factor", "high_freq_factor")
    original = _original(rope, longest)
    return {**{key: _number(rope, key) for key in keys}, "original_max_position": original}


def _yarn(rope: dict, longest: int, _seq_len: int) -> dict:
    original = _original(rope, longest)
    factor = _number(rope, "factor", longest / original)

    def size(share: float) -> float:
        return 1.0 if factor <= 1.0 else 0.1 * share * math.log(factor) + 1.0

    one, other = rope.get("mscale"), rope.get("mscale_all_dim")
    default = size(one) / size(other) if one and other else size(1.0)
    return {
        "factor": factor,
        "beta_fast": _number(rope, "beta_fast", 32.0),
        "beta_slow": _number(rope, "beta_slow", 1.0),
        "attention_factor": _number(rope, "attention_factor", default),
        "original_max_position": original,
        "truncate": bool(rope.get("truncate", True)),
    }


def _longrope(rope: dict, longest: int, seq_len: int) -> dict:
    original = _original(rope, longest)
    if seq_len > original:
        hint = f"export with a seq_len of at most {original}"
        raise _refused("rope_type", "longrope", f"another kind for {seq_len} tokens", hint)
    short = rope.get("short_factor")
    if not isinstance(short, list) or not all(type(it) in (int, float) and it > 0 for it in short):
        raise _refused("short_factor", short, "a list of numbers above 0", NUMBER_HINT)
    factor = _number(rope, "factor", longest / original)
    default = 1.0 if factor <= 1.0 else math.sqrt(1.0 + math.log(factor) / math.log(original))
    return {
        "short_factor": [float(it) for it in short],
        "attention_factor": _number(rope, "attention_factor", default),
    }
