"""Trains the embedded default model from text that the grammar writes, on one CPU core.

    python train.py --out DIR [--steps N] [--threads N] [--seed N] [--work DIR]

`--out` receives the published files (checkpoint, config, tokenizer, template, held-out
dialogues, figures), each by rename. `--work` holds the resumable state; a run that was killed
continues there.

Invariant: the same seed, steps and thread count give the same data order; the text depends on
the seed alone.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

import chat
import dialogues
import grammar
import reading
from model import CONFIG_NAME, Llama, Shape, save_checkpoint, write_atomic

TOKENIZER_DIALOGUES = 20_000
HELDOUT_DIALOGUES = 64
HELDOUT_SEED = 1_000_003
VALIDATION_DIALOGUES = 200
POOL_DIALOGUES = 2048
BATCH_TOKENS = 2048
# rows of a batch are as wide as the longest, rounded up to this
WIDTH_STEP = 32
# what the user says is noise to the companion; a little weight keeps its words' embeddings alive
USER_WEIGHT = 0.05
# the four numbers of a rating are few among many words, and the hardest to learn
VALUE_WEIGHT = 4.0
MUON_RATE = 0.02
ADAM_RATE = 4e-3
WARMUP_STEPS = 50
PLATEAU_SHARE = 0.4
# copying drills first and now and then: a network that can copy any token learns names and events
# several times faster than one that must find out about copying from the dialogues
DRILL_STEPS = 200
DRILL_EVERY = 20
CLIP = 1.0
STATE_EVERY = 200
REPORT_EVERY = 20


def token_counter(tokenizer: Tokenizer):
    return lambda messages: len(chat.encode(tokenizer, messages))


def fitted(tokenizer: Tokenizer, texts: list[list[dict]], seq_max: int) -> list[list[int]]:
    count = token_counter(tokenizer)
    return [chat.encode(tokenizer, dialogues.fit(messages, seq_max, count)) for messages in texts]


def width_of(row: list[int]) -> int:
    return -(-len(row) // WIDTH_STEP) * WIDTH_STEP


def make_batches(
    rows: list[list[int]], generator: torch.Generator, keep_rest: bool
) -> list[list[list[int]]]:
    """Dialogues of like length together, in shuffled order.

    Compared with packing, no dialogue sees another one's words, right padding needs no attention
    mask, and there are only a few shapes, for each of which kernels are prepared once. Rows that
    fill no batch are kept or left out.
    """
    buckets: dict[int, list[list[int]]] = {}
    for row in rows:
        buckets.setdefault(width_of(row), []).append(row)
    batches = []
    for width, bucket in sorted(buckets.items()):
        size = BATCH_TOKENS // width
        for at in range(0, len(bucket), size):
            batch = bucket[at : at + size]
            if len(batch) == size or keep_rest:
                batches.append(batch)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def drill(generator: torch.Generator, vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of random tokens that repeat after some distance; only the repetition counts."""
    width = int(torch.randint(2, 9, (), generator=generator)) ** 2 * 8
    distance = int(torch.randint(4, width // 2 + 1, (), generator=generator))
    low, rows = len(chat.SPECIALS), BATCH_TOKENS // width
    start = torch.randint(low, vocab, (rows, distance), generator=generator)
    ids = start.repeat(1, width // distance + 2)[:, : width + 1]
    weight = torch.ones(rows, width + 1)
    weight[:, :distance] = 0.0
    # the first token of the repetition cannot be foreseen
    weight[:, distance] = 0.0
    return ids[:, :-1], ids[:, 1:], weight[:, 1:]


def batch_stream(tokenizer: Tokenizer, seed: int, shape: Shape):
    """Endless batches: drills first, then dialogues with a drill now and then."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(DRILL_STEPS):
        yield drill(generator, shape.vocab)
    for index, batch in enumerate(dialogue_stream(tokenizer, seed, shape.seq_max)):
        if index % DRILL_EVERY == 0:
            yield drill(generator, shape.vocab)
        yield batch


def dialogue_stream(tokenizer: Tokenizer, seed: int, seq_max: int):
    """Endless fresh dialogues; pool k depends on (seed, k) only."""
    pool, values = 0, value_tokens(tokenizer)
    while True:
        texts = dialogues.generate(seed * 1_000_000 + pool, POOL_DIALOGUES, heldout=False)
        generator = torch.Generator().manual_seed(seed * 1_000_000 + pool)
        for batch in make_batches(fitted(tokenizer, texts, seq_max), generator, keep_rest=False):
            yield tensors_of(batch, values)
        pool += 1


def value_tokens(tokenizer: Tokenizer) -> list[int]:
    """The tokens " 0" to " 10": in the assistant's words they occur in ratings only."""
    found = [tokenizer.encode(f" {value}").ids for value in range(11)]
    if any(len(ids) != 1 for ids in found):
        raise ValueError(f"tokenizer: got {found} for the values 0 to 10, expected one token each")
    return [ids[0] for ids in found]


def tensors_of(batch: list[list[int]], values: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and the weight of each target: at least 1 for the assistant's."""
    # one more than the inputs, which are the row without its last token
    width = max(map(width_of, batch)) + 1
    ids = torch.full((len(batch), width), chat.PAD_ID)
    weight = torch.zeros(len(batch), width)
    for index, row in enumerate(batch):
        ids[index, : len(row)] = torch.tensor(row)
        mask = torch.tensor(chat.assistant_mask(row))
        weight[index, : len(row)] = torch.where(mask, 1.0, USER_WEIGHT)
    weight[(weight == 1.0) & torch.isin(ids, torch.tensor(values))] = VALUE_WEIGHT
    return ids[:, :-1], ids[:, 1:], weight[:, 1:]


def losses_of(model: Llama, ids: Tensor, targets: Tensor) -> Tensor:
    logits = model(ids).float()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(
        targets.shape
    )


@torch.no_grad()
def assistant_loss(model: Llama, batches: list[list[list[int]]]) -> float:
    """Mean negative log likelihood of the assistant's tokens, in nats."""
    total, count = 0.0, 0.0
    for batch in batches:
        ids, targets, weight = tensors_of(batch, [])
        mask = (weight == 1.0).float()
        total += (losses_of(model, ids, targets) * mask).sum().item()
        count += mask.sum().item()
    return total / count


def rate_factor(step: int, steps: int) -> float:
    """Warm-up, a plateau, then straight down to a fiftieth."""
    left = (steps - step) / (steps * (1 - PLATEAU_SHARE))
    return min(1.0, (step + 1) / WARMUP_STEPS) * max(0.02, min(1.0, left))


class Optimizer:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms.

    On this task it needs about half of the tokens that AdamW alone needs for the same loss.
    """

    def __init__(self, model: Llama) -> None:
        named = dict(model.named_parameters())
        matrices = [p for n, p in named.items() if p.dim() >= 2 and "embed_tokens" not in n]
        rest = [p for n, p in named.items() if p.dim() < 2 or "embed_tokens" in n]
        muon = torch.optim.Muon(
            matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.05, adjust_lr_fn="original"
        )
        adam = torch.optim.AdamW(
            rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        self.parts = ((muon, MUON_RATE, matrices), (adam, ADAM_RATE, rest))
        self.names = {parameter: name for name, parameter in named.items()}

    def step(self, factor: float) -> None:
        for part, rate, _ in self.parts:
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
            part.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{field}/{self.names[parameter]}": value.detach().clone()
            for part, _, parameters in self.parts
            for parameter in parameters
            for field, value in part.state[parameter].items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        for part, _, parameters in self.parts:
            for parameter in parameters:
                ending = "/" + self.names[parameter]
                part.state[parameter] = {
                    key.removesuffix(ending): value
                    for key, value in tensors.items()
                    if key.endswith(ending) and not key.startswith("model/")
                }


class State:
    """What a killed run needs to continue, in one safetensors file (nothing here is unpickled)."""

    def __init__(self, path: Path, key: dict) -> None:
        self.path, self.key = path, json.dumps(key, sort_keys=True)
        self.step, self.seconds = 0, 0.0

    def save(self, model: Llama, optimizer: Optimizer) -> None:
        tensors = {f"model/{n}": p.detach().clone() for n, p in model.named_parameters()}
        tensors |= optimizer.tensors()
        meta = {"step": str(self.step), "seconds": str(self.seconds), "key": self.key}
        write_atomic(self.path, lambda tmp: save_file(tensors, tmp, metadata=meta))

    def load(self, model: Llama, optimizer: Optimizer) -> None:
        """Continue from the file, if there is one of the same run."""
        if not self.path.exists():
            return
        with safe_open(self.path, framework="pt") as handle:
            meta = handle.metadata()
        if meta["key"] != self.key:
            print(f"train: {self.path} belongs to another run, starting anew", flush=True)
            return
        tensors = load_file(self.path)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors[f"model/{name}"])
        optimizer.restore(tensors)
        self.step, self.seconds = int(meta["step"]), float(meta["seconds"])


def heldout_records(tokenizer: Tokenizer, seq_max: int) -> list[dict]:
    """Held-out dialogues that fit the context window.

    `accepted` lists, for each assistant turn, every reply of the grammar.
    """
    records, count = [], token_counter(tokenizer)
    for index, whole in enumerate(
        dialogues.generate(HELDOUT_SEED, HELDOUT_DIALOGUES, heldout=True)
    ):
        messages = dialogues.fit(whole, seq_max, count)
        said, accepted, acts = [], [], []
        for message in messages:
            if message["role"] == "user":
                said.append(message["content"])
                state = reading.understand(said)
                acts.append(state.act)
                accepted.append(grammar.replies(state))
        records.append({"id": index, "acts": acts, "messages": messages, "accepted": accepted})
    return records


def write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda tmp: tmp.write_text(text, encoding="utf-8"))


def write_fixed_files(out: Path, shape: Shape, tokenizer: Tokenizer) -> None:
    """Everything but the weights and the figures."""
    config = shape.to_hf(chat.BEGIN_ID, chat.END_ID, chat.PAD_ID)
    write_text(out / CONFIG_NAME, json.dumps(config, indent=2) + "\n")
    write_text(out / "tokenizer.json", tokenizer.to_str(pretty=False) + "\n")
    write_text(out / "chat_template.jinja", chat.TEMPLATE)
    lines = (
        json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        for record in heldout_records(tokenizer, shape.seq_max)
    )
    write_text(out / "heldout.jsonl", "\n".join(lines) + "\n")


def make_tokenizer(seed: int, vocab: int) -> Tokenizer:
    texts = dialogues.generate(seed * 1_000_000 - 1, TOKENIZER_DIALOGUES, heldout=False)
    words = [m["content"] for messages in texts for m in messages]
    # so that the rare values too get one token each
    words += [f"x: {value}" for value in range(11)] * (TOKENIZER_DIALOGUES // 20)
    return chat.train_tokenizer(words, vocab)


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    shape = Shape()
    tokenizer = make_tokenizer(args.seed, shape.vocab)
    validation = make_batches(
        fitted(
            tokenizer,
            dialogues.generate(HELDOUT_SEED + 1, VALIDATION_DIALOGUES, heldout=True),
            shape.seq_max,
        ),
        torch.Generator().manual_seed(0),
        keep_rest=True,
    )
    model = Llama(shape)
    model.init_weights(torch.Generator().manual_seed(args.seed))
    optimizer = Optimizer(model)
    key = {
        "seed": args.seed,
        "steps": args.steps,
        "text": dialogues.text_digest(),
        "shape": vars(shape),
    }
    state = State(args.work / "state.safetensors", key)
    state.load(model, optimizer)
    stream = batch_stream(tokenizer, args.seed, shape)
    for _ in range(state.step):
        next(stream)
    run_steps(args.steps, model, optimizer, stream, state)
    model.eval()
    finish(args, model, tokenizer, validation, state.seconds)


def run_steps(steps: int, model: Llama, optimizer: Optimizer, stream, state: State) -> None:
    """Train from `state.step` to `steps`; a kill costs at most the steps since the last save."""
    model.train()
    started, before, first = time.monotonic(), state.seconds, state.step
    tokens, running = 0, None
    for step in range(first, steps):
        ids, targets, weight = next(stream)
        with torch.autocast("cpu", torch.bfloat16):
            losses = losses_of(model, ids, targets)
        loss = (losses * weight).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step(rate_factor(step, steps))
        mask = weight >= 1.0
        assistant = losses.detach()[mask].mean().item()
        running = assistant if running is None else 0.95 * running + 0.05 * assistant
        tokens += ids.numel()
        done = step + 1
        spent = time.monotonic() - started
        if done % REPORT_EVERY == 0 or done == steps:
            left = spent / (done - first) * (steps - done)
            speed = f"{tokens / spent:.0f} tok/s left {left:.0f} s"
            print(f"train: step {done}/{steps} loss {running:.4f} {speed}", flush=True)
        if done % STATE_EVERY == 0 or done == steps:
            state.step, state.seconds = done, before + spent
            state.save(model, optimizer)


def finish(args, model: Llama, tokenizer: Tokenizer, validation, seconds: float) -> None:
    """Publish, then measure the checkpoint as it was written: rounded to bf16."""
    write_fixed_files(args.out, model.shape, tokenizer)
    save_checkpoint(model, args.out)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).to(torch.float32)
    loss = assistant_loss(model, validation)
    figures = {
        "schema": 1,
        "command": "python train.py --out model-assets/models/tiny "
        f"--steps {args.steps} --seed {args.seed} --threads {args.threads}",
        "seed": args.seed,
        "steps": args.steps,
        "batch_tokens_max": BATCH_TOKENS,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_seconds": round(seconds, 1),
        "text_sha256": dialogues.text_digest(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {args.threads} thread(s)",
        "heldout_loss": round(loss, 5),
        "heldout_perplexity": round(math.exp(loss), 5),
    }
    write_text(args.out / "training.json", json.dumps(figures, indent=2) + "\n")
    print(
        f"train: {seconds:.0f} s, held-out loss {loss:.4f}, perplexity {math.exp(loss):.4f}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="directory of the published files")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(".proofmark/train-tiny"),
        help="directory of the resumable state",
    )
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    if args.steps < 1 or args.threads < 1 or args.seed < 1:
        parser.error("--steps, --threads and --seed: expected at least 1")
    train(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
