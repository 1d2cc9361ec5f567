"""Special tokens, chat template and tokenizer: how a conversation becomes token ids.

Invariant: the jinja template and `render` give the same text, and encoding that text whole
gives the same ids as `encode` gives piece by piece; a test proves both.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BEGIN, END = "<|begin|>", "<|end|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
PAD = "<|pad|>"
SPECIALS = (BEGIN, END, *ROLES.values(), PAD)
BEGIN_ID, END_ID, SYSTEM_ID, USER_ID, ASSISTANT_ID, PAD_ID = range(len(SPECIALS))

TEMPLATE = (
    "{{ '<|begin|>' }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def render(messages: list[dict], add_generation_prompt: bool = False) -> str:
    text = BEGIN + "".join(f"{ROLES[m['role']]}{m['content']}{END}" for m in messages)
    return text + ROLES["assistant"] if add_generation_prompt else text


def train_tokenizer(texts, vocab: int) -> Tokenizer:
    """Byte-level BPE: any Unicode text goes through bytes, so there is no unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab:
        raise ValueError(
            f"tokenizer: got {tokenizer.get_vocab_size()} tokens, expected {vocab}: too little text"
        )
    return tokenizer


def encode(
    tokenizer: Tokenizer, messages: list[dict], add_generation_prompt: bool = False
) -> list[int]:
    return tokenizer.encode(render(messages, add_generation_prompt), add_special_tokens=False).ids


def assistant_mask(ids: list[int]) -> list[bool]:
    """True where the token is written by the assistant: its words and the end of its turn."""
    mask, inside = [], False
    for token in ids:
        mask.append(inside)
        if token == ASSISTANT_ID:
            inside = True
        elif token == END_ID:
            inside = False
    return mask
