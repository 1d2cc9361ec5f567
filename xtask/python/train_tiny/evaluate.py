"""Measures a checkpoint, or any engine that runs the same model, on held-out dialogues.

    python evaluate.py DIR [--dtype fp32|bf16] [--dialogues N] [--json FILE]
    python evaluate.py DIR --replies FILE      score replies that another program wrote
    python evaluate.py DIR --prompts FILE      write the prompts for such a program

Another engine plugs in by implementing `Engine` and calling `evaluate`. Figures: perplexity
over the words of the assistant, and the share of replies that the grammar accepts, greedy and
sampled, after held-out conversations (gold) and in conversations where all earlier replies are
the model's own (own).

Invariant: a reply counts as accepted only if it ended by itself with the end token.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
import torch
from tokenizers import Tokenizer

import chat
import dialogues
import grammar
import ratings
import reading
from model import load_checkpoint, write_atomic

REPLY_TOKENS_MAX = 96
SEQ_MAX = 512
EVAL_SEED = 2_000_003
OWN_TURNS = 10


class Engine(Protocol):
    """One conversation at a time, as an app runs it."""

    def start(self) -> None:
        """Forget everything."""

    def feed(self, ids: list[int]) -> np.ndarray:
        """Take more tokens; the logits (one per vocabulary entry) after the last of them."""


class EagerEngine:
    """The checkpoint in PyTorch, with a KV cache."""

    def __init__(self, directory: Path, dtype: torch.dtype) -> None:
        self.model = load_checkpoint(directory, dtype)
        self.start()

    def start(self) -> None:
        self.cache = self.model.new_cache()

    @torch.no_grad()
    def feed(self, ids: list[int]) -> np.ndarray:
        return self.feed_all(ids)[-1]

    @torch.no_grad()
    def feed_all(self, ids: list[int]) -> np.ndarray:
        """Logits after each of the tokens: one call instead of many. Optional for an engine."""
        return self.model(torch.tensor([ids]), self.cache)[0].float().numpy()


@dataclass
class Tally:
    """Counts of one kind of measurement."""

    replies: int = 0
    accepted: int = 0
    unfinished: int = 0
    ratings: int = 0
    parsed: int = 0
    exact: int = 0
    item_scores: list[float] = field(default_factory=list)
    missed_acts: Counter = field(default_factory=Counter)

    def report(self) -> dict:
        def share(part: int, whole: int) -> float | None:
            return round(part / whole, 4) if whole else None

        return {
            "replies": self.replies,
            "accepted": share(self.accepted, self.replies),
            "accepted_without_ratings": share(
                self.accepted - self.exact, self.replies - self.ratings
            ),
            "unfinished": self.unfinished,
            "ratings": self.ratings,
            "ratings_parsed": share(self.parsed, self.ratings),
            "ratings_exact": share(self.exact, self.ratings),
            "ratings_score": round(float(np.mean(self.item_scores)), 2)
            if self.item_scores
            else None,
            "missed_acts": dict(self.missed_acts.most_common()),
        }


def eq_score(given: tuple[int, ...], right: tuple[int, ...]) -> float:
    """One item by the published EQ-Bench v2 formula, times 10: 100 is perfect, below 0 is bad."""

    def penalty(d: int) -> float:
        if d == 0:
            return 0.0
        return 6.5 / (1 + math.exp(-1.2 * (d - 4))) if d <= 5 else float(d)

    return 10 * (10 - 0.7477 * sum(penalty(abs(g - r)) for g, r in zip(given, right, strict=True)))


def judge(tally: Tally, messages: list[dict], reply: str, finished: bool) -> None:
    """Count one reply to a conversation that ends with the user."""
    state = reading.understand([m["content"] for m in messages if m["role"] == "user"])
    accepted = finished and grammar.accepts(messages, reply)
    tally.replies += 1
    tally.accepted += accepted
    tally.unfinished += not finished
    if not accepted:
        tally.missed_acts[state.act] += 1
    if state.act == "rate":
        tally.ratings += 1
        given = ratings.parse_answer(reply, state.slots["emotions"]) if finished else None
        item = ratings.parse_prompt(state.slots["text"], reading.kind_of)
        tally.parsed += given is not None
        if given is not None and item is not None:
            right = ratings.values(item)
            tally.exact += given == right
            tally.item_scores.append(eq_score(given, right))


def choose(logits: np.ndarray, temperature: float, random: Random) -> int:
    if temperature == 0:
        return int(logits.argmax())
    scaled = (logits - logits.max()) / temperature
    weights = np.exp(scaled.astype(np.float64)).cumsum()
    return int(np.searchsorted(weights, random.random() * weights[-1], side="right"))


def answer(
    engine: Engine, tokenizer: Tokenizer, messages: list[dict], temperature: float, random: Random
) -> tuple[str, bool]:
    """The engine's reply and whether it ended by itself."""
    engine.start()
    prompt = chat.encode(tokenizer, messages, add_generation_prompt=True)
    logits, ids = engine.feed(prompt), []
    for _ in range(min(REPLY_TOKENS_MAX, SEQ_MAX - len(prompt))):
        token = choose(logits, temperature, random)
        if token == chat.END_ID:
            return tokenizer.decode(ids, skip_special_tokens=False), True
        ids.append(token)
        if len(prompt) + len(ids) < SEQ_MAX:
            logits = engine.feed([token])
    return tokenizer.decode(ids, skip_special_tokens=False), False


