"""The exported graph: a decoder whose arithmetic all goes to XNNPACK.

Between two attention calls everything is one delegate. What would break it up is rewritten:
- rotate-half is a linear with a signed permutation matrix (exact, and tiny beside the others),
  not slices and a concatenation;
- the mean of squares is a linear with a row of 1/dim, its bias the norm's epsilon;
- SiLU, and GELU by a tanh, are products with a sigmoid;
- shapes are fixed but for one inferred dimension;
- the last token is taken right after the last attention, so that a prompt does not pay for the
  last layer's feed-forward.

Outside stay the embedding, two table look-ups, cache update and attention.

**Invariant:** with L layers there are L + 1 delegates and 7 L + 1 linears with weights.
"""

import math

import torch
from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401 (registers the operators)
from torch.nn import functional

from .architecture import GELU, GLOBAL, LOCAL, UNROTATED, Architecture
from .quantize import Weight
from .rope import half_turn, rope_tables
from .rows import SHIFT, TINY, WIDEST, unit_step
from .scheme import Scheme
from .tensors import (
    AFTER_ATTENTION,
    AFTER_FFN,
    BEFORE_ATTENTION,
    BEFORE_FFN,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    KEY_NORM,
    QUERY_NORM,
)

NAMES = {GLOBAL: ("cos", "sin"), LOCAL: ("local_cos", "local_sin")}


def fake_quantize(x: torch.Tensor) -> torch.Tensor:
    """Per-token asymmetric int8 and back."""
    ops = torch.ops.quantized_decomposed
    scale, zero = ops.choose_qparams_per_token_asymmetric(x, torch.int8)
    q = ops.quantize_per_token(x, scale, zero, -128, 127, torch.int8)
    return ops.dequantize_per_token(q, scale, zero, -128, 127, torch.int8, torch.float32)


