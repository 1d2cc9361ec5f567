"""Arguments for operators: by what the schema says, and by hand where it does not tell."""

from collections.abc import Iterator

import torch

LONG, SHORT = torch.int64, torch.int32


def floats(*shape: int) -> torch.Tensor:
    count = max(1, torch.Size(shape).numel())
    return (torch.arange(count, dtype=torch.float32) % 7 * 0.125 + 0.1)[
        : torch.Size(shape).numel()
    ].reshape(shape)


def indices(*values: int, dtype: torch.dtype = LONG) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def truths(*shape: int) -> torch.Tensor:
    return (torch.arange(torch.Size(shape).numel()) % 2 == 0).reshape(shape)


def quantized(dtype: torch.dtype = torch.int8) -> torch.Tensor:
    return (torch.arange(12) % 5).to(dtype).reshape(3, 4)


# Shapes that are tried for an operator of which nothing else is known.
SHAPES = [(2, 3, 4), (4, 4), (6,), (1, 4, 8, 8), (1, 2, 4, 6, 6)]

# By the name of an argument, in the order in which they are tried.
INTEGERS = {"dim": 1, "dim0": 0, "dim1": 1, "dim2": 2, "k": 2, "index": 1}
INTEGERS |= {"start": 1, "end": 3, "length": 2, "diagonal": 1, "step": 1, "dimension": 1}
INTEGERS |= {"size": 2, "split_size": 2, "offset": 1}
LISTS = {"dim": [1], "dims": [1], "size": [4, 6], "normalized_shape": [4]}

_scale, _zero = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1, 0, 2])
_token_scale = torch.tensor([[0.1], [0.2], [0.3]], dtype=torch.float64)
_token_zero = torch.tensor([[1], [0], [2]])
_image, _line = floats(1, 4, 8, 8), floats(1, 2, 8)
_volume = floats(1, 2, 4, 4, 4)
_range = (-128, 127)

