"""Weights must stream. Ratios to the model's size, never absolute figures."""

import json
import subprocess
import sys
from pathlib import Path

from proofmark_worker import protocol

from .support import Case, request

# 138 M parameters: 552 MB as fp32, 276 MB as bf16, 138 MB quantized.
LARGE = {
    "dim": 1024,
    "layers": 8,
    "heads": 16,
    "kv_heads": 4,
    "head_dim": 64,
    "ffn": 4096,
    "vocab": 16384,
}


# Share of the quantized bytes above the imported libraries. Holding the quantized weights once
# would be 1.0, bf16 weights 2.0, fp32 weights 4.0. The last three were never seen above 0.6, and
# at 1.28 to 1.38 with the spilling of delegate data switched off.
LIMITS = {
    "quantize": 0.4,
    "reference": 0.4,
    "export": 0.2,
    "partition": 0.75,
    "lower": 0.75,
    "write": 0.75,
}


class Streaming(Case):
    def test_anonymous_memory_stays_below_the_quantized_size(self):
        if not Path("/proc/self/clear_refs").exists():
            self.skipTest("needs /proc")
        value = request(self.directory(), architecture=LARGE, file_bytes_max=1 << 30)
        path = Path(value["response"]).with_name("request.json")
        path.write_text(json.dumps(value))
        run = Path(protocol.__file__).with_name("run.py")
        done = subprocess.run(
            [sys.executable, "-I", "-B", str(run), str(path)], capture_output=True, check=False
        )
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        response = json.loads(Path(value["response"]).read_text())
        parameters = response["weights"]["parameters"]
        self.assertGreater(parameters, 130_000_000)
        peaks = {stage["name"]: stage["peak_anon_bytes"] for stage in response["stages"]}
        for name, limit in LIMITS.items():
            with self.subTest(stage=name):
                self.assertLess((peaks[name] - peaks["import"]) / parameters, limit)
