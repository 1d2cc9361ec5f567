"""Slices of XNNPACK whose other dimensions are not fixed.

Upstream leaves a slice of a tensor with a dynamic dimension outside its delegates, and would write
down that dimension's largest extent. To XNNPACK a size of 0 means "the rest"
(`xnn_define_static_slice`), whatever it turns out to be at run time.

**Invariant:** the sliced dimension itself is fixed. A slice that is left outside cuts a delegate in
two, and the number of delegates is checked.
"""

from contextlib import contextmanager

from executorch.backends.xnnpack.operators import node_visitor
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.generic_node_configs import SliceCopyConfig

from .fields import WorkerError

TARGET = "aten.slice_copy.Tensor"


class SliceConfig(SliceCopyConfig):
    """Along a fixed dimension, in steps of one; the others may be dynamic."""

    def check_constraints(self, node, ep) -> bool:
        if not self.check_common_constraints(node, ep):
            return False
        dim = node.args[1] if len(node.args) > 1 else 0
        step = node.args[4] if len(node.args) > 4 else 1
        extents = [n.meta["val"].shape[dim] for n in (node.args[0], node)]
        return step == 1 and all(isinstance(extent, int) for extent in extents)


CONFIGS = [SliceConfig if c is SliceCopyConfig else c for c in ALL_PARTITIONER_CONFIGS]


@contextmanager
def dynamic_slices():
    visitors = node_visitor._node_visitor_dict
    if TARGET not in visitors or list(ALL_PARTITIONER_CONFIGS) == CONFIGS:
        raise WorkerError("version", f"{TARGET} is gone upstream")
    upstream = visitors[TARGET]

    class Rest(upstream):
        def define_node(self, node, xnn_graph, vals_to_ids, debug_handle) -> None:
            super().define_node(node, xnn_graph, vals_to_ids, debug_handle)
            written = xnn_graph.xnodes[-1].xnode_union
            dim = node.args[1] if len(node.args) > 1 else 0
            written.sizes = [n if at == dim else 0 for at, n in enumerate(written.sizes)]

    visitors[TARGET] = Rest
    try:
        yield
    finally:
        visitors[TARGET] = upstream
