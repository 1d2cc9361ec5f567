"""The eager model with its cache, its sampler, and what it makes of conversations."""

import unittest
from pathlib import Path

import torch

from proofmark_worker import answers, eager, protocol, texts
from proofmark_worker.checkpoint import SafetensorsSource
from proofmark_worker.tensors import demanded

from . import plain
from .support import ARCHITECTURE, Case, weights

MODEL = Path(__file__).resolve().parents[3] / "model-assets/models/tiny"
TOKENS = [1, 17, 400, 5, 1023, 64, 64, 3, 9, 250, 31, 700]


class EagerTest(Case):
    def setUp(self):
        torch.set_grad_enabled(False)
        value = self.checkpoint()
        self.arch = protocol.parse_architecture(value["architecture"])
        self.raw = value["architecture"]
        self.source = SafetensorsSource(Path(value["source"]["dir"]), self.arch)
        self.model = eager.Eager(self.arch, eager.unquantized(self.source, demanded(self.arch)))

    def whole(self):
        return self.model.logits(self.model.rows([(self.model.cache(64), TOKENS)]))

    def test_before_quantization_it_is_the_plain_model(self):
        want = plain.logits(self.raw, weights(self.raw), TOKENS)
        torch.testing.assert_close(self.whole().float(), want, rtol=0, atol=1e-4)

    def test_pieces_and_neighbours_change_nothing(self):
        want = self.whole()
        cache, other = self.model.cache(64), self.model.cache(64)
        self.model.rows([(cache, TOKENS[:5])])
        got = self.model.rows([(other, TOKENS[:7]), (cache, TOKENS[5:])])
        torch.testing.assert_close(self.model.logits(got[7:]), want[5:], rtol=0, atol=1e-9)
        torch.testing.assert_close(
            self.model.feed([(cache, [3]), (other, TOKENS[7:])])[1], want[-1], rtol=0, atol=1e-9
        )


class SamplerTest(unittest.TestCase):
    def test_the_generator_is_the_published_one(self):
        """First outputs of SplitMix64 for seed 0, as published: 0xe220a8397b1dcdaf, …"""
        random = answers.SplitMix64(0)
        self.assertEqual(float(random.unit()), (0xE220A8397B1DCDAF >> 40) / 2**24)
        self.assertEqual(float(random.unit()), (0x6E789E6AA1B965F4 >> 40) / 2**24)

    def test_cold_is_greedy_and_warm_follows_the_weights(self):
        import numpy as np

        logits = np.log(np.array([4.0, 2.0, 1.0], dtype=np.float32))
        random = answers.SplitMix64(42)
        self.assertEqual(answers.choose(logits, 0.0, random), 0)
        self.assertEqual({answers.choose(logits, 0.01, random) for _ in range(50)}, {0})
        drawn = [answers.choose(logits, 1.0, random) for _ in range(7000)]
        for token, expected in enumerate((4000, 2000, 1000)):
            self.assertLess(abs(drawn.count(token) - expected), 250)


class TextsTest(unittest.TestCase):
    def writer(self):
        return texts.Writer(MODEL / "tokenizer.json", MODEL / "chat_template.jinja", 0, 1)

    def test_only_the_assistant_is_scored(self):
        writer = self.writer()
        text = writer.text(
            [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hello there."}]
        )
        scored = [text.tokens[i] for i in text.scored]
        self.assertEqual(writer.decode(scored), "Hello there.<|end|>")


class RequestTest(unittest.TestCase):
    def test_a_request_with_another_key_is_refused(self):
        value = {"protocol": 1, "task": "answers", "source": {"kind": "random", "seed": 1}}
        value.update(architecture=dict(ARCHITECTURE), seq_len=64, bos_id=1, eos_ids=[2], threads=1)
        names = ("tokenizer", "chat_template", "work_dir", "response")
        value.update(dict.fromkeys(names, "/x"))
        run = {
            "name": "eq",
            "quantization": "int8",
            "activations": "rotated",
            "temperature": 0.01,
            "seed": 1,
        }
        value["runs"] = [{**run, "tokens_max": 4, "prompts": []}]
        self.assertEqual(answers.parse(value).runs[0].name, "eq")
        for change in ({"protocol": 2}, {"task": "export"}, {"more": 1}, {"runs": [run]}):
            with self.subTest(change=change), self.assertRaises(protocol.WorkerError):
                answers.parse({**value, **change})
