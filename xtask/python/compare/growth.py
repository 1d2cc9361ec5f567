"""How the export's memory grows with the model: `growth.py FOLDER [--whole SHAPE ...]`.

Runs the export worker on random weights at the shapes of Llama 3.2 1B and 3B and of Llama 3.1 8B,
cut to a few layers each, and prints what a layer adds. A layer's cost does not depend on how many
there are, so the last column extends the line to the whole model: an extension, unless `--whole`
has all layers of that shape run too (8B wants some 30 GB of disk).

These are the worker's figures. The engine, which proves the file after it, packs the whole model in
memory: it takes the size of the file, whatever the shape.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import asked

LLAMA = {
    "family": "llama",
    "head_dim": 64,
    "kv_heads": 8,
    "vocab": 128256,
    "tied": True,
    "norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "kind": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position": 8192,
    },
}
# From the `config.json` of the published checkpoints.
SHAPES = {
    "1B": {**LLAMA, "dim": 2048, "layers": 16, "heads": 32, "ffn": 8192},
    "3B": {**LLAMA, "dim": 3072, "layers": 28, "heads": 24, "head_dim": 128, "ffn": 8192},
    "8B": {
        **LLAMA,
        "dim": 4096,
        "layers": 32,
        "heads": 32,
        "head_dim": 128,
        "ffn": 14336,
        "tied": False,
    },
}
WORKER = Path(__file__).resolve().parent.parent / "proofmark_worker/run.py"
MB = 1e6


def request(folder: Path, shape: dict, layers: int) -> dict:
    return asked.export(
        folder,
        {**shape, "layers": layers},
        model="growth",
        seq_len=512,
        file_bytes_max=1 << 36,
        reference_prompt=list(range(24)),
        reference_decode=list(range(8)),
    )


def export(folder: Path, shape: dict, layers: int) -> tuple[int, int, int, float]:
    """Peak anonymous and resident memory, size of the file, all in bytes, and seconds."""
    value = request(folder, shape, layers)
    path = folder / "request.json"
    path.write_text(json.dumps(value))
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-I", "-B", str(WORKER), str(path)], capture_output=True, check=False
    )
    if done.returncode != 0:
        sys.exit(done.stderr[-3000:].decode(errors="replace"))
    stages = json.loads(Path(value["response"]).read_text())["stages"]
    size = Path(value["pte"]).stat().st_size
    Path(value["pte"]).unlink()
    return (
        max(stage["peak_anon_bytes"] for stage in stages),
        max(stage["peak_rss_bytes"] for stage in stages),
        size,
        sum(stage["seconds"] for stage in stages),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, nargs=2, default=[2, 6])
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--whole", nargs="+", choices=SHAPES, default=[])
    args = parser.parse_args()
    # The worker takes absolute paths only.
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    out = sys.stdout.write
    out("| shape | layers | anonymous | resident | file | time | a layer adds | whole model |\n")
    out("|---|---|---|---|---|---|---|---|\n")
    for name in args.only:
        shape = SHAPES[name]
        few, more = (export(args.folder, shape, layers) for layers in args.layers)
        slope = (more[0] - few[0]) / (args.layers[1] - args.layers[0])
        whole = more[0] + slope * (shape["layers"] - args.layers[1])
        row(name, args.layers[0], few, " | ")
        extended = f"{whole / MB:.0f} MB at {shape['layers']} layers, by extension"
        row(name, args.layers[1], more, f"{slope / MB:.1f} MB | {extended}")
        if name in args.whole:
            row(name, shape["layers"], export(args.folder, shape, shape["layers"]), " | measured")


def row(name: str, layers: int, found: tuple[int, int, int, float], rest: str) -> None:
    anonymous, resident, size, seconds = found
    sys.stdout.write(
        f"| {name} | {layers} | {anonymous / MB:.0f} MB | {resident / MB:.0f} MB | "
        f"{size / MB:.0f} MB | {seconds:.0f} s | {rest} |\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
