"""The grammar as a judge of replies that another program wrote; imports no PyTorch.

    python accept.py prompts MODEL_DIR OUT.json    held-out conversations that wait for a reply
    python accept.py judge REPLIES.json OUT.json   how many of these replies the grammar accepts

Invariant: a reply counts as accepted only if it ended by itself with the end token.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer

import chat
import grammar

REPLY_TOKENS_MAX = 96
SEQ_MAX = 512
# every second turn: enough to tell shares apart by a few percent, and half the time
STRIDE = 2


def prompts(directory: Path) -> list[dict]:
    """Every beginning of a held-out dialogue that waits for a reply and leaves room for one."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    lines = (directory / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines):
        messages = json.loads(line)["messages"]
        for turn, message in enumerate(messages):
            before = messages[:turn]
            if message["role"] != "assistant":
                continue
            if len(chat.encode(tokenizer, before, True)) + REPLY_TOKENS_MAX <= SEQ_MAX:
                found.append({"id": f"{number}/{turn}", "messages": before})
    return found[::STRIDE]


def judge(replies: list[dict]) -> dict:
    accepted = sum(
        reply["finished"] and grammar.accepts(reply["messages"], reply["reply"])
        for reply in replies
    )
    return {"replies": len(replies), "accepted": accepted}


def main(arguments: list[str]) -> int:
    match arguments:
        case ["prompts", directory, out]:
            value = prompts(Path(directory))
        case ["judge", replies, out]:
            value = judge(json.loads(Path(replies).read_text(encoding="utf-8")))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    Path(out).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
