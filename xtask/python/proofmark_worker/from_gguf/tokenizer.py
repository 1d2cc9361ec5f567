"""`tokenizer.json` and its companions from a GGUF's metadata.

Only byte-level BPE, and only kinds whose Hugging Face original is known exactly: the file that this
writes for SmolLM2 is the published one byte for byte (a test compares the digests).
"""

import json
from dataclasses import dataclass, field

from .head import Head, bad

MODEL = "tokenizer.ggml.model"
PRE = "tokenizer.ggml.pre"
TOKENS = "tokenizer.ggml.tokens"
TYPES = "tokenizer.ggml.token_type"
MERGES = "tokenizer.ggml.merges"
TEMPLATE = "tokenizer.chat_template"
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

# How Llama 3 cuts a text into words: the pattern of its own tokenizer.json.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(add_prefix_space: bool, use_regex: bool) -> dict:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _split(pattern: str) -> dict:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def _sequence(*steps: dict) -> dict:
    return {"type": "Sequence", "pretokenizers": list(steps)}


@dataclass(frozen=True)
class Kind:
    """What a name in `tokenizer.ggml.pre` stands for."""

    pre_tokenizer: dict
    # A word that is a token is taken whole, whatever the merges say.
    ignore_merges: bool = False
    # Whether a text begins with the first token where nothing else is said.
    adds_bos: bool = False
    normalizer: dict | None = None
    post_processor: dict | None = None
    decoder: dict = field(default_factory=lambda: _byte_level(True, True))
    # What the library leaves out or writes as an empty text, by who wrote the original.
    affix: str | None = None


GPT2 = Kind(_byte_level(False, True))
SMOLLM = Kind(_sequence({"type": "Digits", "individual_digits": True}, _byte_level(False, True)))
LLAMA3 = Kind(
    _sequence(
        _split(LLAMA3_PATTERN),
        _byte_level(False, False),
    ),
    ignore_merges=True,
    adds_bos=True,
)
# Digits one by one, and no offsets that are trimmed.
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
PLAIN = {**_byte_level(False, False), "trim_offsets": False}
QWEN2 = Kind(
    _sequence(
        _split(QWEN2_PATTERN),
        PLAIN,
    ),
    normalizer={"type": "NFC"},
    post_processor=PLAIN,
    decoder=PLAIN,
    affix="",
)
KINDS = {
    "qwen2": QWEN2,
    "gpt-2": GPT2,
    "gpt2": GPT2,
    "smollm": SMOLLM,
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
}


@dataclass(frozen=True)
class Tokens:
    """Special ids; `eos` are all that end a reply."""

    bos: int
    eos: tuple[int, ...]


def _listed(head: Head, key: str, kind: type) -> list:
    found = head.metadata.get(key)
    if not isinstance(found, list) or any(type(item) is not kind for item in found):
        raise bad(f"{key}: got none, or other values than {kind.__name__}")
    return found


