"""Upstream's exporter at a model's shapes, on random weights: `export_llm.py REQUEST`.

The request names the architecture as a recipe does, the context window and the folder for the
result. Upstream makes up random weights when it is given no checkpoint, so the run needs no
licence.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

OUTPUT_NAME = "upstream"
# INT8 weights per channel, INT8 activations per token: upstream's quantizer knows it.
QMODE = "8da8w"


def params(shape: dict) -> dict:
    """The architecture in the words of upstream's `ModelArgs`."""
    args = {
        "dim": shape["dim"],
        "n_layers": shape["layers"],
        "n_heads": shape["heads"],
        "n_kv_heads": shape["kv_heads"],
        "head_dim": shape["head_dim"],
        "hidden_dim": shape["ffn"],
        "vocab_size": shape["vocab"],
        "norm_eps": shape["norm_eps"],
        "rope_theta": shape["rope_theta"],
    }
    if scaling := shape.get("rope_scaling"):
        args |= {
            "use_scaled_rope": True,
            "rope_scale_factor": int(scaling["factor"]),
            "high_freq_factor": int(scaling["high_freq_factor"]),
        }
    return args


def arguments(request: dict, params_file: Path) -> list[str]:
    """INT8 weights per channel, INT8 activations, an INT8 embedding, on XNNPACK: as the recipe."""
    window = request["seq_len"]
    return [
        "base.model_class=llama3_2",
        f"base.params={params_file}",
        "model.use_kv_cache=True",
        "model.use_sdpa_with_kv_cache=True",
        "backend.xnnpack.enabled=True",
        f"quantization.qmode={QMODE}",
        # No groups: a scale per output channel.
        "quantization.group_size=0",
        "quantization.embedding_quantize='8,0'",
        f"export.max_seq_length={window}",
        f"export.max_context_length={window}",
        f"export.output_name={OUTPUT_NAME}.pte",
        # Hydra would make folders of logs where it is started.
        "hydra.run.dir=.",
        "hydra.output_subdir=null",
    ]


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    params_file = Path(request["folder"]) / "params.json"
    params_file.write_text(json.dumps(params(request["architecture"])))
    # Upstream writes into the folder that it runs in.
    os.chdir(request["folder"])
    # The list that the configuration is checked against leaves out what the quantizer takes.
    from executorch.extension.llm.export.config.llm_config import QuantizationConfig

    QuantizationConfig.QMODE_OPTIONS.append(QMODE)
    sys.argv = ["export_llm", *arguments(request, params_file)]
    runpy.run_module("executorch.extension.llm.export.export_llm", run_name="__main__")


if __name__ == "__main__":
    main()
