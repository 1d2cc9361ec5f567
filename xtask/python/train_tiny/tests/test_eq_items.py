"""The EQ items of the small world: right by the grammar's tables, and never trained on."""

import json
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import dialogues
import ratings
import reading

ITEMS = Path(__file__).resolve().parents[4] / "model-assets/evidence/eq-small-world.jsonl"


class EqItemsTest(unittest.TestCase):
    def test_every_item_is_right_and_held_out(self):
        lines = ITEMS.read_text(encoding="utf-8").splitlines()
        self.assertEqual(len(lines), 10)
        for line in lines:
            item = json.loads(line)
            parsed = ratings.parse_prompt(item["prompt"], reading.kind_of)
            self.assertIsNotNone(parsed, item["id"])
            self.assertEqual(ratings.values(parsed), tuple(item["reference"]), item["id"])
            self.assertEqual(list(parsed.emotions), item["emotions"], item["id"])
            event = reading.events()[parsed.event.lower()]
            tone, close = ratings.tone_of(parsed.tone_line), ratings.close_of(parsed.close_line)
            self.assertTrue(dialogues.held(event.second, tone, close), item["id"])
