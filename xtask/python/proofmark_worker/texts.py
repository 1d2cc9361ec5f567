"""Conversations as token ids: the model's own tokenizer and chat template.

The engine renders with another Jinja and tokenizes with the same library from Rust; what it must
get is recorded here.

**Invariant:** a template computes text and nothing else (sandbox, no loader).
"""

import json
from dataclasses import dataclass
from pathlib import Path

from .protocol import WorkerError


@dataclass(frozen=True)
class Text:
    """`scored` are the places of the assistant's tokens in `tokens`."""

    messages: list[dict]
    tokens: list[int]
    scored: list[int]


def _refuse(message: str):
    raise WorkerError("template", f"the chat template refuses the conversation: {message}")


class Writer:
    def __init__(self, tokenizer: Path, template: Path, bos: int, eos: int) -> None:
        from jinja2.sandbox import ImmutableSandboxedEnvironment
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        self.template = environment.from_string(template.read_text(encoding="utf-8"))
        self.names = {
            "bos_token": self.tokenizer.id_to_token(bos) or "",
            "eos_token": self.tokenizer.id_to_token(eos) or "",
        }

    def encode(self, messages: list[dict], add_generation_prompt: bool) -> list[int]:
        text = self.template.render(
            messages=messages, add_generation_prompt=add_generation_prompt, **self.names
        )
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: list[int]) -> str:
        """Special tokens are shown: a reply must not hold any."""
        return self.tokenizer.decode(tokens, skip_special_tokens=False)

    def rows(self) -> int:
        """Ids up to the last token; what a model has beyond them pads its matrix."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def specials(self) -> set[int]:
        added = self.tokenizer.get_added_tokens_decoder()
        return {token for token, entry in added.items() if entry.special}

    def text(self, messages: list[dict]) -> Text:
        tokens, scored = self.encode(messages, False), []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.encode(messages[:index], True)
            after = self.encode(messages[: index + 1], False)
            if tokens[: len(after)] != after or after[: len(before)] != before:
                raise WorkerError(
                    "template",
                    f"message {index}: a conversation does not begin as its own beginning does",
                    "perplexity needs a template that only appends",
                )
            scored += range(len(before), len(after))
        return Text(messages, tokens, scored)


def read(path: Path, writer: Writer, tokens_max: int, window: int) -> list[Text]:
    """Whole conversations until there are enough tokens; at least one, cut to the window."""
    found, total = [], 0
    for line in path.read_text(encoding="utf-8").splitlines():
        text = writer.text(json.loads(line)["messages"])
        limit = min(window, tokens_max)
        if len(text.tokens) > limit:
            if found:
                continue
            scored = [place for place in text.scored if place < limit]
            text = Text(text.messages, text.tokens[:limit], scored)
        if found and total + len(text.tokens) > tokens_max:
            break
        found.append(text)
        total += len(text.tokens)
    if not any(text.scored for text in found):
        raise WorkerError("heldout", f"{path}: no token of the assistant to score")
    return found
