"""The verifier refuses none of the programs that upstream's exporter makes."""

import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

from . import zoo

ROOT = Path(__file__).resolve().parents[3]
# Set by `cargo xtask test` to itself.
XTASK = os.environ.get("PROOFMARK_XTASK", str(ROOT / "target/debug/xtask"))


class Zoo(unittest.TestCase):
    def test_every_ordinary_program_is_accepted(self):
        with tempfile.TemporaryDirectory() as folder:
            paths = zoo.export_all(Path(folder))
            self.assertGreater(len(paths), 60)
            for path in paths:
                with self.subTest(path.stem):
                    run = subprocess.run(
                        [XTASK, "verify", str(path), "--json"],
                        capture_output=True,
                        check=False,
                        text=True,
                    )
                    findings = json.loads(run.stdout)["findings"]
                    rejects = [finding for finding in findings if finding["severity"] != "warn"]
                    self.assertEqual(rejects, [])
                    self.assertEqual(run.returncode, 0, run.stderr)