def prepare(x: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """What `Linear` takes. Linears that share an input and a scheme share this, too.

    Two rows are a batch of two: the whole numbers of an input within ±127, and the rest. Moved
    to 1 to 255 and with a constant 255 beside them, the whole numbers are their own int8 codes; the
    linear's bias takes the shift back.
    """
    if not scheme.bits:
        return x
    if scheme.rows == 2:
        moved = functional.pad(x + SHIFT, (0, 1), value=WIDEST)
        whole = torch.floor(moved)
        x = torch.cat((whole, moved - whole), 0)
    return fake_quantize(x)


def rotated(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """`x` [1, n, width] or [1, width], each group of values multiplied by `matrix`."""
    width, group = x.shape[-1], matrix.shape[0]
    if group == width:
        return functional.linear(x, matrix)
    before = (1, -1) if x.dim() == 3 else (1,)
    x = functional.linear(x.view(*before, width // group, group), matrix)
    return x.view(*before, width)


class Linear(nn.Module):
    """Expects an input that `spread` made ready for it."""

    def __init__(self, weight: Weight, bias: Weight | None = None) -> None:
        super().__init__()
        self.scheme, self.rows = weight.scheme, weight.scheme.rows
        self.weight = nn.Parameter(weight.data, requires_grad=False)
        self.bias = self.rotation = None
        if weight.rotation is not None:
            self.rotation = nn.Parameter(weight.rotation, requires_grad=False)
        if self.scheme.bits:
            scale = weight.scale if self.scheme.group else weight.scale.squeeze(-1)
            self.scale = nn.Parameter(scale, requires_grad=False)
            zero = torch.zeros_like(scale, dtype=torch.int8)
            self.zero = nn.Parameter(zero, requires_grad=False)
        given = None if bias is None else bias.data
        if self.scheme.rows == 2:
            # Each of the two rows gets it, so that each takes half of the shift back.
            shift = -SHIFT / 2 * weight.scale.squeeze(-1).double() * weight.sums
            given = (shift if given is None else shift + given.double() / 2).float()
        if given is not None:
            self.bias = nn.Parameter(given, requires_grad=False)

    def forward(self, x):
        scheme, weight, ops = self.scheme, self.weight, torch.ops.quantized_decomposed
        if scheme.group:
            weight = ops.dequantize_per_channel_group(
                weight, self.scale, self.zero, -8, 7, torch.int8, scheme.group, torch.float32
            )
        elif scheme.bits:
            weight = ops.dequantize_per_channel(
                weight, self.scale, self.zero, 0, -128, 127, torch.int8
            )
        y = functional.linear(x, weight, self.bias)
        return y[:1] + y[1:] if scheme.rows == 2 else y


def spread(x: torch.Tensor, *linears: Linear) -> list[torch.Tensor]:
    """The linears' results for one input. One that wants it rotated has the input for itself."""
    if linears[0].rotation is not None:
        x = rotated(x, linears[0].rotation)
    ready = {}
    for linear in linears:
        if linear.rows not in ready:
            ready[linear.rows] = prepare(x, linear.scheme)
    return [linear(ready[linear.rows]) for linear in linears]


class Unit(nn.Module):
    """A linear whose input has no bound: in two rows it is divided by its size first.

    `mean` gives the square of what divides, so that no quotient exceeds the grid.
    """

    def __init__(self, weight: Weight, mean: torch.Tensor, tiny: torch.Tensor) -> None:
        super().__init__()
        self.linear = Linear(weight)
        if self.linear.scheme.rows == 2:
            self.mean = nn.Parameter(mean, requires_grad=False)
            self.tiny = nn.Parameter(tiny, requires_grad=False)

    def forward(self, x):
        if self.linear.scheme.rows == 1:
            return spread(x, self.linear)[0]
        square = functional.linear(x * x, self.mean, self.tiny)
        inverse = torch.rsqrt(square)
        return spread(x * inverse, self.linear)[0] * (square * inverse)


class Embedding(nn.Module):
    def __init__(self, weight: Weight) -> None:
        super().__init__()
        self.width = weight.width
        self.register_buffer("weight", weight.data)
        if weight.scheme.bits:
            self.register_buffer("scale", weight.scale.squeeze(-1))
        else:
            self.scale = None

    def forward(self, tokens):
        if self.scale is None:
            return functional.embedding(tokens, self.weight)
        x = torch.ops.quantized_decomposed.embedding_byte.dtype(
            self.weight, self.scale, None, -128, 127, tokens, dtype=torch.float32
        )
        # A matrix shared with a head of two rows has a spare column.
        return x if x.shape[-1] == self.width else x[:, :, : self.width]


class Norm(nn.Module):
    def __init__(self, weight: Weight, mean: torch.Tensor, epsilon: torch.Tensor) -> None:
        super().__init__()
        # A rotated model has its gains in the matrices.
        self.weight = None
        if not weight.data.eq(1.0).all():
            self.weight = nn.Parameter(weight.data, requires_grad=False)
        self.mean = nn.Parameter(mean, requires_grad=False)
        self.epsilon = nn.Parameter(epsilon, requires_grad=False)

    def forward(self, x):
        x = x * torch.rsqrt(functional.linear(x * x, self.mean, self.epsilon))
        return x if self.weight is None else x * self.weight


def silu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


class Gelu(nn.Module):
    """By its approximation with a tanh: 0.5 (1 + tanh(y / 2)) is a sigmoid of y."""

    def __init__(self) -> None:
        super().__init__()
        slope = 2.0 * math.sqrt(2.0 / math.pi)
        self.slope = nn.Parameter(torch.tensor([slope]), requires_grad=False)
        self.cubic = nn.Parameter(torch.tensor([slope * 0.044715]), requires_grad=False)

    def forward(self, x):
        return x * torch.sigmoid(x * (x * x * self.cubic + self.slope))


class Attention(nn.Module):
    def __init__(self, arch, seq_len, weights, layer, *, norm, turn) -> None:
        super().__init__()
        prefix = f"model.layers.{layer}."
        self.arch, self.kind = arch, arch.kind(layer)
        self.query, self.key, self.value, self.output = (
            Linear(weights[f"{name}.weight"], weights.get(f"{name}.bias"))
            for name in (f"{prefix}self_attn.{letter}_proj" for letter in "qkvo")
        )
        self.query_norm = self.key_norm = None
        if arch.qk_norm:
            self.query_norm = norm(f"{prefix}{QUERY_NORM}.weight")
            self.key_norm = norm(f"{prefix}{KEY_NORM}.weight")
        self.turn = None if self.kind == UNROTATED else nn.Parameter(turn, requires_grad=False)
        shape = (1, seq_len, arch.kv_heads, arch.head_dim)
        self.register_buffer("keys", torch.zeros(shape))
        self.register_buffer("values", torch.zeros(shape))

    def placed(self, x, norm, tables):
        """Queries or keys [1, n, heads, head_dim], normed and rotated where the layer does."""
        if norm is not None:
            x = norm(x)
        if self.turn is None:
            return x
        cos, sin = tables[self.kind]
        return x * cos + functional.linear(x, self.turn) * sin

    def forward(self, x, tables, position):
        arch = self.arch
        query, key, value = spread(x, self.query, self.key, self.value)
        query = query.view(1, -1, arch.heads, arch.head_dim)
        key = key.view(1, -1, arch.kv_heads, arch.head_dim)
        value = value.view(1, -1, arch.kv_heads, arch.head_dim)
        query = self.placed(query, self.query_norm, tables)
        key = self.placed(key, self.key_norm, tables)
        torch.ops.llama.update_cache(key, self.keys, position)
        torch.ops.llama.update_cache(value, self.values, position)
        return torch.ops.llama.custom_sdpa(query, self.keys, self.values, position, None, 0.0, True)


class Block(nn.Module):
    def __init__(self, arch, seq_len, weights, layer, *, norm, unit, turn) -> None:
        super().__init__()
        prefix = f"model.layers.{layer}."
        self.width = arch.heads * arch.head_dim
        self.last = layer == arch.layers - 1
        self.before = norm(f"{prefix}{BEFORE_ATTENTION}.weight")
        self.attention = Attention(arch, seq_len, weights, layer, norm=norm, turn=turn)
        self.after = norm(f"{prefix}{BEFORE_FFN}.weight")
        self.gate, self.up = (
            Linear(weights[f"{prefix}mlp.{name}_proj.weight"]) for name in ("gate", "up")
        )
        self.down = unit(f"{prefix}mlp.down_proj.weight")
        self.mixed = self.fed = nn.Identity()
        if arch.post_norms:
            self.mixed = norm(f"{prefix}{AFTER_ATTENTION}.weight")
            self.fed = norm(f"{prefix}{AFTER_FFN}.weight")
        self.activation = Gelu() if arch.activation == GELU else silu

    def forward(self, x, tables, position):
        y = self.attention(self.before(x), tables, position)
        if self.last:
            x, y = x[:, -1], y[:, -1].view(1, self.width)
        else:
            y = y.view(1, -1, self.width)
        x = x + self.mixed(spread(y, self.attention.output)[0])
        gate, up = spread(self.after(x), self.gate, self.up)
        return x + self.fed(self.down(self.activation(gate) * up))


class Decoder(nn.Module):
    """`forward(tokens [1, n] i64, position [1] i64) -> logits [1, vocab] f32` of the last token."""

    def __init__(self, arch: Architecture, seq_len: int, weights: dict[str, Weight]) -> None:
        super().__init__()
        self.arch, self.seq_len = arch, seq_len
        means = {n: torch.full((1, n), 1.0 / n) for n in (arch.dim, arch.head_dim)}
        epsilon = torch.tensor([arch.norm_eps])
        turn = half_turn(arch.head_dim, arch.rotary_dim)

        def norm(name: str) -> Norm:
            return Norm(weights[name], means[len(weights[name].data)], epsilon)

        square = torch.full((1, arch.ffn), unit_step(arch.ffn) ** 2 / arch.ffn)
        tiny = torch.tensor([TINY])

        def unit(name: str) -> Unit:
            return Unit(weights[name], square, tiny)

        self.embedding = Embedding(weights[EMBEDDING])
        self.blocks = nn.ModuleList(
            Block(arch, seq_len, weights, layer, norm=norm, unit=unit, turn=turn)
            for layer in range(arch.layers)
        )
        self.norm = norm(FINAL_NORM)
        self.head = Linear(weights[HEAD])
        kinds = {arch.kind(layer) for layer in range(arch.layers)} - {UNROTATED}
        # Of each kind the names of its tables.
        self.tables = {kind: NAMES[kind] for kind in (GLOBAL, LOCAL) if kind in kinds}
        for kind, names in self.tables.items():
            for name, table in zip(names, rope_tables(arch, seq_len, kind), strict=True):
                self.register_buffer(name, table.view(1, seq_len, 1, -1))

    def forward(self, tokens, input_pos):
        count = tokens.shape[1]
        # What `item` is decomposed into: with it upstream would trace the graph once more.
        position = torch.ops.aten._local_scalar_dense.default(input_pos[0])
        torch._check(position >= 0)
        torch._check(position + count <= self.seq_len)
        tables = {
            kind: [getattr(self, name).narrow(1, position, count) for name in names]
            for kind, names in self.tables.items()
        }
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, tables, position)
        return spread(self.norm(x), self.head)[0]