def _id(head: Head, name: str, vocab: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    found = head.metadata.get(key)
    if found is not None and (type(found) is not int or not 0 <= found < vocab):
        raise bad(f"{key}: got {found!r}, expected a token below {vocab}")
    return found


def special(head: Head, vocab: int) -> Tokens:
    """The special ids that the metadata name."""
    bos, ends = _id(head, "bos", vocab), [_id(head, name, vocab) for name in ("eos", "eot", "eom")]
    if bos is None or ends[0] is None:
        raise bad("tokenizer.ggml: got no bos_token_id or no eos_token_id, expected both")
    return Tokens(bos, tuple(dict.fromkeys(end for end in ends if end is not None)))


def check_special(found: Tokens, bos: int, eos: tuple[int, ...]) -> None:
    """The recipe may know more tokens that end a reply; none may be lost."""
    hint = "the recipe describes another model than the GGUF"
    if found.bos != bos:
        raise bad(f"tokenizer.ggml.bos_token_id: got {found.bos}, expected {bos}", hint)
    lost = [token for token in found.eos if token not in eos]
    if lost:
        raise bad(
            f"tokenizer.ggml: token {lost[0]} ends a reply, expected one of {list(eos)}", hint
        )


def _kind(head: Head) -> Kind:
    model, pre = head.metadata.get(MODEL), head.metadata.get(PRE)
    if model != "gpt2":
        raise bad(
            f"{MODEL}: got {model!r}, expected 'gpt2', which is byte-level BPE",
            "other tokenizers cannot be rebuilt exactly: take the model's own checkpoint",
        )
    if pre not in KINDS:
        raise bad(
            f"{PRE}: got {pre!r}, expected one of {', '.join(sorted(KINDS))}",
            "how other kinds cut a text is not known exactly: take the model's own checkpoint",
        )
    if head.metadata.get("tokenizer.ggml.add_space_prefix") is True:
        raise bad("tokenizer.ggml.add_space_prefix: got true, expected byte-level BPE without it")
    return KINDS[pre]


def _added(token: str, index: int, control: bool) -> dict:
    return {
        "id": index,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": control,
    }


def _post_processor(head: Head, kind: Kind, tokens: list[str], bos: int) -> dict | None:
    if not head.metadata.get("tokenizer.ggml.add_bos_token", kind.adds_bos):
        return kind.post_processor
    first = {"SpecialToken": {"id": tokens[bos], "type_id": 0}}
    text, other = ({"Sequence": {"id": name, "type_id": index}} for index, name in enumerate("AB"))
    again = {"SpecialToken": {"id": tokens[bos], "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, again, other],
        "special_tokens": {tokens[bos]: {"id": tokens[bos], "ids": [bos], "tokens": [tokens[bos]]}},
    }


def _vocabulary(head: Head, vocab: int) -> tuple[list[str], list[int]]:
    tokens, types = _listed(head, TOKENS, str), _listed(head, TYPES, int)
    for key, got in ((TOKENS, len(tokens)), (TYPES, len(types))):
        if got != vocab:
            raise bad(f"{key}: got {got}, expected the recipe's vocabulary of {vocab}")
    if len(set(tokens)) != len(tokens):
        raise bad(f"{TOKENS}: got a token twice, expected each once")
    unknown = sorted(set(types) - {NORMAL, CONTROL, USER_DEFINED, UNUSED})
    if unknown:
        raise bad(f"{TYPES}: got tokens of type {unknown[0]}, which byte-level BPE has not")
    return tokens, types


def tokenizer(head: Head, vocab: int, bos: int) -> bytes:
    """`tokenizer.json`, in the layout of the library `tokenizers`."""
    kind = _kind(head)
    tokens, types = _vocabulary(head, vocab)
    merges = _listed(head, MERGES, str)
    entries = list(zip(tokens, types, strict=True))
    added = [
        _added(token, index, of == CONTROL)
        for index, (token, of) in enumerate(entries)
        if of in (CONTROL, USER_DEFINED)
    ]
    value = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": kind.normalizer,
        "pre_tokenizer": kind.pre_tokenizer,
        "post_processor": _post_processor(head, kind, tokens, bos),
        "decoder": kind.decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": kind.affix,
            "end_of_word_suffix": kind.affix,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": kind.ignore_merges,
            "vocab": {t: i for i, (t, of) in enumerate(entries) if of != UNUSED},
            "merges": merges,
        },
    }
    text = json.dumps(value, indent=2, ensure_ascii=False)
    _check(text, tokens, types)
    return text.encode()


def _check(text: str, tokens: list[str], types: list[int]) -> None:
    """The library reads it, and each token has its id."""
    from tokenizers import Tokenizer

    try:
        read = Tokenizer.from_str(text)
    # The library raises plain `Exception`.
    except Exception as cause:
        raise bad(f"tokenizer: {str(cause).splitlines()[0][:200]}") from cause
    for index, (token, of) in enumerate(zip(tokens, types, strict=True)):
        if of != UNUSED and read.token_to_id(token) != index:
            raise bad(f"{TOKENS}: {token!r}: got id {read.token_to_id(token)}, expected {index}")


def companions(head: Head, tokens: Tokens) -> dict[str, bytes]:
    """What stands beside `tokenizer.json`, by file name."""
    names = _listed(head, TOKENS, str)
    template = head.metadata.get(TEMPLATE)
    if template is not None and not isinstance(template, str):
        raise bad(f"{TEMPLATE}: got {type(template).__name__}, expected a text")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names[tokens.bos],
        "eos_token": names[tokens.eos[0]],
        "clean_up_tokenization_spaces": False,
    }
    files = {
        "generation_config.json": _json(
            {
                "bos_token_id": tokens.bos,
                "eos_token_id": list(tokens.eos) if len(tokens.eos) > 1 else tokens.eos[0],
            }
        )
    }
    if template is not None:
        settings["chat_template"] = template
        files["chat_template.jinja"] = template.encode()
    files["tokenizer_config.json"] = _json(settings)
    return files


def _json(value: dict) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
