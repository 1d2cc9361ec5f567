"""`torch.export`, partition, lowering: each step with only what it needs alive.

**Invariant:** the example input is small; shapes come from constraints, not from the example.
"""

import torch
from executorch.exir import (
    EdgeCompileConfig,
    ExecutorchBackendConfig,
    to_edge_transform_and_lower,
)
from executorch.exir.passes import MemoryPlanningPass
from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass

from .model import Decoder
from .partition import LevelPartitioner, forget_compile_specs
from .protocol import Request
from .quantize import Weight
from .slices import dynamic_slices

EXAMPLE_TOKENS = 3


def metadata(request: Request) -> dict:
    return {
        "get_max_seq_len": request.seq_len,
        "get_max_context_len": request.seq_len,
        "get_vocab_size": request.architecture.vocab,
        "get_n_layers": request.architecture.layers,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": True,
        "enable_dynamic_shape": True,
        "get_bos_id": request.bos_id,
        "get_eos_ids": list(request.eos_ids),
    }


def export(request: Request, weights: dict[str, Weight]):
    model = Decoder(request.architecture, request.seq_len, weights).eval()
    example = (torch.zeros(1, EXAMPLE_TOKENS, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    count = torch.export.Dim("count", min=1, max=request.seq_len)
    return torch.export.export(model, example, dynamic_shapes=({1: count}, None), strict=False)


def partition(request: Request, exported):
    with dynamic_slices():
        edge = to_edge_transform_and_lower(
            exported,
            partitioner=[LevelPartitioner()] if request.backend == "xnnpack" else [],
            constant_methods=metadata(request),
            # The validity check rejects the custom attention operators.
            compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        )
    forget_compile_specs(edge)
    return edge


def to_executorch(edge):
    return edge.to_executorch(
        ExecutorchBackendConfig(
            extract_delegate_segments=True,
            do_quant_fusion_and_const_prop=True,
            memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False),
            sym_shape_eval_pass=ConstraintBasedSymShapeEvalPass(),
        )
    )
