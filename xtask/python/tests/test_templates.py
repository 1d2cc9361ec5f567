"""The worker's half of the template conventions, and the child that renders first."""

import tempfile
import unittest
from pathlib import Path
from unittest import mock

from proofmark_worker import protocol, templates

MESSAGES = [{"role": "user", "content": "Hi"}]
DOUBLING = (
    "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}"
    "{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
)
LOOPING = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


class Check(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "chat_template.jinja"

    def words(self, source: str, prompt: str = "Hi") -> protocol.Words:
        self.path.write_text(source, encoding="utf-8")
        one = {"messages": MESSAGES, "add_generation_prompt": True, "prompt": prompt}
        return protocol.Words(self.path, self.path, "<B>", "<E>", (one,))

    def refused(self, source: str, prompt: str = "Hi") -> str:
        with self.assertRaises(protocol.WorkerError) as caught:
            templates.check(self.words(source, prompt))
        self.assertEqual(caught.exception.kind, "template")
        return caught.exception.error

    def test_the_same_prompt_passes(self) -> None:
        templates.check(self.words("{{ messages[0].content }}"))

    def test_another_prompt_is_shown(self) -> None:
        error = self.refused("{{ messages[0].content }}!", "Hi?")
        self.assertIn("at character 2 of a prompt: got '!' from jinja2, expected '?'", error)

    def test_faults_have_their_line(self) -> None:
        self.assertIn("line 2: No filter named 'nosuch'", self.refused("\n{{ x|nosuch }}"))
        self.assertIn("refuses the conversation: no", self.refused("{{ raise_exception('no') }}"))

    def test_growth_ends_in_the_child(self) -> None:
        with mock.patch.object(templates, "MEMORY_BYTES_MAX", 256 << 20):
            self.assertIn("more memory than 268435456 bytes", self.refused(DOUBLING))

    def test_endless_work_ends_in_the_child(self) -> None:
        with mock.patch.object(templates, "SECONDS_MAX", 1):
            self.assertIn("or 1 seconds", self.refused(LOOPING))

    def test_deep_expressions_end_in_the_child(self) -> None:
        for source in ("{{ " + "not " * 60_000 + "1 }}", "{{ 1" + "+1" * 60_000 + " }}"):
            # Which of the two ends it depends on how deep this Python may recurse.
            self.assertRegex(self.refused(source), "recursion|needs more memory|takes more than")


if __name__ == "__main__":
    unittest.main()
