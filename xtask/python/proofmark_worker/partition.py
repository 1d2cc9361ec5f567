"""Which nodes go to XNNPACK together.

Upstream decides what can be delegated; this decides the grouping, by levels. A node's level is how
many times a path from the inputs left a delegate and came back. Edges never lead to a lower level,
and a way out of a delegate and back leads to a higher one, so that levels cannot form a cycle.
Upstream tries to merge every pair of candidates instead: quadratic, and it misses merges as soon
as several linears share one quantized input.

**Invariant:** the same graph gives the same partitions in the same order; nothing iterates over a
set of nodes.
"""

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir.backend.compile_spec_schema import CompileSpec
from executorch.exir.backend.partitioner import DelegationSpec
from executorch.exir.delegate import executorch_call_delegate
from torch.fx.passes.infra.partitioner import Partition

from .slices import CONFIGS


class LevelPartitioner(XnnpackPartitioner):
    def __init__(self) -> None:
        super().__init__(configs=CONFIGS)
        # Runs the one clean-up pass of linear models instead of 17, each of which would retrace
        # every delegate (folding convolutions, padding, resizing) and change nothing in this graph.
        specs = [CompileSpec("dqlinear_partitioner", b"")]
        self.delegation_spec = DelegationSpec(self.delegation_spec.backend_id, specs)

    def ops_to_not_decompose(self, ep):
        """Linears and what else a delegate takes whole; no filter, which would cost two tracings.

        Upstream asks before it decomposes and after it delegated. Then a node that was kept and
        that no delegate took is an error.
        """
        kept, _filter = super().ops_to_not_decompose(ep)
        delegated = any(node.target is executorch_call_delegate for node in ep.graph.nodes)
        # Nothing in the graph is left to decompose, but a size counts as such and would cost one.
        return (kept if delegated else [*kept, torch.ops.aten.sym_size.int]), None

    def generate_partitions(self, ep) -> list[Partition]:
        supported = {n for group in self.get_matched_nodes_from_configs(ep) for n in group}
        levels = _levels(ep, supported)
        groups: dict[int, list] = {}
        for node in ep.graph.nodes:
            if node in supported and node in levels:
                groups.setdefault(levels[node], []).append(node)
        return [Partition(id=level, nodes=nodes) for level, nodes in sorted(groups.items())]


def _levels(ep, supported: set) -> dict:
    inputs, levels = set(ep.graph_signature.user_inputs), {}
    for node in ep.graph.nodes:
        if node.op == "placeholder" and node.name in inputs:
            levels[node] = 0
        elif node.op == "call_function":
            inside = node in supported
            before = [n for n in node.all_input_nodes if n in levels]
            if before:
                levels[node] = max(levels[n] + (n in supported and not inside) for n in before)
    # What depends on no input (weights and their dequantization) goes where it is used, and
    # stays outside when that is in several places or outside.
    for node in reversed(ep.graph.nodes):
        if node not in levels and node.op in ("placeholder", "call_function"):
            at = {levels.get(user) if user in supported else None for user in node.users}
            if len(at) == 1 and None not in at:
                levels[node] = at.pop()
    return levels


def forget_compile_specs(edge) -> None:
    """The spec above is for the exporter; nothing of it has to be in the product."""
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    for _, module in edge.exported_program().graph_module.named_modules():
        if isinstance(module, LoweredBackendModule):
            module._compile_specs = []
