"""The published files belong together, to this code, and the model in them can do what it is for."""

import json
import unittest
from itertools import product
from pathlib import Path
from random import Random

import torch
from jinja2 import Environment
from safetensors import safe_open
from tokenizers import Tokenizer

import chat
import dialogues
import grammar
import ratings
import reading
from evaluate import EagerEngine, Tally, answer, eq_score, judge
from model import CHECKPOINT_NAME, Llama, Shape

TINY = Path(__file__).resolve().parents[4] / "model-assets" / "models" / "tiny"
REPLIES = 60
RATINGS = 60


def records() -> list[dict]:
    lines = (TINY / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


class Published(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
        cls.config = json.loads((TINY / "config.json").read_text(encoding="utf-8"))
        cls.training = json.loads((TINY / "training.json").read_text(encoding="utf-8"))
        cls.records = records()

    def test_config_is_the_shape_of_the_code(self):
        self.assertEqual(self.config, Shape().to_hf(chat.BEGIN_ID, chat.END_ID, chat.PAD_ID))

    def test_tensors_are_those_of_the_config(self):
        expected = {n: tuple(t.shape) for n, t in Llama(Shape()).state_dict().items()}
        with safe_open(TINY / CHECKPOINT_NAME, framework="pt") as handle:
            names = list(handle.keys())
            found = {n: handle.get_tensor(n) for n in names}
        self.assertEqual({n: tuple(t.shape) for n, t in found.items()}, expected)
        for name, tensor in found.items():
            self.assertEqual(tensor.dtype, torch.bfloat16, name)
            self.assertTrue(bool(tensor.isfinite().all()) and bool(tensor.any()), name)
        self.assertLessEqual((TINY / CHECKPOINT_NAME).stat().st_size, 4_000_000)

    def test_trained_on_the_text_of_this_code(self):
        self.assertEqual(self.training["text_sha256"], dialogues.text_digest())

    def test_template_and_specials(self):
        text = (TINY / "chat_template.jinja").read_text(encoding="utf-8")
        self.assertEqual(text, chat.TEMPLATE)
        self.assertEqual([self.tokenizer.token_to_id(s) for s in chat.SPECIALS], list(range(6)))
        self.assertEqual(self.tokenizer.get_vocab_size(), self.config["vocab_size"])
        template = Environment().from_string(text)
        for record in self.records:
            rendered = template.render(messages=record["messages"], add_generation_prompt=False)
            self.assertEqual(
                self.tokenizer.encode(rendered).ids, chat.encode(self.tokenizer, record["messages"])
            )

    def test_heldout_lists_what_the_grammar_allows(self):
        for record in self.records:
            said, at = [], 0
            for message in record["messages"]:
                if message["role"] == "user":
                    said.append(message["content"])
                    state = reading.understand(said)
                    self.assertEqual(record["acts"][at], state.act)
                    self.assertEqual(record["accepted"][at], grammar.replies(state))
                elif message["role"] == "assistant":
                    self.assertIn(message["content"], record["accepted"][at])
                    at += 1
            self.assertEqual(at, len(record["accepted"]))
            self.assertLessEqual(len(chat.encode(self.tokenizer, record["messages"])), 512)

    def tally(self, prompts: list[list[dict]]) -> Tally:
        torch.set_num_threads(1)
        engine, tally = EagerEngine(TINY, torch.float32), Tally()
        for messages in prompts:
            judge(tally, messages, *answer(engine, self.tokenizer, messages, 0.0, Random(1)))
        return tally

    def test_the_model_talks_as_the_grammar_does(self):
        texts = [r["messages"] for r in self.records if r["acts"][0] != "rate"]
        prompts = [
            m[:i] for m in texts for i, x in enumerate(m) if x["role"] == "assistant" and i > 0
        ]
        tally = self.tally(prompts[:REPLIES])
        self.assertEqual(tally.replies, REPLIES)
        self.assertGreaterEqual(tally.accepted / tally.replies, 0.9, tally.report())

    def test_the_model_rates(self):
        writer = dialogues.Writer(77, heldout=True)
        items = [writer.rating() for _ in range(RATINGS)]
        prompts = [[{"role": "user", "content": ratings.render_prompt(item)}] for item in items]
        tally = self.tally(prompts)
        self.assertEqual((tally.ratings, tally.parsed), (RATINGS, RATINGS), tally.report())
        # The best answer of somebody who did not read the dialogue.
        right = [ratings.values(item) for item in items]
        blind = max(
            sum(eq_score(guess, values) for values in right) / RATINGS
            for guess in product(range(0, 11, 2), repeat=4)
        )
        self.assertGreater(sum(tally.item_scores) / RATINGS, blind, tally.report())


if __name__ == "__main__":
    unittest.main()
