"""Typed fields of a JSON object, and the one exception that becomes an error response.

**Invariant:** an unknown, missing or wrongly typed key is an error, never a default.
"""

from pathlib import Path

NUMBER_MAX = 1e12


class WorkerError(Exception):
    """A failure with a name. `kind` is for the machine, `error` and `hint` are for people."""

    def __init__(self, kind: str, error: str, hint: str | None = None) -> None:
        super().__init__(error)
        self.kind = kind
        self.error = error
        self.hint = hint


def bad(what: str) -> WorkerError:
    return WorkerError("request", what)


class Fields:
    """Takes typed fields out of a JSON object and complains about what is left over."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise bad(f"{where}: got {type(value).__name__}, expected an object")
        self.left = dict(value)
        self.where = where

    def raw(self, key: str) -> object:
        if key not in self.left:
            raise bad(f"{self.where}: missing key {key!r}")
        return self.left.pop(key)

    def typed(self, key: str, kind: type) -> object:
        value = self.raw(key)
        # bool is an int in Python; a JSON integer is a fine float, never the other way round.
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise bad(f"{self.where}.{key}: got {value!r}, expected {kind.__name__}")
        return value

    def integer(self, key: str, low: int, high: int = 1 << 62) -> int:
        value = self.typed(key, int)
        if not low <= value <= high:
            raise bad(f"{self.where}.{key}: got {value}, expected {low} to {high}")
        return value

    def count(self, key: str) -> int:
        return self.integer(key, 0)

    def optional(self, key: str, read):
        """None where the key says null, else what `read(key)` takes."""
        if key in self.left and self.left[key] is None:
            return self.left.pop(key)
        return read(key)

    def number(self, key: str, low: float, high: float) -> float:
        value = self.typed(key, float)
        if not low <= value <= high:
            raise bad(f"{self.where}.{key}: got {value}, expected {low} to {high}")
        return value

    def positive(self, key: str) -> float:
        return _positive(self.typed(key, float), f"{self.where}.{key}")

    def positives(self, key: str, most: int) -> tuple[float, ...]:
        value = self.some(key, most)
        return tuple(_positive(number, f"{self.where}.{key}") for number in value)

    def some(self, key: str, most: int) -> list:
        value = self.typed(key, list)
        if len(value) > most:
            raise bad(f"{self.where}.{key}: got {len(value)} items, expected at most {most}")
        return value

    def text(self, key: str) -> str:
        value = self.typed(key, str)
        if not value:
            raise bad(f"{self.where}.{key}: got an empty string")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in choices:
            raise bad(f"{self.where}.{key}: got {value!r}, expected one of {', '.join(choices)}")
        return value

    def choices(self, key: str, choices: tuple[str, ...], most: int) -> tuple[str, ...]:
        value = self.some(key, most)
        for item in value:
            if item not in choices:
                wanted = ", ".join(choices)
                raise bad(f"{self.where}.{key}: got {item!r}, expected one of {wanted}")
        return tuple(value)

    def path(self, key: str) -> Path:
        value = Path(self.text(key))
        if not value.is_absolute():
            raise bad(f"{self.where}.{key}: got {value}, expected an absolute path")
        return value

    def tokens(self, key: str, vocab: int, least: int) -> tuple[int, ...]:
        value = self.typed(key, list)
        if len(value) < least:
            raise bad(f"{self.where}.{key}: got {len(value)} tokens, expected at least {least}")
        for token in value:
            if type(token) is not int or not 0 <= token < vocab:
                raise bad(f"{self.where}.{key}: got {token!r}, expected a token below {vocab}")
        return tuple(value)

    def done(self) -> None:
        if self.left:
            raise bad(f"{self.where}: unknown key {sorted(self.left)[0]!r}")


def _positive(value: object, where: str) -> float:
    if type(value) not in (int, float) or not 0.0 < value < NUMBER_MAX:
        raise bad(f"{where}: got {value!r}, expected a positive number")
    return float(value)
