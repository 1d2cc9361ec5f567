"""Requests that must be refused, and the answer they get. Nothing here needs torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

from proofmark_worker import protocol

from .support import ARCHITECTURE, Case, request

RUN = Path(__file__).resolve().parent.parent / "proofmark_worker" / "run.py"


class Requests(Case):
    def refuse(self, change, *parts: str) -> None:
        value = request(self.directory())
        change(value)
        with self.assertRaises(protocol.WorkerError) as caught:
            protocol.parse_request(value)
        self.assertEqual(caught.exception.kind, "request")
        for part in parts:
            self.assertIn(part, caught.exception.error)

    def test_a_complete_request_is_accepted(self):
        parsed = protocol.parse_request(request(self.directory()))
        self.assertEqual(parsed.architecture.rope_scaling.factor, 4.0)
        self.assertEqual(parsed.eos_ids, (2,))

    def test_unknown_keys_at_every_level(self):
        self.refuse(lambda r: r.update(extra=1), "unknown key 'extra'")
        self.refuse(lambda r: r["source"].update(extra=1), "source: unknown key")
        self.refuse(lambda r: r["architecture"].update(extra=1), "architecture: unknown key")
        scaling = {**ARCHITECTURE["rope_scaling"], "extra": 1}
        self.refuse(
            lambda r: r["architecture"].update(rope_scaling=scaling), "rope_scaling: unknown key"
        )

    def test_every_key_is_required(self):
        for key in request(self.directory()):
            with self.subTest(key=key):
                self.refuse(lambda r, key=key: r.pop(key), f"missing key {key!r}")
        for key in ARCHITECTURE:
            with self.subTest(key=key):
                self.refuse(lambda r, key=key: r["architecture"].pop(key), f"missing key {key!r}")

    def test_versions(self):
        for version in (0, 2, "1", True, None):
            with self.subTest(version=version):
                self.refuse(lambda r, v=version: r.update(protocol=v), "protocol", "expected 1")

    def test_types_and_ranges(self):
        cases = (
            ({"seq_len": "512"}, "seq_len"),
            ({"seq_len": 512.0}, "seq_len"),
            ({"seq_len": True}, "seq_len"),
            ({"threads": 0}, "threads"),
            ({"quantization": "int2"}, "int8, int4, fp32"),
            ({"backend": "gpu"}, "xnnpack, portable"),
            ({"pte": "relative.pte"}, "absolute path"),
            ({"bos_id": 1024}, "bos_id"),
            ({"eos_ids": []}, "eos_ids"),
            ({"eos_ids": [1024]}, "below 1024"),
            ({"reference_prompt": []}, "reference_prompt"),
            ({"reference_prompt": [-1]}, "below 1024"),
            ({"reference_prompt": [1] * 65}, "at most seq_len 64"),
            ({"backend": "portable"}, "expected fp32"),
            ({"source": {"kind": "pickle", "dir": "/x"}}, "safetensors, random"),
        )
        for change, part in cases:
            with self.subTest(change=change):
                self.refuse(lambda r, change=change: r.update(change), part)

    def test_impossible_architectures(self):
        for change, part in (
            ({"kv_heads": 3}, "multiple of kv_heads"),
            ({"head_dim": 31}, "even"),
            ({"tied": 1}, "bool"),
            ({"norm_eps": 0.0}, "positive"),
            ({"rope_scaling": {**ARCHITECTURE["rope_scaling"], "high_freq_factor": 1.0}}, "exceed"),
        ):
            with self.subTest(change=change):
                self.refuse(lambda r, change=change: r["architecture"].update(change), part)


class Process(Case):
    """The real entry file in a real process, on requests that fail before torch is imported."""

    def start(self, value: dict, **environment) -> tuple[subprocess.CompletedProcess, dict | None]:
        path = Path(value["response"]).with_name("request.json")
        path.write_text(json.dumps(value))
        done = subprocess.run(
            [sys.executable, "-I", "-B", str(RUN), str(path)],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.scratch,
            env={**os.environ, **environment},
        )
        response = Path(value["response"])
        return done, json.loads(response.read_text()) if response.exists() else None

    def test_a_refused_request_is_still_answered(self):
        done, response = self.start({**request(self.directory()), "surprise": 1})
        self.assertEqual(done.returncode, 1)
        self.assertEqual((response["ok"], response["kind"]), (False, "request"))
        self.assertIn("surprise", response["error"])

    def test_a_failing_stage_is_announced_and_named(self):
        done, response = self.start({**request(self.directory()), "expected_partitions": 4})
        self.assertEqual(done.returncode, 1)
        self.assertEqual(response["stage"], "preflight")
        self.assertIn("give 3, recipe expects 4", response["error"])
        lines = [ln for ln in done.stdout.splitlines() if ln.startswith("@proofmark ")]
        event = json.loads(lines[0].removeprefix("@proofmark "))
        self.assertEqual(event, {"event": "stage", "stage": "preflight", "index": 0, "of": 11})
        self.assertGreater(response["stages"][0]["peak_rss_bytes"], 1 << 20)

    def test_a_module_lying_nearby_is_not_imported(self):
        (self.scratch / "proofmark_worker.py").write_text("raise SystemExit(77)")
        (self.scratch / "json.py").write_text("raise SystemExit(78)")
        value = {**request(self.directory()), "expected_partitions": 4}
        done, response = self.start(value, PYTHONPATH=str(self.scratch))
        self.assertEqual(done.returncode, 1)
        self.assertEqual(response["kind"], "request")

    def test_a_broken_request_file_has_no_answer_but_an_exit_code(self):
        path = self.directory() / "request.json"
        path.write_text("{")
        command = [sys.executable, "-I", "-B", str(RUN), str(path)]
        done = subprocess.run(command, capture_output=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"not json", done.stderr)


class Publishing(Case):
    def test_an_interrupted_write_leaves_the_old_file(self):
        path = self.directory() / "file"
        path.write_bytes(b"old")

        def write(file):
            file.write(b"half")
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            protocol.publish(path, write)
        self.assertEqual(path.read_bytes(), b"old")
        self.assertEqual([p.name for p in path.parent.iterdir()], ["file"])
