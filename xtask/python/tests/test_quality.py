"""Text quality: the unquantized model in one pass, and a comparison that believes nobody."""

import contextlib
import io
import json
import math
import sys
import unittest
from pathlib import Path

import torch

from proofmark_worker import eager, protocol, quality, single, texts, worker
from proofmark_worker.checkpoint import SafetensorsSource
from proofmark_worker.stages import Stages
from proofmark_worker.tensors import demanded

from .support import Case

MODEL = Path(__file__).resolve().parents[3] / "model-assets/models/tiny"
TOKENS = [1, 17, 400, 5, 1023, 64, 64, 3, 9, 250, 31, 700]
# Another process that answers a run with what its first argument says of each window.
ENGINE = """
import json, struct, sys
say = json.loads(sys.argv[1])
out = sys.stdout.buffer
out.write(json.dumps(say["about"]).encode() + b"\\n")
for tokens, row in say["frames"]:
    out.write(struct.pack(f"<I{len(tokens)}I", len(tokens), *tokens))
    out.write(struct.pack(f"<{len(row)}f", *row) * (len(tokens) - 1))
out.flush()
sys.exit(say["code"])
"""


class SingleTest(Case):
    def test_it_is_the_eager_model_before_quantization(self):
        torch.set_grad_enabled(False)
        value = self.checkpoint()
        arch = protocol.parse_architecture(value["architecture"])
        source = SafetensorsSource(Path(value["source"]["dir"]), arch)
        model = eager.Eager(arch, eager.unquantized(source, demanded(arch)))
        held = single.HELD_ELEMENTS_MAX
        for most in (held, 1000):
            single.HELD_ELEMENTS_MAX = most
            pair = [TOKENS, TOKENS[3:]]
            found = list(single.logits(arch, source, pair, progress=lambda *_: None))
            for tokens, got in zip(pair, found, strict=True):
                want = model.logits(model.rows([(model.cache(64), tokens)]))
                torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
        single.HELD_ELEMENTS_MAX = held


class CompareTest(unittest.TestCase):
    def test_figures_are_those_of_a_hand_calculation(self):
        # p = (1/2, 1/2), q = (1/4, 3/4): KL = ln 2 - (ln 3) / 2.
        want, got = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, math.log(3)]] * 2)
        rows = quality.compare(want, got, [0, 1])
        self.assertAlmostEqual(rows["kl"][0], math.log(2) - math.log(3) / 2, places=7)
        self.assertAlmostEqual(rows["nll_fp32"][0], math.log(2), places=7)
        self.assertAlmostEqual(rows["nll"][0], math.log(4), places=7)
        # Of equals the first is the top.
        self.assertEqual(rows["same_top"], [0, 0])
        same = quality.compare(want, want, [0, 1])
        self.assertEqual((same["kl"], same["same_top"]), ([0.0, 0.0], [1, 1]))


class WindowsTest(Case):
    def windows(self, items: list[dict], size: int, most: int = 1000):
        path = self.directory() / "texts.jsonl"
        path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
        writer = texts.Writer(MODEL / "tokenizer.json", MODEL / "chat_template.jinja", 0, 1)
        return quality.windows(path, writer, 0, size, most), writer

    def test_texts_are_cut_and_conversations_end(self):
        said = [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "Hello there."},
        ]
        items = [
            {"id": "prose", "text": "I feel sad because I lost my keys. " * 3},
            {"id": "talk", "messages": said},
        ]
        found, writer = self.windows(items, 16)
        prose = [window for window in found if window.id.startswith("prose")]
        self.assertGreater(len(prose), 1)
        whole = [token for window in prose for token in window.tokens[1:]]
        self.assertEqual(writer.decode(whole), items[0]["text"])
        self.assertTrue(all(w.tokens[0] == 0 and len(w.tokens) <= 16 for w in prose))
        self.assertEqual(prose[0].scored, list(range(1, 16)))
        talk = found[-1]
        answer = writer.decode([talk.tokens[at] for at in talk.scored])
        self.assertTrue("Hello there.<|end|>".startswith(answer) and answer)
        most = sum(len(window.tokens) for window in prose) + 1
        self.assertEqual(self.windows(items, 16, most)[0], prose)


