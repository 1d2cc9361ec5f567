"""Tokenizer and template: exact round trips, and the template gives the sequence of the training."""

import unittest

from jinja2 import Environment

import chat
import dialogues
import train

UNICODE = (
    "", " ", "  two  spaces ", "\n\t\r\n", "naïve café", "привет", "日本語テキスト", "مرحبا", "🙂🚀👩‍👩‍👧‍👦", "\u0000\u0001", "\ufeff",
    "e\u0301", "\U0010ffff", "a\u200db", "".join(chr(c) for c in range(0x80, 0x250)),
)  # fmt: skip


class Chat(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        texts = dialogues.generate(3, 1500, heldout=False)
        cls.tokenizer = chat.train_tokenizer((m["content"] for d in texts for m in d), 1024)
        cls.texts = dialogues.generate(4, 200, heldout=True)

    def test_special_ids(self):
        for index, text in enumerate(chat.SPECIALS):
            self.assertEqual(self.tokenizer.token_to_id(text), index)
            self.assertEqual(self.tokenizer.encode(text).ids, [index])
        self.assertEqual((chat.BEGIN_ID, chat.END_ID, chat.ASSISTANT_ID), (0, 1, 4))

    def test_unicode_round_trip(self):
        for text in (*UNICODE, *(m["content"] for d in self.texts for m in d)):
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            self.assertEqual(self.tokenizer.decode(ids, skip_special_tokens=False), text)

    def test_every_byte_has_a_token(self):
        from tokenizers import pre_tokenizers

        for letter in pre_tokenizers.ByteLevel.alphabet():
            self.assertIsNotNone(self.tokenizer.token_to_id(letter))

    def test_template_gives_the_training_sequence(self):
        template = Environment().from_string(chat.TEMPLATE)
        for messages in self.texts:
            for last in range(len(messages) + 1):
                for prompt in (False, True):
                    text = template.render(messages=messages[:last], add_generation_prompt=prompt)
                    self.assertEqual(
                        self.tokenizer.encode(text).ids,
                        chat.encode(self.tokenizer, messages[:last], prompt),
                    )

    def test_sequence_piece_by_piece(self):
        """The ids by hand: markers as single tokens, each content on its own."""
        for messages in self.texts[:50]:
            ids = [chat.BEGIN_ID]
            for message in messages:
                role = {
                    "system": chat.SYSTEM_ID,
                    "user": chat.USER_ID,
                    "assistant": chat.ASSISTANT_ID,
                }[message["role"]]
                ids += [role, *self.tokenizer.encode(message["content"]).ids, chat.END_ID]
            self.assertEqual(chat.encode(self.tokenizer, messages), ids)

    def test_prompt_is_a_prefix_of_the_training_sequence(self):
        for messages in self.texts[:50]:
            whole = chat.encode(self.tokenizer, messages)
            prompt = chat.encode(self.tokenizer, messages[:-1], add_generation_prompt=True)
            self.assertEqual(whole[: len(prompt)], prompt)

    def test_loss_only_on_the_assistant(self):
        for messages in self.texts[:50]:
            ids = chat.encode(self.tokenizer, messages)
            trained = [i for i, inside in zip(ids, chat.assistant_mask(ids), strict=True) if inside]
            expected = []
            for message in messages:
                if message["role"] == "assistant":
                    expected += [*self.tokenizer.encode(message["content"]).ids, chat.END_ID]
            self.assertEqual(trained, expected)

    def test_batches_keep_every_dialogue_and_the_bound(self):
        import torch

        rows = train.fitted(self.tokenizer, self.texts, 512)
        batches = train.make_batches(rows, torch.Generator().manual_seed(1), keep_rest=True)
        self.assertEqual(sorted(r for b in batches for r in b), sorted(rows))
        for batch in batches:
            self.assertLessEqual(len(batch) * max(map(len, batch)), train.BATCH_TOKENS)
        self.assertLessEqual(max(map(len, rows)), 512)


if __name__ == "__main__":
    unittest.main()
