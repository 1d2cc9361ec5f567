"""The generator: seeded dialogues, with a training half and a held-out half of the world.

Held out are (feeling, event) pairs, names, and (event, tone, close) triples of ratings: a hash
of the words decides, so a held-out combination never occurs in training whatever the seed.

Invariant: the same seed and split give the same dialogues on every machine and Python version.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from random import Random

import grammar
import ratings
import reading
import world

HELDOUT_SHARE = 8  # one combination in eight
# training rates more than people do, and more emotions at once: few of its tokens are numbers
RATING_SHARE = {"train": 0.45, "heldout": 0.2}
FOUR_SHARE = 0.4
TURNS = (1, 10)
# a few long ones, so that the whole window is seen in training; `fit` cuts them
LONG_TURNS = (12, 20)
LONG_SHARE = 0.08
PAIR_DRAWS_MAX = 1000
DIGEST_DIALOGUES = 2000


def held(*words: str) -> bool:
    """Does this combination belong to the held-out half?"""
    return zlib.crc32("|".join(words).encode()) % HELDOUT_SHARE == 0


class Writer:
    """Draws dialogues. `heldout=True` draws only held-out combinations, `False` only the others."""

    def __init__(self, seed: int, heldout: bool) -> None:
        self.random = Random(f"{seed}/{heldout}")
        self.heldout = heldout
        self.events = [reading.events()[key] for key in sorted(reading.events())]
        self.by_form: dict[str, list] = {}
        for event in self.events:
            self.by_form.setdefault(self._form(event), []).append(event)
        self.forms = sorted(self.by_form)

    @staticmethod
    def _form(event: reading.Event) -> str:
        words = sorted((w for slot in world.SLOTS.values() for w in slot), key=len, reverse=True)
        form = event.first
        for word in words:
            form = form.replace(f" {word}", " *")
        return form

    def _until(self, draw, key):
        """Draw until the key is on this side of the split."""
        while True:
            value = draw()
            if held(*key(value)) == self.heldout:
                return value

    def event(self) -> reading.Event:
        """All forms are equally likely, however many fillings they have."""
        return self.random.choice(self.by_form[self.random.choice(self.forms)])

    def name(self) -> str:
        pick = self.random.choice

        def draw() -> str:
            if self.random.random() < 0.4:
                return pick(world.NAMES)
            return pick(world.NAME_HEADS) + pick(world.NAME_MIDDLES) + pick(world.NAME_TAILS)

        return self._until(draw, lambda name: ("name", name))

    def feeling_for(self, event: reading.Event | None) -> str:
        """Mostly a feeling that suits the event; sometimes any, for people are like that."""
        words = list(world.FEELINGS)
        if event is not None and self.random.random() < 0.85:
            words = [
                w for w in words if (world.FEELINGS[w] in world.POSITIVE_GROUPS) == event.positive
            ]
        return self.random.choice(words)

    def pair(
        self, state: reading.State, new_event: bool, new_feeling: bool
    ) -> tuple[str | None, reading.Event | None]:
        """A (feeling, event) pair of this half; what is not new stays as the state has it."""

        def draw():
            event = self.event() if new_event else state.event
            feeling = self.feeling_for(event) if new_feeling else state.feeling
            return feeling, event

        for _ in range(PAIR_DRAWS_MAX):
            feeling, event = draw()
            if feeling is None or event is None or held(feeling, event.second) == self.heldout:
                return feeling, event
        if not self.heldout:
            raise RuntimeError(
                f"no training pair for {state.feeling!r}, {state.event!r}: the split is broken"
            )
        # a few events have no held-out feeling; a known pair among held-out dialogues leaks nothing
        return feeling, event

    def rating(self) -> ratings.Item:
        pick = self.random.choice
        tones, closes = sorted(ratings.TONE_LINES), sorted(ratings.CLOSE_LINES)
        event, tone, close = self._until(
            lambda: (self.event(), pick(tones), pick(closes)), lambda v: (v[0].second, v[1], v[2])
        )
        first = self.name()
        second = (
            self._until(self.name, lambda name: ("name", name)) if self.heldout else self.name()
        )
        while second == first:
            second = self.name()
        four = self.heldout or self.random.random() < FOUR_SHARE
        count = 4 if four else self.random.randint(6, len(ratings.COLUMNS))
        columns = self.random.sample(ratings.COLUMNS, count)
        emotions = tuple(
            pick(sorted(w for w, c in ratings.EMOTIONS.items() if c == column))
            for column in columns
        )
        return ratings.Item(
            first=first,
            second=second,
            event=event.first[0].upper() + event.first[1:],
            kind=event.kind,
            tone_line=pick(ratings.TONE_LINES[tone]),
            close_line=pick(ratings.CLOSE_LINES[close]),
            target=first if self.random.random() < 0.7 else second,
            emotions=emotions,
            fillers=tuple(self.random.sample(ratings.FILLERS, self.random.randint(0, 2))),
            frame=self.random.randrange(len(ratings.FRAMES)),
        )

    def outside(self) -> str:
        pick = self.random.choice
        text = pick(world.OUTSIDE_FRAMES).replace("{s}", pick(world.OUTSIDE_SUBJECTS))
        for slot in ("place", "food"):
            text = text.replace("{" + slot + "}", pick(world.SLOTS[slot]))
        while "{word}" in text:
            text = text.replace("{word}", pick(world.OUTSIDE_WORDS), 1)
        return text

    def nonsense(self) -> str:
        """Words in an order that only copying can reproduce."""
        pick = self.random.choice
        pools = (world.OUTSIDE_WORDS, tuple(world.FEELINGS), world.SLOTS["item"], world.NAME_TAILS)
        words = [pick(pick(pools)) for _ in range(self.random.randint(2, 7))]
        if self.random.random() < 0.5:
            words.insert(self.random.randint(0, len(words)), self.name())
        return " ".join(words)

    def casual(self, text: str) -> str:
        """The same message as people type it: capital or not, full stop or not, contractions."""
        if self.random.random() < 0.3:
            for short, long in reading.CONTRACTIONS:
                text = text.replace(long, short)
        style = self.random.random()
        question = text.startswith(
            ("what", "who", "how", "are you", "do you", "can you", "and you")
        )
        stop = "?" if question else "."
        if style < 0.6:
            text = text[0].upper() + text[1:] + stop
            return text.replace(" i ", " I ").replace(" i'm ", " I'm ")
        return text if style < 0.8 else text + stop

    def user_message(self, act: str, state: reading.State) -> str:
        """A message that `reading.understand` reads as `act`; the names keep their spelling."""
        pick = self.random.choice
        if act in ("outside", "repeat", "rate"):
            return self._verbatim_message(act)
        if act == "name":
            return self.casual(pick(reading.NAME_PHRASES)).replace("{n}", self.name())
        if act in reading.PHRASES:
            return self.casual(pick(reading.PHRASES[act]))
        if act in ("event", "feeling", "because"):
            return self.casual(self._paired_message(act, state))
        frames, slot, words = {
            "hobby": (reading.HOBBY_PHRASES, "{h}", world.HOBBIES),
            "frequency": (reading.FREQUENCY_PHRASES, "{q}", world.FREQUENCIES),
            "thought": (reading.THOUGHT_PHRASES, "{t}", world.THOUGHTS),
            "best": (reading.BEST_PHRASES, "{b}", world.BEST_PARTS),
            "need": (reading.NEED_PHRASES, "{x}", world.NEEDS),
            "since": (reading.SINCE_PHRASES, "{s}", world.SINCES),
        }[act]
        return self.casual(pick(frames).replace(slot, pick(sorted(words))))

    def _verbatim_message(self, act: str) -> str:
        """Messages that are not typed casually, for their letters count."""
        if act == "outside":
            return self.outside()
        if act == "repeat":
            return self.random.choice(reading.REPEAT_PHRASES) + self.nonsense()
        return ratings.render_prompt(self.rating())

    def _paired_message(self, act: str, state: reading.State) -> str:
        """A feeling, an event or both, such that the pair in the state is of this half."""
        pick = self.random.choice
        if act == "event":
            _, event = self.pair(state, new_event=True, new_feeling=False)
            dated = event.first.startswith("I ") and self.random.random() < 0.2
            return (f"{pick(reading.WHEN)} " if dated else "") + self._typed(event.first)
        if act == "feeling":
            feeling, _ = self.pair(state, new_event=False, new_feeling=True)
            return pick(reading.FEELING_PHRASES).replace("{f}", feeling)
        feeling, event = self.pair(state, new_event=True, new_feeling=True)
        frame = pick(reading.BECAUSE_PHRASES).replace("{f}", feeling)
        return frame.replace("{e}", self._typed(event.first))

    def _typed(self, sentence: str) -> str:
        return sentence if self.random.random() < 0.7 else sentence.lower()

    def next_act(self, reply: str | None) -> str:
        """Mostly an answer to the last question, otherwise anything."""
        if reply is None:
            return self._weighted(OPENING)
        if self.random.random() < 0.6:
            for ending, acts in ANSWERS:
                if reply.endswith(ending):
                    return self.random.choice(acts)
        return self._weighted(ANYTHING)

    def _weighted(self, weights: dict[str, int]) -> str:
        return self.random.choices(list(weights), weights=list(weights.values()))[0]

    def dialogue(self) -> list[dict]:
        """One conversation: perhaps a system message, then turns of user and assistant."""
        messages = []
        if self.random.random() < 0.5:
            messages.append({"role": "system", "content": self.random.choice(world.SYSTEM_PROMPTS)})
        said: list[str] = []
        state, reply = reading.State(), None
        only_rating = self.random.random() < RATING_SHARE["heldout" if self.heldout else "train"]
        long = self.random.random() < LONG_SHARE
        turns = 1 if only_rating else self.random.randint(*(LONG_TURNS if long else TURNS))
        for turn in range(turns):
            act = "rate" if only_rating else self.next_act(reply)
            if turn and turn == turns - 1 and not only_rating and self.random.random() < 0.3:
                act = "bye"
            text = self.user_message(act, state)
            if act in ("name", "feeling", "because", "event") and self.random.random() < 0.12:
                text = self.random.choice(("Hello, ", "Hi, ", "Good morning, ", "hi, ")) + text
            said.append(text)
            state = reading.understand(said)
            reply = self.random.choice(grammar.replies(state))
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": reply})
        return messages


OPENING = {
    "greet": 6, "morning": 2, "evening": 2, "name": 6, "repeat": 2, "feeling": 3, "because": 3,
    "event": 3, "outside": 2, "well": 2, "who": 2, "can": 1, "hobby": 1,
}  # fmt: skip
ANYTHING = {
    "name": 4, "repeat": 5, "feeling": 5, "because": 5, "event": 6, "hobby": 2, "ask_name": 4,
    "ask_feeling": 3, "ask_event": 3, "who": 1, "can": 1, "human": 1, "well": 1, "advice": 4,
    "breathe": 1, "joke": 1, "yes": 2, "no": 2, "thanks": 2, "bye": 1, "greet": 1, "morning": 1,
    "evening": 1, "frequency": 1, "thought": 1, "best": 1, "need": 1, "since": 1, "rate": 1,
    "outside": 4,
}  # fmt: skip
# end of the companion's question -> what people answer
ANSWERS = (
    ("What is your name?", ("name",)),
    ("How do you feel today?", ("feeling", "because")),
    ("How are you today?", ("feeling", "because")),
    ("How do you feel about it?", ("feeling",)),
    ("How are you?", ("feeling", "because")),
    ("What happened?", ("event",)),
    ("Do you know why?", ("event", "no")),
    ("hardest part?", ("thought",)),
    ("like most?", ("best",)),
    ("talk about it?", ("yes", "no")),
    ("What would help you now?", ("need",)),
)


def generate(seed: int, count: int, heldout: bool) -> list[list[dict]]:
    writer = Writer(seed, heldout)
    return [writer.dialogue() for _ in range(count)]


def fit(messages: list[dict], tokens_max: int, count_tokens) -> list[dict]:
    """Drop whole turns at the end until the dialogue fits."""
    while count_tokens(messages) > tokens_max:
        messages = messages[:-2]
    return messages


def text_digest() -> str:
    """SHA-256 over a sample of both halves: any change of words, weights or rules changes it."""
    digest = hashlib.sha256()
    for heldout in (False, True):
        digest.update(json.dumps(generate(0, DIGEST_DIALOGUES, heldout)).encode())
    return digest.hexdigest()