def heldout(tokenizer: Tokenizer, count: int) -> list[list[dict]]:
    def size(messages: list[dict]) -> int:
        return len(chat.encode(tokenizer, messages))

    texts = dialogues.generate(EVAL_SEED, count, heldout=True)
    return [dialogues.fit(messages, SEQ_MAX, size) for messages in texts]


def turns(texts: list[list[dict]]) -> list[list[dict]]:
    """Every beginning of a dialogue that waits for the assistant."""
    return [m[:i] for m in texts for i, message in enumerate(m) if message["role"] == "assistant"]


def perplexity(engine: Engine, tokenizer: Tokenizer, texts: list[list[dict]]) -> float:
    """Teacher-forced, over the assistant's tokens (words and ends of turns)."""
    total, count = 0.0, 0
    for messages in texts:
        ids = chat.encode(tokenizer, messages)
        engine.start()
        feed_all = getattr(engine, "feed_all", None)
        rows = (
            feed_all(ids[:-1])
            if feed_all
            else np.stack([engine.feed([token]) for token in ids[:-1]])
        )
        rows = rows.astype(np.float64)
        top = rows.max(axis=1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(rows - top).sum(axis=1))
        picked = rows[np.arange(len(rows)), ids[1:]]
        mask = np.array(chat.assistant_mask(ids)[1:])
        total += float((log_sum - picked)[mask].sum())
        count += int(mask.sum())
    return math.exp(total / count)


def gold_replies(
    engine: Engine, tokenizer: Tokenizer, texts: list[list[dict]], temperature: float
) -> Tally:
    tally, random = Tally(), Random(1)
    for messages in turns(texts):
        judge(tally, messages, *answer(engine, tokenizer, messages, temperature, random))
    return tally


def own_replies(engine: Engine, tokenizer: Tokenizer, count: int, temperature: float) -> Tally:
    """Conversations of ten turns in which the model reads its own earlier replies."""
    tally, random = Tally(), Random(2)
    writer = dialogues.Writer(EVAL_SEED + 1, heldout=True)
    for _ in range(count):
        messages, said, reply = [], [], None
        state = reading.State()
        for _ in range(OWN_TURNS):
            text = writer.user_message(writer.next_act(reply), state)
            messages.append({"role": "user", "content": text})
            if len(chat.encode(tokenizer, messages)) + REPLY_TOKENS_MAX > SEQ_MAX:
                break
            reply, finished = answer(engine, tokenizer, messages, temperature, random)
            judge(tally, messages, reply, finished)
            said.append(text)
            state = reading.understand(said)
            messages.append({"role": "assistant", "content": reply})
    return tally


def evaluate(
    engine: Engine, tokenizer: Tokenizer, count: int, say: Callable[[str], None] = lambda line: None
) -> dict:
    """All figures of one engine on `count` held-out dialogues and a tenth as many own ones."""
    texts = heldout(tokenizer, count)
    figures: dict = {
        "dialogues": count,
        "perplexity": round(perplexity(engine, tokenizer, texts), 5),
    }
    say(f"perplexity {figures['perplexity']}")
    for label, temperature in (("greedy", 0.0), ("temperature_0.7", 0.7)):
        for kind in ("gold", "own"):
            if kind == "gold":
                tally = gold_replies(engine, tokenizer, texts, temperature)
            else:
                tally = own_replies(engine, tokenizer, max(1, count // 10), temperature)
            figures[f"{kind}_{label}"] = tally.report()
            say(f"{kind}_{label} {json.dumps(tally.report())}")
    return figures


def score_replies(tokenizer: Tokenizer, count: int, path: Path) -> dict:
    """Lines `{"id", "reply", "finished"}` from another program, one for each prompt."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    prompts = turns(heldout(tokenizer, count))
    if sorted(line["id"] for line in lines) != list(range(len(prompts))):
        raise ValueError(
            f"{path}: got {len(lines)} replies, expected one for each of {len(prompts)} prompts"
        )
    tally = Tally()
    for line in lines:
        judge(tally, prompts[line["id"]], line["reply"], line["finished"])
    return tally.report()


def record(path: Path, label: str, figures: dict) -> None:
    """Put the figures under `evaluation`, beside those of the training."""
    training = json.loads(path.read_text(encoding="utf-8"))
    training.setdefault("evaluation", {})[label] = figures
    text = json.dumps(training, indent=2) + "\n"
    write_atomic(path, lambda tmp: tmp.write_text(text, encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("directory", type=Path, help="directory with the checkpoint and tokenizer")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--dialogues", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument(
        "--record", action="store_true", help="add the figures to training.json in the directory"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--replies", type=Path, help="score these replies instead of running the model"
    )
    mode.add_argument("--prompts", type=Path, help="write the prompts for another program and stop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer.from_file(str(args.directory / "tokenizer.json"))
    if args.prompts:
        found = enumerate(turns(heldout(tokenizer, args.dialogues)))
        lines = [json.dumps({"id": i, "messages": m}, ensure_ascii=False) for i, m in found]
        write_atomic(
            args.prompts, lambda tmp: tmp.write_text("\n".join(lines) + "\n", encoding="utf-8")
        )
        return 0
    if args.replies:
        figures = score_replies(tokenizer, args.dialogues, args.replies)
    else:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
        engine = EagerEngine(args.directory, dtype)
        figures = evaluate(
            engine, tokenizer, args.dialogues, lambda line: print(f"evaluate: {line}", flush=True)
        )
    text = json.dumps(figures, indent=2) + "\n"
    if args.record and not args.replies:
        record(args.directory / "training.json", f"eager_{args.dtype}", figures)
    if args.json:
        write_atomic(args.json, lambda tmp: tmp.write_text(text, encoding="utf-8"))
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