class StreamTest(Case):
    """Whole runs against another process."""

    def setUp(self):
        self.value = self.checkpoint(vocab=1024)
        folder = self.directory()
        path = folder / "texts.jsonl"
        path.write_text('{"id": "a", "text": "Hello."}\n{"id": "b", "text": "I am sad."}\n')
        config = self.value
        self.request = {
            "protocol": 1,
            "task": "quality",
            "source": config["source"],
            "architecture": config["architecture"],
            "seq_len": 64,
            "bos_id": config["bos_id"],
            "eos_ids": config["eos_ids"],
            "tokenizer": str(MODEL / "tokenizer.json"),
            "chat_template": str(MODEL / "chat_template.jinja"),
            "threads": 1,
            "work_dir": str(folder / "work"),
            "response": str(folder / "response.json"),
            "window": 64,
            "tokens_max": 1000,
            "texts": str(path),
            "tokens_file": str(folder / "tokens.jsonl"),
        }
        writer = texts.Writer(MODEL / "tokenizer.json", MODEL / "chat_template.jinja", 0, 1)
        found = quality.windows(path, writer, config["bos_id"], 64, 1000)
        self.frames = [[window.tokens, [0.0] * 1024] for window in found]

    def run_with(self, frames, code: int = 0) -> dict:
        say = {"about": {"runtime": "none"}, "frames": frames, "code": code}
        engine = [sys.executable, "-c", ENGINE, json.dumps(say)]
        path = Path(self.request["response"]).with_name("request.json")
        path.write_text(json.dumps({**self.request, "engine": engine}))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            worker.main([str(path)])
        return json.loads(Path(self.request["response"]).read_text())

    def test_sums_and_tokens_are_told(self):
        response = self.run_with(self.frames)
        self.assertTrue(response["ok"], response)
        self.assertEqual([window["id"] for window in response["windows"]], ["a/0", "b/0"])
        lines = Path(self.request["tokens_file"]).read_text().splitlines()
        for window, line in zip(response["windows"], map(json.loads, lines), strict=True):
            # The other side knows nothing: every token costs it the logarithm of the vocabulary.
            count = len(line["tokens"]) - 1
            self.assertEqual((window["scored"], len(line["kl"])), (count, count))
            self.assertAlmostEqual(window["nll"], count * math.log(1024), places=4)
            self.assertGreater(window["kl"], 0.0)
            self.assertAlmostEqual(sum(line["nll_fp32"]), window["nll_fp32"], places=3)

    def test_who_dies_or_says_something_else_ends_it(self):
        first, second = self.frames
        nan = [float("nan")] * 1024
        other = [[*first[0][:-1], 7], first[1]]
        for frames, code, part in (
            ([first], 3, "ended before text b/0, with code 3"),
            ([[first[0], first[1][:9]]], 0, "ended in text a/0"),
            ([first, second], 9, "ended after the last text, with code 9"),
            ([first, second, second], 0, "ended with more than was asked for"),
            ([other, second], 0, "text a/0: the engine's tokens differ from place"),
            ([first, [second[0], nan]], 0, "text b/0: got logits that are not finite"),
        ):
            with self.subTest(part=part):
                response = self.run_with(frames, code)
                self.assertFalse(response["ok"])
                self.assertIn(part, response["error"])

    def test_an_engine_that_is_none_is_named(self):
        request = {**self.request, "engine": [sys.executable, "-c", "print('no json')"]}
        said = contextlib.redirect_stdout(io.StringIO())
        with said, self.assertRaises(protocol.WorkerError) as caught:
            quality.run(request, Stages())
        self.assertIn("ended before its first line", caught.exception.error)
