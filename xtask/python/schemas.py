"""Writes operator-schemas.json: the arguments of every kernel that the linked runtime registers.

It has their kinds, names and defaults. Names come from executorch-1.5.1.json (written by
`engine kernels`), the schemas from the operator libraries that the exporter itself uses. `cargo
xtask dev schemas` runs it: without arguments it writes the file, with `--check` it exits with 1
when the file differs.
"""

import json
import pathlib
import sys

# Each registers operators: executorch_prim::*, and quantized_decomposed::*.out.
import executorch.exir.passes.executorch_prim_ops_registry
import executorch.kernels.quantized  # noqa: F401
import torch
from executorch.exir import to_edge  # noqa: F401  registers dim_order_ops::*
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  registers llama::*

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "model-assets/src/kernels"
TABLE = FOLDER / "executorch-1.5.1.json"
SCHEMAS = FOLDER / "operator-schemas.json"

# Registered inside the runtime only; their stack layout is that of register_prim_ops.cpp.
PRIM_ONLY = {
    "executorch_prim::et_copy_index.tensor": {
        "args": ["Tensor! copy_to", "Tensor copy_from", "int index"],
        "returns": [],
    },
    "executorch_prim::et_view.default": {
        "args": ["Tensor self", "int[] size", "Tensor! out"],
        "returns": [],
    },
    "executorch_prim::floordiv.int": {"args": ["int a", "int b"], "returns": ["int"]},
    "executorch_prim::mod.int": {"args": ["int a", "int b"], "returns": ["int"]},
}


def kind(argument: torch._C.Argument) -> str:
    """The type as the runtime's boxed calling convention sees it, `!` when the kernel writes it."""
    text = str(argument.real_type).replace("SymInt", "int")
    text = {"number": "Scalar", "Optional[number]": "Scalar?", "NumberType": "Scalar"}.get(
        text, text
    )
    if text.startswith("List[Optional["):
        text = text[len("List[Optional[") : -2] + "?[]"
    optional = text.startswith("Optional[")
    if optional:
        text = text[len("Optional[") : -1]
    if text.startswith("List["):
        text = text[len("List[") : -1] + "[]"
    text = text.replace("number", "Scalar")
    writes = argument.alias_info is not None and argument.alias_info.is_write
    return text + ("?" if optional else "") + ("!" if writes else "")


def described(argument: torch._C.Argument) -> str:
    """`kind name`, or `kind name=default` with the default as JSON."""
    text = f"{kind(argument)} {argument.name}"
    return f"{text}={json.dumps(argument.default_value)}" if argument.has_default_value() else text


def returned(ret: torch._C.Argument, schema: torch._C.FunctionSchema) -> int | str:
    """An in-place kernel returns the argument that it wrote: the runtime stores it over that."""
    alias = ret.alias_info
    if alias is None or not alias.is_write:
        return kind(ret)
    written = [
        i
        for i, argument in enumerate(schema.arguments)
        if argument.alias_info and argument.alias_info.before_set & alias.before_set
    ]
    return written[0]


def describe(schema: torch._C.FunctionSchema) -> dict:
    """Arguments in call order. `returns` has, for each appended value, its argument or kind."""
    args = [described(argument) for argument in schema.arguments]
    outs = [i for i, argument in enumerate(schema.arguments) if argument.is_out]
    if len(outs) == 1:
        returns = outs
    elif outs:
        returns = [outs]  # the exporter appends one list of all outputs
    else:
        returns = [returned(ret, schema) for ret in schema.returns]
    return {"args": args, "returns": returns}


def main() -> int:
    """Writes or checks the table."""
    known = {}
    for schema in torch._C._jit_get_all_schemas():
        known[schema.name + ("." + schema.overload_name if schema.overload_name else "")] = schema
    rows, absent = {}, []
    for name in json.loads(TABLE.read_text())["kernels"]:
        if name in PRIM_ONLY:
            rows[name] = PRIM_ONLY[name]
        elif name in known:
            rows[name] = describe(known[name])
        else:
            absent.append(name)
    lines = [f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(rows.items())]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    sys.stderr.write(f"{len(rows)} schemas; without a schema: {absent}\n")
    if "--check" in sys.argv[1:]:
        return int(not SCHEMAS.exists() or SCHEMAS.read_text() != text)
    SCHEMAS.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
