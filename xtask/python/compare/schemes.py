"""What each way of quantizing costs: `schemes.py MODEL CHECKPOINT [--windows N]`.

`MODEL` is a folder with `recipe.toml`, `CHECKPOINT` one with `model.safetensors` and
`tokenizer.json`. Every scheme that the worker has, and llama.cpp's Q8_0 (blocks of 32 values with
one fp16 scale, weights and activations alike), against the unquantized model: in one run, in
PyTorch, on the same windows of the committed text. Intervals are 95 %, from a bootstrap over
windows. What the exported file does in the engine is measured by `cargo xtask verify`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import tomllib
import torch

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "xtask/python"))

import asked  # noqa: E402
from proofmark_worker import protocol, reference, scheme, weights  # noqa: E402
from proofmark_worker.architecture import parse_architecture  # noqa: E402
from proofmark_worker.calibrate import Pass  # noqa: E402
from proofmark_worker.checkpoint import SafetensorsSource  # noqa: E402
from proofmark_worker.eager import unquantized  # noqa: E402
from proofmark_worker.quantize import Weight  # noqa: E402
from proofmark_worker.tensors import EMBEDDING, FINAL_NORM, HEAD, demanded  # noqa: E402

TEXT = ROOT / "model-assets/evidence/text-general.jsonl"
SCHEMES = [(bits, way) for bits in ("int8", "int4") for way in protocol.ACTIVATIONS]
BLOCK = 32
RESAMPLES, SEED = 2000, 1


def q8_0(x: torch.Tensor) -> torch.Tensor:
    """As `quantize_row_q8_0` of llama.cpp: codes by the fp32 scale, which is stored as fp16."""
    blocks = x.unflatten(-1, (-1, BLOCK))
    scale = blocks.abs().amax(-1, keepdim=True) / 127.0
    inverse = torch.where(scale > 0.0, 1.0 / scale, scale)
    return ((blocks * inverse).round() * scale.half().float()).flatten(-2)


@dataclass(frozen=True)
class Model:
    """What the pass reads of a request."""

    architecture: protocol.Architecture
    tokenizer: Path | None
    seq_len: int
    bos_id: int
    threads: int


class Quiet:
    """Stages that nobody watches."""

    def stage(self, _name: str):
        return nullcontext()

    def progress(self, _done: int, _total: int) -> None:
        pass


class Scheme(Pass):
    """The model with these weights; `blocks` rounds everything as Q8_0."""

    def __init__(self, model: Model, found: dict[str, Weight], count: int, *, blocks=False) -> None:
        super().__init__(None, model.architecture, model.threads, count)
        self.weights, self.blocks = found, blocks
        self.rotations = {n: w.rotation for n, w in found.items() if w.rotation is not None}

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.arch.norm_eps)
        return x * self.weights[name].data

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        weight = self.weights[EMBEDDING]
        if weight.scheme.bits:
            return reference.embed(tokens, weight).float()
        return q8_0(weight.data[tokens]) if self.blocks else weight.data[tokens]

    def input(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """As the linear takes it."""
        weight = self.weights[name]
        if not weight.scheme.bits:
            return q8_0(x) if self.blocks else x
        if weight.scheme.rows == 2:
            size = reference.unit_size(x, weight) if "down" in name else 1.0
            return (reference.two_rows(x / size) * size).float()
        centred, scale = reference.quantize_activations(x)
        return centred * scale

    def chunk(self, name: str, first: int, last: int) -> torch.Tensor:
        data = self.weights[name].rows(first, last)
        return q8_0(data) if self.blocks else data

    def linear(self, x: torch.Tensor, name: str, rows: int) -> torch.Tensor:
        return super().linear(self.input(x, name), name, rows)

    def end(self, x: torch.Tensor) -> None:
        self.residual = x

    def logs(self, window: int) -> torch.Tensor:
        """Log-probabilities [tokens, vocab] after each token of a window."""
        x = self.residual[window * self.count : (window + 1) * self.count]
        x = self.norm(x, FINAL_NORM)
        if HEAD in self.rotations:
            x = x @ self.rotations[HEAD].T
        x = self.input(x, HEAD)
        vocab, step = self.arch.vocab, 8192
        parts = [x @ self.chunk(HEAD, at, min(at + step, vocab)).T for at in range(0, vocab, step)]
        return torch.cat(parts, -1).log_softmax(-1)


def _text(entry: dict) -> str:
    if "text" in entry:
        return entry["text"]
    return "\n".join(message["content"] for message in entry["messages"])


def windows(model: Model, number: int) -> torch.Tensor:
    """`[windows, seq_len]`, spread over the text, each beginning as every prompt does."""
    from tokenizers import Tokenizer

    lines = TEXT.read_text(encoding="utf-8").splitlines()
    text = "\n".join(_text(json.loads(line)) for line in lines)
    tokenizer = Tokenizer.from_file(str(model.tokenizer))
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)
    length = min(model.seq_len - 1, len(ids))
    number = max(1, min(number, len(ids) // length))
    first = [i * (len(ids) - length) // max(1, number - 1) for i in range(number)]
    found = torch.stack([ids[at : at + length] for at in first])
    return torch.nn.functional.pad(found, (1, 0), value=model.bos_id)


def compared(base: Scheme, other: Scheme, tokens: torch.Tensor) -> str:
    divergence, loss, same = [], [], []
    for window, ids in enumerate(tokens):
        want, got, following = base.logs(window), other.logs(window), ids[1:, None]
        divergence.append((want.exp() * (want - got)).sum(-1).mean())
        lost = want[:-1].gather(1, following) - got[:-1].gather(1, following)
        loss.append(lost.mean())
        same.append((want.argmax(-1) == got.argmax(-1)).float().mean())
    kl, loss = torch.stack(divergence), torch.stack(loss)
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randint(len(kl), (RESAMPLES, len(kl)), generator=generator)

    def interval(values: torch.Tensor, digits: int) -> str:
        low, high = values.quantile(torch.tensor([0.025, 0.975])).tolist()
        return f"[{low:.{digits}f}, {high:.{digits}f}]"

    ratio = f"{loss.mean().exp():.4f} {interval(loss[drawn].mean(1).exp(), 4)}"
    spread = f"{kl.mean():.5f} {interval(kl[drawn].mean(1), 5)}"
    return f"{ratio} | {spread} | {100 * torch.stack(same).mean():.1f} %"


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_grad_enabled(False)
    recipe = tomllib.loads((options.model / "recipe.toml").read_text(encoding="utf-8"))
    arch = parse_architecture(asked.described(recipe["architecture"]))
    length, tokenizer = recipe["export"]["seq_len"], options.checkpoint / "tokenizer.json"
    model = Model(arch, tokenizer, length, recipe["tokens"]["bos"], options.threads)
    tokens = windows(model, options.windows)
    source, count = SafetensorsSource(options.checkpoint, arch), tokens.shape[1]

    def run(found: dict[str, Weight], *, blocks: bool = False) -> Scheme:
        passed = Scheme(model, found, count, blocks=blocks)
        passed.run(tokens, lambda _done, _total: None)
        return passed

    plain = unquantized(source, demanded(arch))
    base = run(plain)
    say(f"{tokens.numel()} tokens in {len(tokens)} windows")
    say("| scheme | perplexity ratio [95 %] | mean KL [95 %] | same top token |")
    say("|---|---|---|---|")
    say(f"| Q8_0 | {compared(base, run(plain, blocks=True), tokens)} |")
    for bits, way in SCHEMES:
        with tempfile.TemporaryDirectory() as folder:
            parts = scheme.schemes(bits, way)
            found, _ = weights.prepared(source, model, parts, Path(folder), Quiet())
            result = compared(base, run(found), tokens)
        say(f"| {bits}, {way} | {result} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
