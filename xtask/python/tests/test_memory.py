"""Weights must stream. Growth of the peaks with the weights, never absolute figures."""

import json
import subprocess
import sys
from pathlib import Path

from proofmark_worker import protocol

from .support import Case, request

# The same graph at two widths: 554 M parameters (2.2 GB as fp32, 554 MB quantized) and 9 M. What
# the libraries and the graph itself take is in both, and only what grows with the weights is left.
# So wide because importing the libraries alone differs by up to 90 MB from one process to the next.
LARGE = {
    "dim": 2048,
    "layers": 8,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 64,
    "ffn": 8192,
    "vocab": 32768,
}
SMALL = {**LARGE, "dim": 256, "heads": 4, "kv_heads": 1, "ffn": 1024, "vocab": 4096}

STREAMED = ("calibrate", "quantize", "reference", "export", "partition", "lower", "write", "check")
# Anonymous bytes for each quantized byte. Holding the quantized weights once is 1.0, bf16 weights
# 2.0, fp32 weights 4.0. Seen: 0.0 to 0.2, and 1.0 to 1.2 with the spilling of delegate data off.
LIMIT = 0.6


class Streaming(Case):
    # On the repository's disk, as an export is: some 4 GB, which a small `/tmp` has not, and on a
    # tmpfs the files that hold the streamed weights would be memory.
    scratch_in = Path(__file__).resolve().parents[3] / ".proofmark/work"

    def test_the_weights_are_on_a_disk(self):
        repository = Path(__file__).resolve().parents[3]
        self.assertTrue((repository / "xtask/Cargo.toml").exists(), repository)
        self.assertTrue(self.scratch.is_relative_to(repository / ".proofmark/work"), self.scratch)

    def peaks(self, architecture: dict) -> tuple[int, dict[str, int]]:
        """Parameters, and the peak of anonymous memory by stage, of a worker of its own."""
        value = request(self.directory(), architecture=architecture, file_bytes_max=1 << 30)
        path = Path(value["response"]).with_name("request.json")
        path.write_text(json.dumps(value))
        run = Path(protocol.__file__).with_name("run.py")
        done = subprocess.run(
            [sys.executable, "-I", "-B", str(run), str(path)], capture_output=True, check=False
        )
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        response = json.loads(Path(value["response"]).read_text())
        peaks = {stage["name"]: stage["peak_anon_bytes"] for stage in response["stages"]}
        return response["weights"]["parameters"], peaks

    def test_anonymous_memory_does_not_grow_with_the_weights(self):
        if not Path("/proc/self/clear_refs").exists():
            self.skipTest("needs /proc")
        few, base = self.peaks(SMALL)
        many, peaks = self.peaks(LARGE)
        self.assertGreater(many - few, 500_000_000)
        for name in STREAMED:
            with self.subTest(stage=name):
                self.assertLess((peaks[name] - base[name]) / (many - few), LIMIT)
