"""`python programs.py FOLDER OPERATOR...`: exports small programs that call each operator.

Writes `programs.json` there: the files by operator, and why an operator has none. The operators are
named as the runtime names them. What upstream's exporter reaches only as a part of larger programs
comes from the modules in `models.py`.

Each operator is exported by a process of its own: one whose exporter dies, or works without end,
costs its own programs and no other's.
"""

import json
import logging
import multiprocessing
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import executorch.kernels.quantized  # noqa: E402, F401  registers quantized_decomposed::*
import torch  # noqa: E402
from executorch.exir import (  # noqa: E402
    EdgeCompileConfig,
    ExecutorchBackendConfig,
    to_edge_transform_and_lower,
)
from executorch.exir.passes import MemoryPlanningPass  # noqa: E402
from executorch.exir.passes.sym_shape_eval_pass import (  # noqa: E402
    ConstraintBasedSymShapeEvalPass,
)
from executorch.extension.llm.custom_ops import custom_ops  # noqa: E402, F401  registers llama::*
from torch import nn  # noqa: E402

from operators import kit, models  # noqa: E402

# Overloads that write into a given tensor, and what their functional twin is called.
TWINS = {"out": "default", "values": "default", "dim_max": "dim", "dim_min": "dim"}
TWINS |= {"grad_input": "default", "out_mode": "Tensor_mode", "all_out": "default"}
TWINS |= {"unary_out": "default", "dtype_out": "default"}

# Of a processor, for one operator: most take two seconds. A limit of time would depend on what else
# the machine does.
CPU_SECONDS_MAX = 120


class Call(nn.Module):
    """Calls an operator: tensors are inputs, in order; all else stays as it is."""

    def __init__(self, function: Callable, arguments: tuple) -> None:
        super().__init__()
        self.function, self.arguments = function, arguments

    def forward(self, *tensors: torch.Tensor):
        left = iter(tensors)

        def filled(argument: object) -> object:
            if isinstance(argument, torch.Tensor):
                return next(left)
            if isinstance(argument, list):
                return [filled(item) for item in argument]
            return argument

        return self.function(*[filled(argument) for argument in self.arguments])


def tensors_of(arguments: tuple) -> list[torch.Tensor]:
    flat = []
    for argument in arguments:
        items = argument if isinstance(argument, list) else [argument]
        flat += [item for item in items if isinstance(item, torch.Tensor)]
    return flat


def lower(module: nn.Module, inputs: tuple, dynamic: object = None):
    """The settings of the worker: inputs unplanned, shapes from constraints."""
    if dynamic is not None and isinstance(module, models.Net):
        dynamic = (dynamic,)  # its inputs are one argument, a tuple
    program = torch.export.export(module.eval(), inputs, dynamic_shapes=dynamic, strict=False)
    edge = to_edge_transform_and_lower(
        program, compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True)
    )
    return edge.to_executorch(
        ExecutorchBackendConfig(
            memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False),
            sym_shape_eval_pass=ConstraintBasedSymShapeEvalPass(),
        )
    )


def functional(operator: str):
    """The operator that returns what the given one writes."""
    name, _, overload = operator.partition(".")
    space, _, name = name.partition("::")
    packet = getattr(getattr(torch.ops, space), name)
    wanted = [TWINS.get(overload, ""), overload.removesuffix("_out"), "default", "Tensor", "self"]
    if overload == "dtype_out":
        wanted = ["dtype", *wanted]
    known = [name for name in wanted if name in packet.overloads() and name != "out"]
    found = [getattr(packet, name) for name in known]
    # `add` and `mul` have a default for two numbers.
    found.sort(key=lambda overload: "Tensor" not in str(overload._schema).partition(" -> ")[0])
    if not found:
        raise LookupError(f"no functional overload among {packet.overloads()}")
    return found[0]


def called(program) -> set[str]:
    plans = program.executorch_program.execution_plan
    operators = [operator for plan in plans for operator in plan.operators]
    return {f"{op.name}.{op.overload}" if op.overload else op.name for op in operators}


def attempts(operator: str) -> Iterator[tuple[str, Callable]]:
    """Ways to get a program with the operator: name, and what makes it."""
    for number, (module, inputs, dynamic) in enumerate(models.WITH.get(operator, [])):
        yield f"model{number}", lambda m=module, i=inputs, d=dynamic: lower(m(), i, d)
    if operator in models.WITH:
        return
    function = functional(operator)
    by_hand = kit.BY_HAND.get(operator)
    for number, arguments in enumerate(by_hand or kit.guessed(function._schema)):
        made, inputs = Call(function, arguments), tuple(tensors_of(arguments))
        try:
            made(*inputs)
        except Exception:  # noqa: S112  a guess that PyTorch refuses at once, in whatever way
            continue
        yield f"call{number}", lambda m=made, i=inputs: lower(m, i)


def export(operator: str, folder: Path) -> tuple[list[str], str]:
    """Files of an operator; without any, why."""
    safe = operator.replace("::", "-").replace(".", "-")
    everything = operator in models.WITH or operator in kit.BY_HAND
    files, why = [], "no attempt"
    try:
        for name, make in attempts(operator):
            try:
                program = make()
            except Exception as cause:  # upstream raises whatever it likes
                why = f"{type(cause).__name__}: {str(cause).strip().splitlines()[:1]}"
                continue
            if operator not in called(program):
                why = f"became {', '.join(sorted(called(program)))}"
                if everything:
                    continue
                # Other guesses change nothing: the exporter writes the operator in other words.
                break
            path = folder / f"{safe}-{name}.pte"
            with path.open("wb") as file:
                program.write_to_file(file)
            files.append(str(path))
            if not everything:
                break
    except Exception as cause:  # as above: guesses and look-ups, too
        why = f"{type(cause).__name__}: {cause}"
    return files, "" if files else why


def isolated(operator: str, folder: Path) -> tuple[list[str], str]:
    """As `export`, in a process of its own."""
    fork = multiprocessing.get_context("fork")
    ours, its = fork.Pipe(duplex=False)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS_MAX, CPU_SECONDS_MAX))
        its.send(export(operator, folder))

    child = fork.Process(target=work)
    child.start()
    its.close()
    try:
        return ours.recv()
    except EOFError:
        child.join()
        if child.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
            return [], f"the exporter did not end in {CPU_SECONDS_MAX} s of a processor"
        return [], f"the exporter died: exit code {child.exitcode}"
    finally:
        child.join()


def main() -> int:
    folder, operators = Path(sys.argv[1]), sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    # Threads would not be there in a child; what the exporter imports and sets up at first, it has.
    torch.set_num_threads(1)
    lower(Call(torch.ops.aten.sigmoid.default, (kit.floats(2),)), (kit.floats(2),))
    found, missing = {}, {}
    for operator in operators:
        files, why = isolated(operator, folder)
        if files:
            found[operator] = files
        else:
            missing[operator] = why
    made = {"files": found, "missing": missing}
    (folder / "programs.json").write_text(json.dumps(made, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
