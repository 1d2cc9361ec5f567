"""The run: request in, stages, response out."""

import os
import platform
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from . import answers, choice, from_gguf, guards, memory, quality, scheme, templates, upstream
from .checkpoint import RandomSource, SafetensorsSource
from .fields import WorkerError
from .protocol import Request, parse_request, publish, read_request, write_response
from .stages import Stages
from .tensors import EMBEDDING, HEAD, demanded, parameters

# What upstream's allocators say when there is no memory left.
NO_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory")
NO_SPACE = "no space left on device"
UNDELEGATED = "was not decomposed or delegated"
ERROR_CHARACTERS_MAX = 300
TASKS = {
    "answers": answers.run,
    "choice": choice.run,
    "from-gguf": from_gguf.run,
    "quality": quality.run,
}


def _source(request: Request):
    if request.source_dir is None:
        return RandomSource(request.source_seed, request.architecture)
    return SafetensorsSource(request.source_dir, request.architecture)


def _check_disk(request: Request) -> None:
    # Weights once as files, spilled delegate data at worst once more, the product itself.
    width = 4 if request.quantization == "fp32" else 1
    needed = 3 * width * parameters(request.architecture)
    for path in {request.work_dir, request.pte.parent}:
        free = shutil.disk_usage(path).free
        if free < needed:
            raise WorkerError("disk", f"{path}: {free} bytes free, expected {needed}")


class Run:
    def __init__(self, request: Request, stages: Stages, work_dir: Path) -> None:
        self.request = request
        self.stages = stages
        self.work_dir = work_dir
        self.schemes = scheme.schemes(request.quantization, request.activations)
        self.out: dict = {}

    def preflight(self) -> None:
        with self.stages.stage("preflight"):
            upstream.check_versions()
            self.expected = guards.expected(self.request)
            self.source = _source(self.request)
            if self.request.words is not None:
                templates.check(self.request.words)
            _check_disk(self.request)
        with self.stages.stage("digest"):
            self.out["source_files"] = self.source.digest(self.stages.progress)
            self.source.check_tied()

    def load_upstream(self) -> None:
        with self.stages.stage("import"):
            import torch

            torch.set_grad_enabled(False)
            torch.set_num_threads(self.request.threads)
            # Registers the operators, and their out variants, that the graph uses.
            import executorch.kernels.quantized  # noqa: F401
            from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401

            from . import fidelity, lower, quantize, reference, weights

            self.lower, self.quantize, self.reference = lower, quantize, reference
            self.fidelity, self.prepare = fidelity, weights.prepared
            scheme.check_widths(demanded(self.request.architecture), self.schemes)

    def weights(self) -> dict:
        request = self.request
        weights, self.known = self.prepare(
            self.source, request, self.schemes, self.work_dir, self.stages
        )
        memory.release()
        names = {part: found.name for part, found in self.schemes.items()}
        self.out["quantized"] = {"scheme": names["q"], **names}
        self.out["weights"] = {
            "tensors": len(demanded(request.architecture)),
            "parameters": parameters(request.architecture),
        }
        return weights

    def write_reference(self, weights: dict) -> None:
        request = self.request
        with self.stages.stage("reference"):
            # Attention is causal: one pass over known tokens gives what one by one does.
            tensors = self.fidelity.record(
                request.architecture,
                weights,
                list(request.reference_prompt),
                list(request.reference_decode),
                progress=self.stages.progress,
            )
            self.reference.write_safetensors(
                request.reference,
                tensors,
                {
                    "format": "proofmark-reference-4",
                    "quantization": request.quantization,
                },
            )

    def tied_bytes(self, weights: dict) -> int:
        """What storing head and embedding once must save; small parts are not worth sharing."""
        if not self.request.architecture.tied or self.request.backend != "xnnpack":
            return 0
        head, table = weights[HEAD], weights[EMBEDDING]
        parts = [head.data.nbytes]
        # A head's scales have its grid's step in them; with a step of 1 they are the table's.
        if head.scale is not None and head.scale.equal(table.scale):
            parts.append(head.scale.nbytes)
        return sum(size for size in parts if size >= upstream.SPILL_BYTES_MIN)

    def lowered(self, weights: dict):
        request, stages = self.request, self.stages
        with stages.stage("export"):
            exported = self.lower.export(request, weights)
            large = self.quantize.large_matrices(weights, upstream.SPILL_BYTES_MIN)
            tied = self.tied_bytes(weights)
            weights.clear()
            memory.release()
        low_memory = upstream.LowMemory(self.work_dir, self.known)
        with stages.stage("partition"):
            with low_memory.applied():
                edge = self.lower.partition(request, exported)
            del exported
            memory.release()
            got = guards.census(edge)
            guards.check_census(request, self.expected, got)
            if request.backend == "xnnpack":
                low_memory.check(got.partitions, large)
        self.out["delegates"] = {"partitions": got.partitions, "empty": got.empty}
        self.out["linears"] = {
            "expected": self.expected.linears,
            "quantized": got.quantized,
            "delegated": got.delegated,
        }
        tie = upstream.Tie()
        with stages.stage("lower"):
            with low_memory.applied(), tie.applied():
                program = self.lower.to_executorch(edge)
            del edge
            memory.release()
            tie.check(tied)
        self.out["tied_bytes_saved"] = tie.saved
        return program

    def write(self, program) -> None:
        request = self.request
        with self.stages.stage("write"):
            publish(request.pte, program.write_to_file)
        with self.stages.stage("check"):
            self.out["file_bytes"] = guards.check_file(
                request.pte, request.file_bytes_min, request.file_bytes_max
            )
            plans = {plan.name: plan for plan in program.executorch_program.execution_plan}
            plan = plans["forward"]
            self.out["operators"] = sorted(
                f"{op.name}.{op.overload}" if op.overload else op.name for op in plan.operators
            )
            self.out["planned_bytes"] = sum(plan.non_const_buffer_sizes)
            self.out["metadata"] = self.lower.metadata(request)

    def all(self) -> dict:
        self.preflight()
        self.load_upstream()
        weights = self.weights()
        self.write_reference(weights)
        self.write(self.lowered(weights))
        self.out["versions"] = {"python": platform.python_version(), **upstream.versions()}
        self.out["deterministic_seed"] = self.request.source_seed
        return self.out