# The arguments of the functional operator; several lists for several programs.
BY_HAND: dict[str, list[tuple]] = {
    "aten::_adaptive_avg_pool2d.out": [(_image, [2, 2])],
    "aten::_cdist_forward.out": [(floats(4, 3), floats(5, 3), 2.0, None)],
    "aten::_conj_physical.out": [(torch.complex(floats(4), floats(4)),)],
    "aten::_fft_c2r.out": [(torch.complex(floats(4, 3), floats(4, 3)), [1], 0, 4)],
    "aten::_fft_r2c.out": [(floats(4, 4), [1], 0, True)],
    "aten::_native_batch_norm_legit.no_stats_out": [
        (_image, floats(4), floats(4), True, 0.1, 1e-5)
    ],
    "aten::_native_batch_norm_legit.out": [
        (_image, floats(4), floats(4), floats(4), floats(4), False, 0.1, 1e-5)
    ],
    "aten::_native_batch_norm_legit_no_training.out": [
        (_image, floats(4), floats(4), floats(4), floats(4), 0.1, 1e-5)
    ],
    "aten::_softmax.out": [(floats(2, 3, 4), -1, False), (floats(4, 4), 0, False)],
    "aten::_log_softmax.out": [(floats(2, 3, 4), -1, False)],
    "aten::_upsample_bilinear2d_aa.out": [(_image, [4, 4], False)],
    "aten::add.out": [
        (floats(2, 3, 4), floats(2, 3, 4)),
        (floats(2, 3, 4), floats(4)),
        (floats(2, 1, 4), floats(3, 1)),
        (floats(2, 3).half(), floats(2, 3).half()),
        (floats(4), floats(1)),
    ],
    "aten::addmm.out": [
        (floats(5), floats(3, 4), floats(4, 5)),
        (floats(3, 5), floats(3, 4), floats(4, 5)),
        (floats(1, 5), floats(1, 4), floats(4, 5)),
    ],
    "aten::as_strided_copy.out": [(floats(4, 6), [2, 3], [6, 1], 1)],
    "aten::avg_pool2d.out": [(_image, [2, 2], [2, 2], [0, 0], False, True, None)],
    "aten::bmm.out": [(floats(2, 3, 4), floats(2, 4, 5))],
    "aten::cat.out": [
        ([floats(2, 3), floats(2, 3)], 1),
        ([floats(2, 4), floats(3, 4), floats(1, 4)],),
    ],
    "aten::constant_pad_nd.out": [(floats(2, 4), [1, 2], 0.5)],
    "aten::convolution.out": [
        (_image, floats(6, 4, 3, 3), floats(6), [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
        (_image, floats(4, 1, 3, 3), None, [2, 2], [1, 1], [1, 1], False, [0, 0], 4),
        (_image, floats(4, 6, 3, 3), floats(6), [2, 2], [0, 0], [1, 1], True, [0, 0], 1),
        (_line, floats(3, 2, 3), floats(3), [1], [0], [1], False, [0], 1),
    ],
    "aten::convolution_backward.out": [
        (
            *(floats(1, 6, 8, 8), _image, floats(6, 4, 3, 3), [6], [1, 1], [1, 1], [1, 1]),
            *(False, [0, 0], 1, [True, True, True]),
        )
    ],
    "aten::copy.out": [(floats(2, 3), floats(2, 3))],
    "aten::embedding.out": [
        (floats(8, 4), indices(1, 2, 3)),
        (floats(8, 4), indices(1, 2, dtype=SHORT)),
    ],
    "aten::expand_copy.out": [(floats(1, 3), [4, 3]), (floats(2, 1, 3), [2, 4, 3])],
    "aten::gather.out": [(floats(3, 4), 1, torch.tensor([[0, 1], [2, 0], [1, 1]]))],
    "aten::grid_sampler_2d.out": [(_image, floats(1, 3, 3, 2), 0, 0, False)],
    "aten::index.Tensor_out": [
        (floats(4, 5), [indices(0, 2)]),
        (floats(4, 5), [None, indices(0, 2, dtype=SHORT)]),
    ],
    "aten::index_put.out": [(floats(4, 5), [indices(0, 2)], floats(2, 5), False)],
    "aten::index_select.out": [(floats(4, 5), 1, indices(0, 2))],
    "aten::linear.out": [(floats(3, 4), floats(5, 4), None)],
    "aten::masked_fill.Scalar_out": [(floats(2, 4), truths(2, 4), 0.5)],
    "aten::masked_scatter.out": [(floats(2, 4), truths(2, 4), floats(2, 4))],
    "aten::masked_select.out": [(floats(2, 4), truths(2, 4))],
    "aten::max_pool2d_with_indices.out": [(_image, [2, 2], [2, 2], [0, 0], [1, 1], False)],
    "aten::max_pool2d_with_indices_backward.grad_input": [
        (
            *(floats(1, 4, 4, 4), _image, [2, 2], [2, 2], [0, 0], [1, 1], False),
            torch.zeros(1, 4, 4, 4, dtype=LONG),
        )
    ],
    "aten::mm.out": [
        (floats(3, 4), floats(4, 5)),
        (floats(1, 16), floats(16, 1)),
        (floats(3, 4).double(), floats(4, 5).double()),
    ],
    "aten::mul.out": [
        (floats(2, 3, 4), floats(2, 3, 4)),
        (floats(2, 3, 4), floats(4)),
        (floats(2, 1, 4), floats(3, 1)),
        (floats(2, 3).bfloat16(), floats(2, 3).bfloat16()),
        (floats(1), floats(4)),
    ],
    "aten::rsqrt.out": [(floats(2, 3, 4),), (floats(4).half(),)],
    "aten::sigmoid.out": [(floats(2, 3, 4),), (floats(4, 4).double(),)],
    "aten::native_dropout.out": [(floats(2, 4), 0.5, False)],
    "aten::native_group_norm.out": [(_image, floats(4), floats(4), 1, 4, 64, 2, 1e-5)],
    "aten::native_layer_norm.out": [(floats(2, 3, 4), [4], floats(4), floats(4), 1e-5)],
    "aten::permute_copy.out": [(floats(2, 3, 4), [1, 0, 2]), (floats(2, 3), [1, 0])],
    "aten::pixel_shuffle.out": [(_image, 2)],
    "aten::pixel_unshuffle.out": [(_image, 2)],
    "aten::reflection_pad1d.out": [(_line, [1, 2])],
    "aten::reflection_pad2d.out": [(_image, [1, 2, 1, 2])],
    "aten::reflection_pad3d.out": [(_volume, [1, 1, 1, 1, 1, 1])],
    "aten::repeat.out": [(floats(2, 3), [2, 2])],
    "aten::repeat_interleave.Tensor_out": [(indices(1, 2, 1), 4)],
    "aten::replication_pad1d.out": [(_line, [1, 2])],
    "aten::replication_pad2d.out": [(_image, [1, 2, 1, 2])],
    "aten::replication_pad3d.out": [(_volume, [1, 1, 1, 1, 1, 1])],
    "aten::roll.out": [(floats(4, 6), [1], [0])],
    "aten::scatter.src_out": [(floats(3, 4), 1, torch.zeros(3, 2, dtype=LONG), floats(3, 2))],
    "aten::scatter.value_out": [(floats(3, 4), 1, torch.zeros(3, 2, dtype=LONG), 0.5)],
    "aten::scatter_add.out": [(floats(3, 4), 1, torch.zeros(3, 2, dtype=LONG), floats(3, 2))],
    "aten::select_scatter.out": [(floats(3, 4), floats(4), 0, 1)],
    "aten::slice_scatter.out": [(floats(4, 4), floats(2, 4), 0, 1, 3, 1)],
    "aten::split_copy.Tensor_out": [(floats(2, 6), 2, 1)],
    "aten::split_with_sizes_copy.out": [(floats(2, 6), [2, 2, 2], 1)],
    "aten::stack.out": [([floats(2, 3), floats(2, 3)], 1)],
    "aten::squeeze_copy.dim_out": [(floats(2, 1, 3), 1)],
    "aten::squeeze_copy.dims_out": [(floats(2, 1, 3), [1])],
    "aten::upsample_bilinear2d.vec_out": [(_image, [4, 4], False, None)],
    "aten::upsample_nearest2d.vec_out": [(_image, [4, 4], None)],
    "aten::view_as_real_copy.out": [(torch.complex(floats(4), floats(4)),)],
    "aten::view_copy.out": [(floats(2, 3, 4), [6, 4]), (floats(4, 6), [2, 2, 6])],
    "aten::where.self_out": [(truths(2, 4), floats(2, 4), floats(2, 4))],
    "dim_order_ops::_empty_dim_order.out": [([2, 3],)],
    "quantized_decomposed::add.out": [
        (
            *(quantized(), 0.1, 0, *_range, quantized(), 0.1, 0, *_range),
            *(0.2, 0, *_range),
        )
    ],
    "quantized_decomposed::choose_qparams.Tensor_out": [(floats(3, 4), *_range, 1e-5, torch.int8)],
    "quantized_decomposed::choose_qparams_per_token_asymmetric.out": [(floats(3, 4), torch.int8)],
    "quantized_decomposed::dequantize_per_channel.out": [
        (quantized(), _scale, _zero, 0, *_range, torch.int8)
    ],
    "quantized_decomposed::dequantize_per_tensor.out": [(quantized(), 0.1, 0, *_range, torch.int8)],
    "quantized_decomposed::dequantize_per_tensor.Tensor_out": [
        (quantized(), torch.tensor(0.1), torch.tensor(0), *_range, torch.int8)
    ],
    "quantized_decomposed::dequantize_per_token.out": [
        (quantized(), _token_scale, _token_zero, *_range, torch.int8, torch.float32)
    ],
    "quantized_decomposed::embedding_byte.out": [
        (quantized(), _scale, None, *_range, indices(1, 2))
    ],
    "quantized_decomposed::embedding_4bit.out": [
        (quantized(torch.uint8), _scale, None, -8, 7, indices(1, 2))
    ],
    "quantized_decomposed::embedding_2bit.out": [
        (quantized(torch.uint8), _scale, None, -2, 1, indices(1, 2))
    ],
    "quantized_decomposed::embedding_byte.dtype_out": [
        (quantized(), _scale, None, *_range, indices(1, 2), torch.float32),
        (quantized(), _scale.reshape(3, 1).repeat(1, 2), None, *_range, indices(1), torch.float32),
    ],
    "quantized_decomposed::embedding_4bit.dtype_out": [
        (quantized(torch.uint8), _scale, None, -8, 7, indices(1, 2), torch.float32)
    ],
    "quantized_decomposed::embedding_2bit.dtype_out": [
        (quantized(torch.uint8), _scale, None, -2, 1, indices(1, 2), torch.float32)
    ],
    "quantized_decomposed::mixed_linear.out": [(floats(2, 4), quantized(), _scale, None)],
    "quantized_decomposed::mixed_mm.out": [(floats(2, 3), quantized(), _scale, None)],
    "quantized_decomposed::quantize_per_channel.out": [
        (floats(3, 4), _scale, _zero, 0, *_range, torch.int8)
    ],
    "quantized_decomposed::quantize_per_tensor.out": [(floats(3, 4), 0.1, 0, *_range, torch.int8)],
    "quantized_decomposed::quantize_per_tensor.Tensor_out": [
        (floats(3, 4), torch.tensor(0.1), torch.tensor(0), *_range, torch.int8)
    ],
    "quantized_decomposed::quantize_per_token.out": [
        (floats(3, 4), _token_scale, _token_zero, *_range, torch.int8)
    ],
}


def guessed(schema: torch._C.FunctionSchema) -> Iterator[tuple]:
    """Arguments that the schema suggests, over several shapes, of floats and then of integers."""
    for make in (floats, lambda *shape: floats(*shape).mul(8).to(LONG), truths):
        for shape in SHAPES:
            yield tuple(_guess(argument, shape, make) for argument in schema.arguments)


def _guess(argument: torch._C.Argument, shape: tuple, make) -> object:
    kind = str(argument.real_type).replace("SymInt", "int")
    if kind == "Tensor":
        return make(*shape)
    if argument.name in INTEGERS and kind in ("int", "Optional[int]"):
        return INTEGERS[argument.name]
    if argument.name in LISTS and kind.startswith(("List[int]", "Optional[List[int]")):
        return LISTS[argument.name]
    if argument.has_default_value():
        return argument.default_value
    by_kind = {"int": 1, "bool": False, "float": 1.5, "number": 2, "Scalar": 2, "List[int]": [1]}
    return by_kind.get(kind)
