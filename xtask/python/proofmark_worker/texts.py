"""Conversations as token ids: the model's own tokenizer and chat template.

The engine renders with a machine of its own and tokenizes with the same library from Rust; what it
must get is recorded here.
"""

from dataclasses import dataclass
from pathlib import Path

from .fields import WorkerError
from .templates import Template


@dataclass(frozen=True)
class Text:
    """`scored` are the places of the assistant's tokens in `tokens`."""

    messages: list[dict]
    tokens: list[int]
    scored: list[int]


class Writer:
    def __init__(self, tokenizer: Path, template: Path, bos: int, eos: int) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(tokenizer))
        # Left in the file by a training run. A conversation is encoded whole, in the engine too.
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        names = [self.tokenizer.id_to_token(token) or "" for token in (bos, eos)]
        self.template = Template(template.read_text(encoding="utf-8"), *names)

    def encode(self, messages: list[dict], add_generation_prompt: bool) -> list[int]:
        text = self.template.render(messages, add_generation_prompt)
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