def _failure(cause: BaseException) -> dict:
    if isinstance(cause, WorkerError):
        return {"kind": cause.kind, "error": cause.error, "hint": cause.hint}
    # Upstream's messages run over many lines; the log has them.
    text = (str(cause).strip() or type(cause).__name__).splitlines()[0][:ERROR_CHARACTERS_MAX]
    if isinstance(cause, MemoryError) or any(part in text.lower() for part in NO_MEMORY):
        hint = "free memory, or use a machine with more"
        return {"kind": "memory", "error": f"out of memory: {text}", "hint": hint}
    if NO_SPACE in text.lower():
        return {"kind": "disk", "error": text, "hint": "free some space, then run the same again"}
    if UNDELEGATED in str(cause):
        return {"kind": "delegate", "error": text, "hint": guards.HINT}
    if isinstance(cause, OSError):
        return {"kind": "io", "error": text, "hint": None}
    return {"kind": "internal", "error": f"{type(cause).__name__}: {text}", "hint": None}


def _answer(request: Request, stages: Stages) -> dict:
    for path in (request.pte, request.reference):
        path.unlink(missing_ok=True)
    request.work_dir.mkdir(parents=True, exist_ok=True)
    work_dir = Path(tempfile.mkdtemp(prefix="worker_", dir=request.work_dir))
    try:
        return {"ok": True, "stages": stages.done, **Run(request, stages, work_dir).all()}
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: run.py REQUEST.json", file=sys.stderr)  # noqa: T201
        return 2
    stages, response = Stages(), None
    memory.map_large_blocks()
    try:
        value = read_request(Path(arguments[0]))
        # Even a bad request is answered, as long as it says where.
        named = value.get("response") if isinstance(value, dict) else None
        response = Path(named) if isinstance(named, str) and os.path.isabs(named) else None  # noqa: PTH117
        task = TASKS.get(str(value.get("task"))) if isinstance(value, dict) else None
        if task is not None:
            answer = {"ok": True, "stages": stages.done, **task(value, stages)}
        else:
            request = parse_request(value)
            answer = _answer(request, stages)
    except BaseException as cause:
        # The log has the whole story; the response has one line of it.
        traceback.print_exc()
        answer = {
            "ok": False,
            "stage": stages.current or "preflight",
            **_failure(cause),
            "stages": stages.done,
        }
        if response is not None and "request" in locals():
            for path in (request.pte, request.reference):
                path.unlink(missing_ok=True)
    finally:
        stages.close()
    if response is None:
        return 1
    write_response(response, answer)
    return 0 if answer["ok"] else 1
