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

from .architecture import GELU, Architecture
from .protocol import Request
from .tensors import (
    AFTER_ATTENTION,
    AFTER_FFN,
    BEFORE_ATTENTION,
    BEFORE_FFN,
    EMBEDDING,
    KEY_NORM,
    QUERY_NORM,
)
from .turns import Turns

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
        self.turns = Turns(arch)
        self.angle = self.turns.angles(0, count).float()

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
        gain = self.source.rows(name, 0, x.shape[-1])
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.arch.norm_eps) * gain

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        wanted, place = torch.unique(tokens, return_inverse=True)
        rows = [self.source.rows(EMBEDDING, int(row), int(row) + 1) for row in wanted]
        return torch.cat(rows)[place]

    def heads(self, x: torch.Tensor, name: str, number: int) -> torch.Tensor:
        """`[tokens, heads, head_dim]` of queries, keys or values."""
        size = self.arch.head_dim
        found = self.linear(x, f"{name}.weight", number * size)
        if self.arch.qkv_bias:
            found += self.source.rows(f"{name}.bias", 0, number * size)
        return found.unflatten(-1, (number, size))

    def attention(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        arch, windows = self.arch, x.shape[0] // self.count
        prefix = f"model.layers.{layer}."
        heads = {"q": arch.heads, "k": arch.kv_heads, "v": arch.kv_heads}
        self.meet(x, [f"{prefix}self_attn.{name}_proj.weight" for name in heads])
        q, k, v = (
            self.heads(x, f"{prefix}self_attn.{name}_proj", number)
            for name, number in heads.items()
        )
        if arch.qk_norm:
            q = self.norm(q, f"{prefix}{QUERY_NORM}.weight")
            k = self.norm(k, f"{prefix}{KEY_NORM}.weight")
        angle = self.angle.repeat(windows, 1)
        q, k = (self.turns.turn(layer, part, angle) for part in (q, k))
        q, k, v = (part.unflatten(0, (windows, self.count)).transpose(1, 2) for part in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        y = y.transpose(1, 2).reshape(x.shape[0], -1)
        name = f"{prefix}self_attn.o_proj.weight"
        self.meet(y, [name])
        return self.linear(y, name, arch.dim)

    def feed(self, x: torch.Tensor, prefix: str) -> torch.Tensor:
        names = [f"{prefix}mlp.{name}_proj.weight" for name in ("gate", "up")]
        self.meet(x, names)
        gate, up = (self.linear(x, name, self.arch.ffn) for name in names)
        if self.arch.activation == GELU:
            hidden = functional.gelu(gate, approximate="tanh") * up
        else:
            hidden = functional.silu(gate) * up
        name = f"{prefix}mlp.down_proj.weight"
        if name in self.rotations:
            matrix = self.rotations[name]
            hidden = (hidden.unflatten(-1, (-1, matrix.shape[0])) @ matrix.T).flatten(-2)
        self.meet(hidden, [name])
        return self.linear(hidden, name, self.arch.dim)

    def block(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        prefix, normed = f"model.layers.{layer}.", self.arch.post_norms
        before = self.norm(x, f"{prefix}{BEFORE_ATTENTION}.weight")
        mixed = self.attention(before, layer)
        x = x + (self.norm(mixed, f"{prefix}{AFTER_ATTENTION}.weight") if normed else mixed)
        fed = self.feed(self.norm(x, f"{prefix}{BEFORE_FFN}.weight"), prefix)
        return x + (self.norm(fed, f"{prefix}{AFTER_FFN}.weight") if normed else fed)

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
