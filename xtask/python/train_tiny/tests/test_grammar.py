"""The grammar: determinism, the split, and an acceptor that accepts its own text and nothing near
it."""

import subprocess
import sys
import unittest
from pathlib import Path
from random import Random

import dialogues
import grammar
import ratings
import reading
import world

HERE = Path(__file__).resolve().parents[1]


def turns(texts):
    return [
        (m[:i], x["content"]) for m in texts for i, x in enumerate(m) if x["role"] == "assistant"
    ]


class Determinism(unittest.TestCase):
    def test_same_seed_same_text_in_another_process(self):
        """A second interpreter with other hash randomisation writes the same dialogues."""
        code = "import dialogues, hashlib, json; print(hashlib.sha256(json.dumps(dialogues.generate(5, 200, True)).encode()).hexdigest())"
        digests = set()
        for seed in ("1", "2"):
            out = subprocess.run(
                [sys.executable, "-B", "-c", code],
                cwd=HERE,
                env={"PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
            )
            digests.add(out.stdout)
        self.assertEqual(len(digests), 1)

    def test_other_seed_other_text(self):
        self.assertNotEqual(dialogues.generate(1, 20, False), dialogues.generate(2, 20, False))
        self.assertNotEqual(dialogues.generate(1, 20, False), dialogues.generate(1, 20, True))


class Split(unittest.TestCase):
    def test_no_heldout_combination_in_training(self):
        for messages in dialogues.generate(11, 1500, heldout=False):
            said = []
            for message in messages:
                if message["role"] != "user":
                    continue
                said.append(message["content"])
                state = reading.understand(said)
                if state.name:
                    self.assertFalse(dialogues.held("name", state.name), state.name)
                if state.feeling and state.event:
                    self.assertFalse(dialogues.held(state.feeling, state.event.second), said)
                if state.act == "rate":
                    item = ratings.parse_prompt(message["content"], reading.kind_of)
                    event = reading.events()[item.event.lower()]
                    triple = (
                        event.second,
                        ratings.tone_of(item.tone_line),
                        ratings.close_of(item.close_line),
                    )
                    self.assertFalse(dialogues.held(*triple), triple)

    def test_heldout_ratings_are_all_held_out(self):
        writer = dialogues.Writer(3, heldout=True)
        for _ in range(200):
            item = writer.rating()
            event = reading.events()[item.event.lower()]
            self.assertTrue(
                dialogues.held(
                    event.second, ratings.tone_of(item.tone_line), ratings.close_of(item.close_line)
                )
            )
            self.assertTrue(
                dialogues.held("name", item.first) and dialogues.held("name", item.second)
            )


class Understanding(unittest.TestCase):
    def test_every_message_is_read_as_it_was_meant(self):
        for heldout in (False, True):
            writer = dialogues.Writer(21, heldout)
            for act in dialogues.ANYTHING:
                for _ in range(60):
                    text = writer.user_message(act, reading.State())
                    self.assertEqual(reading.understand([text]).act, act, text)

    def test_state_of_a_conversation(self):
        state = reading.understand(
            ["hi, i'm Mia", "I feel sad because I lost my keys.", "What\u2019s my name?"]
        )
        self.assertEqual(
            (state.name, state.feeling, state.event.second, state.act),
            ("Mia", "sad", "losing your keys", "ask_name"),
        )

    def test_replies_are_distinct_and_clean(self):
        for messages, _ in turns(dialogues.generate(8, 400, False)):
            found = grammar.replies(
                reading.understand([m["content"] for m in messages if m["role"] == "user"])
            )
            self.assertEqual(len(found), len(set(found)))
            for reply in found:
                self.assertNotRegex(reply, r"[{}]|None|  |^ | $|<\|")


class Acceptor(unittest.TestCase):
    def setUp(self):
        self.pairs = turns(dialogues.generate(31, 250, False)) + turns(
            dialogues.generate(31, 250, True)
        )

    def test_accepts_all_that_the_grammar_writes(self):
        for messages, reply in self.pairs:
            self.assertTrue(grammar.accepts(messages, reply), (messages[-1], reply))

    def test_rejects_perturbed_replies(self):
        random = Random(4)
        for messages, reply in self.pairs:
            words = reply.split(" ")
            at = random.randrange(len(words))
            broken = {
                "empty": "",
                "special": reply + "<|end|>",
                "special inside": "<|user|>" + reply,
                "doubled": f"{reply} {reply}",
                "space": reply + " ",
                "lower": reply.lower() + "?",
                "word doubled": " ".join([*words[: at + 1], words[at], *words[at + 1 :]]),
                "cut in a word": reply[:-1],
            }
            for kind, text in broken.items():
                self.assertFalse(grammar.accepts(messages, text), (kind, messages[-1], text))

    def test_rejects_wrong_name_feeling_and_event(self):
        messages = [
            {"role": "user", "content": t}
            for t in ("I am Mia.", "I feel sad because I lost my keys.")
        ]
        good = "I am sorry that you feel sad, Mia. I understand that losing your keys makes you feel sad. What is the hardest part?"
        self.assertTrue(grammar.accepts(messages, good))
        for right, wrong in (
            ("Mia", "Tom"),
            ("sad", "angry"),
            ("keys", "phone"),
            ("hardest", "best"),
        ):
            self.assertFalse(grammar.accepts(messages, good.replace(right, wrong)), wrong)

    def test_rejects_replies_to_another_message(self):
        """Replies moved to the next conversation are nearly always wrong."""
        moved = [
            grammar.accepts(a[0], b[1]) for a, b in zip(self.pairs, self.pairs[1:], strict=False)
        ]
        self.assertLess(sum(moved) / len(moved), 0.1)

    def test_rejects_without_a_user_message_at_the_end(self):
        self.assertFalse(grammar.accepts([], "Hello."))
        self.assertFalse(grammar.accepts([{"role": "assistant", "content": "Hello."}], "Hello."))


class Ratings(unittest.TestCase):
    def test_round_trip_and_bounds(self):
        writer = dialogues.Writer(9, heldout=False)
        for _ in range(500):
            item = writer.rating()
            text = ratings.render_prompt(item)
            self.assertEqual(ratings.parse_prompt(text, reading.kind_of), item)
            given = ratings.parse_answer(ratings.render_answer(item), item.emotions)
            self.assertEqual(given, ratings.values(item))
            self.assertTrue(all(0 <= v <= 10 for v in given))

    def test_values_by_hand(self):
        item = ratings.Item(
            "Mia",
            "Tom",
            "I lost my keys",
            "loss",
            "I told you so.",
            "Never mind.",
            "Mia",
            ("sad", "angry", "happy", "calm"),
        )
        self.assertEqual(ratings.values(item), (7 + 1 + 2, 4 + 3 + 0, 0, 0))

    def test_strict_answers(self):
        words = ("sad", "angry", "proud", "calm")
        good = "sad: 7\nangry: 10\nproud: 0\ncalm: 1"
        self.assertEqual(ratings.parse_answer(good, words), (7, 10, 0, 1))
        for bad in (
            good + "\n", good.replace("10", "11"), good.replace("7", "07"), good.replace("sad", "Sad"), good.replace(": 1", ":1"),
            "\n".join(good.split("\n")[::-1]), good.rsplit("\n", 1)[0], good + "\nsad: 7", good.replace("7", "-7"),
        ):  # fmt: skip
            self.assertIsNone(ratings.parse_answer(bad, words), bad)

    def test_unknown_dialogue_needs_only_the_format(self):
        prompt = "Here is a dialogue.\nMia: The ship sank.\nTom: Oh no.\nRate how Mia feels at the end from 0 to 10: sad, calm, proud, angry."
        messages = [{"role": "user", "content": prompt}]
        self.assertTrue(grammar.accepts(messages, "sad: 7\ncalm: 0\nproud: 0\nangry: 1"))
        self.assertFalse(grammar.accepts(messages, "sad: 7\ncalm: 0\nproud: 0"))

    def test_the_table_tells_situations_apart(self):
        """A constant answer must score clearly worse than the right one."""
        from evaluate import eq_score

        writer = dialogues.Writer(10, heldout=True)
        items = [ratings.values(writer.rating()) for _ in range(400)]
        mean = sum(eq_score((3, 3, 3, 3), right) for right in items) / len(items)
        self.assertLess(mean, 75)
        self.assertEqual(eq_score(items[0], items[0]), 100)


class Tables(unittest.TestCase):
    def test_tables_fit_together(self):
        self.assertEqual(set(world.FEELINGS.values()), set(world.TIPS))
        self.assertEqual({kind for kind, _, _ in world.EVENTS}, set(ratings.BASE))
        self.assertEqual(set(ratings.EMOTIONS.values()), set(ratings.COLUMNS))
        rows = [
            *ratings.BASE.values(),
            *(r for t in (ratings.TONES, ratings.CLOSES) for pair in t.values() for r in pair),
        ]
        self.assertEqual({len(row) for row in rows}, {len(ratings.COLUMNS)})
        self.assertEqual(set(ratings.TONE_LINES), set(ratings.TONES))
        self.assertEqual(set(ratings.CLOSE_LINES), set(ratings.CLOSES))
        self.assertEqual(len({e.second for e in reading.events().values()}), len(reading.events()))


if __name__ == "__main__":
    unittest.main()
