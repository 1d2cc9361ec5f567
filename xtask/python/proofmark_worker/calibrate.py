"""What the model's inputs look like: one fp32 pass over a small text, layer by layer.

**Invariant:** a block of rows is all of a weight that is ever in memory; what stays are the
activations of the text, whose length follows from the size of the model.
**Invariant:** sums of a linear run in one order whatever the number of threads.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import MappingProxyType

import torch
from torch.nn import functional

from .checkpoint import EMBEDDING
from .protocol import Architecture, Request
from .reference import frequencies, rotate

TEXT = Path(__file__).with_name("calibration.txt")
# Tokens times parameters, so that a large model's pass takes seconds, too.
WORK_MAX = 1 << 39
TOKENS_MIN, TOKENS_MAX = 128, 4096
CHUNK_ELEMENTS = 1 << 20
RANDOM_SEED = 20


def tokens_max(parameters: int) -> int:
    return max(TOKENS_MIN, min(TOKENS_MAX, WORK_MAX // parameters))


def windows(request: Request, parameters: int) -> torch.Tensor:
    """`[windows, tokens]`, each beginning as every prompt does; random without a tokenizer."""
    count, length = tokens_max(parameters), min(512, request.seq_len)
    length = min(length, count)
    shape = (max(1, count // length), length - 1)
    vocab = request.architecture.vocab
    if request.tokenizer is None:
        generator = torch.Generator().manual_seed(RANDOM_SEED)
        found = torch.randint(vocab, shape, generator=generator)
    else:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(request.tokenizer))
        text = TEXT.read_text(encoding="utf-8")
        ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)
        shape = (min(shape[0], max(1, len(ids) // shape[1])), min(shape[1], len(ids)))
        # Spread over the text, whose kinds follow each other.
        first = [i * (len(ids) - shape[1]) // max(1, shape[0] - 1) for i in range(shape[0])]
        found = torch.stack([ids[at : at + shape[1]] for at in first])
    return functional.pad(found, (1, 0), value=request.bos_id)


class Pass:
    """The model's blocks in fp32 over windows one below the other, each `count` tokens long."""

    # By the name of a weight, what its linear's input is multiplied by.
    rotations: Mapping[str, torch.Tensor] = MappingProxyType({})

    def __init__(self, source, arch: Architecture, threads: int, count: int) -> None:
        self.source, self.arch, self.threads, self.count = source, arch, threads, count
        angle = torch.tensor(frequencies(arch), dtype=torch.float64)
        self.angle = torch.outer(torch.arange(count, dtype=torch.float64), angle).float()

    def meet(self, x: torch.Tensor, names: list[str]) -> None:
        """Called with the input [tokens, in] that these linears are about to get."""

    def chunk(self, name: str, first: int, last: int) -> torch.Tensor:
        return self.source.rows(name, first, last)

    def linear(self, x: torch.Tensor, name: str, rows: int) -> torch.Tensor:
        out = torch.empty(x.shape[0], rows)
        step = max(1, CHUNK_ELEMENTS // x.shape[1])

        def chunk(first: int) -> None:
            weight = self.chunk(name, first, min(first + step, rows))
            out[:, first : first + step] = x @ weight.T

        for _ in self.pool.map(chunk, range(0, rows, step)):
            pass
        return out

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        gain = self.source.rows(name, 0, self.arch.dim)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.arch.norm_eps) * gain

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        wanted, place = torch.unique(tokens, return_inverse=True)
        rows = [self.source.rows(EMBEDDING, int(row), int(row) + 1) for row in wanted]
        return torch.cat(rows)[place]

    def attention(self, x: torch.Tensor, prefix: str) -> torch.Tensor:
        arch, windows = self.arch, x.shape[0] // self.count
        heads = {"q": arch.heads, "k": arch.kv_heads, "v": arch.kv_heads}
        self.meet(x, [f"{prefix}{name}_proj.weight" for name in heads])
        q, k, v = (
            self.linear(x, f"{prefix}{name}_proj.weight", number * arch.head_dim).unflatten(
                -1, (number, arch.head_dim)
            )
            for name, number in heads.items()
        )
        angle = self.angle.repeat(windows, 1)
        q, k, v = (
            part.unflatten(0, (windows, self.count)).transpose(1, 2)
            for part in (rotate(q, angle), rotate(k, angle), v)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        y = y.transpose(1, 2).reshape(x.shape[0], -1)
        name = f"{prefix}o_proj.weight"
        self.meet(y, [name])
        return self.linear(y, name, arch.dim)

    def block(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        arch, prefix = self.arch, f"model.layers.{layer}."
        before = self.norm(x, f"{prefix}input_layernorm.weight")
        x = x + self.attention(before, f"{prefix}self_attn.")
        after = self.norm(x, f"{prefix}post_attention_layernorm.weight")
        names = [f"{prefix}mlp.{name}_proj.weight" for name in ("gate", "up")]
        self.meet(after, names)
        gate, up = (self.linear(after, name, arch.ffn) for name in names)
        hidden, name = functional.silu(gate) * up, f"{prefix}mlp.down_proj.weight"
        if name in self.rotations:
            matrix = self.rotations[name]
            hidden = (hidden.unflatten(-1, (-1, matrix.shape[0])) @ matrix.T).flatten(-2)
        self.meet(hidden, [name])
        return x + self.linear(hidden, name, arch.dim)

    def end(self, x: torch.Tensor) -> None:
        """Called with the residual [tokens, dim] after the last layer."""

    def run(self, tokens: torch.Tensor, progress) -> None:
        before = torch.get_num_threads()
        # Threads of its own: sums then run in one order whatever the number of them.
        torch.set_num_threads(1)
        try:
            # One pool: the matrix library keeps buffers for every thread that ever called it.
            with ThreadPoolExecutor(self.threads) as self.pool:
                x = self.embed(tokens.flatten())
                for layer in range(self.arch.layers):
                    x = self.block(x, layer)
                    progress(layer + 1, self.arch.layers)
                self.end(x)
        finally:
            torch.set_num_threads(before)


# Candidates for the share of an input's spread that goes into the weights.
POWERS = (0.0, 0.125, 0.25, 0.375, 0.5)
SMALL = 1e-12


class Seen:
    """Of an input: what to divide its channels by, and what rounding would then cost its linears.

    With one scale a row, the rounding error of a weight is as large as the row's widest, and an
    output's error is that times the size of the input. Both change with the factors.
    """

    def __init__(self, x: torch.Tensor) -> None:
        square = x.double().square().mean(0).clamp(min=SMALL)
        self.factors = [self._factor(square, power) for power in POWERS]
        self.sizes = [(square / factor**2).sum().item() for factor in self.factors]
        self.widest = [0] * len(POWERS)

    @staticmethod
    def _factor(square: torch.Tensor, power: float) -> torch.Tensor:
        spread = square.log2() * (power / 2)
        return torch.exp2(spread - spread.mean())

    def add(self, rows: torch.Tensor) -> list[int]:
        found = []
        for factor in self.factors:
            widest = (rows * factor.float()).abs_().amax(-1).double().square().sum().item()
            # Whole numbers, so that their sum does not depend on which thread comes first.
            found.append(round(widest * 2.0**40))
        return found

    @property
    def factor(self) -> torch.Tensor:
        costs = [size * wide for size, wide in zip(self.sizes, self.widest, strict=True)]
        return self.factors[costs.index(min(costs))].float()


class Look(Pass):
    """One `Seen` for each input, under the names of all its linears."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.seen: dict[str, Seen] = {}
        self.lock = Lock()

    def meet(self, x: torch.Tensor, names: list[str]) -> None:
        self.seen.update(dict.fromkeys(names, Seen(x)))

    def chunk(self, name: str, first: int, last: int) -> torch.Tensor:
        data, seen = super().chunk(name, first, last), self.seen[name]
        found = seen.add(data)
        with self.lock:
            seen.widest = [one + more for one, more in zip(seen.widest, found, strict=True)]
        return data


def look(source, request: Request, tokens: torch.Tensor, progress) -> dict[str, Seen]:
    """Every linear of the blocks, by its weight's name."""
    found = Look(source, request.architecture, request.threads, tokens.shape[1])
    found.run(tokens, progress)
    return found.seen
