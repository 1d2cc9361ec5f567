"""The emotion-rating half of the grammar: a short dialogue of two people, then some
emotions from 0 to 10: four of them in a test, up to ten in training.

The values follow from a hidden table: what happened to the first speaker, the tone in which the
second one answered, and how the first one closed. They are sums clipped to 0..10, so the model
can learn them exactly.

Invariant: `parse_prompt(render_prompt(item)) == item` for every item whose fillers come from
`FILLERS`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COLUMNS = (
    "sad",
    "angry",
    "afraid",
    "happy",
    "proud",
    "ashamed",
    "calm",
    "lonely",
    "surprised",
    "grateful",
)
# word in the question -> column of the table
EMOTIONS = {
    "sad": "sad", "unhappy": "sad", "disappointed": "sad",
    "angry": "angry", "annoyed": "angry", "frustrated": "angry", "upset": "angry",
    "afraid": "afraid", "nervous": "afraid", "worried": "afraid", "anxious": "afraid",
    "happy": "happy", "glad": "happy", "excited": "happy",
    "proud": "proud", "confident": "proud",
    "ashamed": "ashamed", "guilty": "ashamed", "embarrassed": "ashamed",
    "calm": "calm", "relaxed": "calm",
    "lonely": "lonely", "hurt": "lonely",
    "surprised": "surprised",
    "grateful": "grateful", "thankful": "grateful",
}  # fmt: skip

# kind of event -> intensity per column
BASE = {
    "loss": (7, 4, 3, 0, 0, 2, 1, 3, 4, 0),
    "failure": (5, 4, 2, 0, 0, 6, 1, 1, 2, 0),
    "conflict": (5, 7, 2, 0, 0, 2, 0, 4, 3, 0),
    "hurt": (7, 3, 1, 0, 0, 1, 1, 8, 2, 0),
    "worry": (4, 1, 8, 0, 0, 0, 0, 3, 1, 0),
    "strain": (3, 4, 3, 1, 1, 1, 1, 2, 0, 0),
    "win": (0, 0, 1, 8, 8, 0, 4, 0, 3, 3),
    "gift": (0, 0, 0, 8, 2, 0, 4, 0, 6, 7),
    "bond": (0, 0, 0, 8, 3, 0, 6, 0, 2, 6),
}
# tone of the answer -> change for the first speaker, intensity for the second
TONES = {
    "kind": ((-2, -2, -1, 1, 0, -1, 2, -3, 0, 3), (2, 0, 1, 3, 1, 0, 6, 0, 1, 1)),
    "cold": ((1, 1, 0, -2, -1, 0, -1, 3, 0, -2), (0, 1, 0, 1, 0, 0, 5, 1, 0, 0)),
    "blame": ((1, 3, 1, -3, -2, 2, -1, 2, 1, -3), (1, 6, 0, 0, 1, 0, 1, 0, 1, 0)),
    "joke": ((0, 1, -1, 0, 0, 1, 0, 0, 1, 0), (0, 0, 0, 6, 1, 0, 5, 0, 0, 0)),
    "cheer": ((-1, -1, -1, 2, 2, -2, 1, -2, 0, 2), (0, 0, 0, 6, 2, 0, 4, 0, 1, 0)),
}
# last words of the first speaker -> change for the first, change for the second
CLOSES = {
    "thanks": ((-1, -2, -1, 1, 0, 0, 2, -2, 0, 3), (0, -1, 0, 2, 2, 0, 1, 0, 0, 1)),
    "attack": ((0, 3, 0, -1, 0, 0, -2, 1, 0, -2), (2, 3, 1, -3, -1, 2, -3, 1, 3, 0)),
    "retreat": ((2, 0, 0, -1, -1, 1, -1, 2, 0, 0), (1, 0, 1, -2, 0, 3, -1, 1, 1, 0)),
    "hope": ((-1, -1, -1, 1, 1, 0, 1, 0, 0, 0), (0, 0, 0, 1, 0, 0, 1, 0, 0, 0)),
}

TONE_LINES = {
    "kind": ("I am so sorry, I am here for you.", "I understand you well.", "Come here, I will help you.", "Tell me everything, I will listen."),
    "cold": ("I have no time for that now.", "So what?", "That is not my problem.", "Can we talk about something else?"),
    "blame": ("That is your own fault.", "You never pay attention.", "I told you so.", "You only think of yourself."),
    "joke": ("Well, at least it is Friday.", "You should write a funny book about it.", "My cat does that every day.", "That could be a movie."),
    "cheer": ("You are stronger than you think.", "I believe in you.", "You can do everything you want.", "I knew that you are great."),
}  # fmt: skip
CLOSE_LINES = {
    "thanks": ("Thank you, that means a lot.", "Thanks for your words.", "I am lucky to have you."),
    "attack": (
        "You never listen to me!",
        "How can you say that?",
        "I do not want to see you today!",
    ),
    "retreat": ("Never mind.", "Forget it.", "I should not have said anything."),
    "hope": ("Well, tomorrow is a new day.", "Let us see how it goes.", "It will be fine."),
}
# lines without weight, so that the model must find the ones that count
FILLERS = (
    "How was your day?", "What is new?", "You look different today.", "Did something happen?", "Hello there.",
    "Did you hear the rain?", "The coffee is ready.", "It is already late.", "Sit down for a moment.",
)  # fmt: skip
FRAMES = (
    ("Here is a dialogue.", "Rate how {t} feels at the end from 0 to 10: {e}."),
    (
        "Read this dialogue.",
        "At the end, how strongly does {t} feel each emotion, from 0 to 10? {e}.",
    ),
    ("Dialogue:", "Rate the emotions of {t} from 0 to 10: {e}."),
)

ANSWER = re.compile(r"([a-z]+): (10|[0-9])")


@dataclass(frozen=True)
class Item:
    """One question. `event` is the first-person sentence, `fillers` the lines before it."""

    first: str
    second: str
    event: str
    kind: str
    tone_line: str
    close_line: str
    target: str
    emotions: tuple[str, ...]
    fillers: tuple[str, ...] = ()
    frame: int = 0


def tone_of(line: str) -> str | None:
    return next((tone for tone, lines in TONE_LINES.items() if line in lines), None)


def close_of(line: str) -> str | None:
    return next((close for close, lines in CLOSE_LINES.items() if line in lines), None)


def values(item: Item) -> tuple[int, ...]:
    """The right answer: the sum of the tables, clipped to 0..10."""
    tone, close = TONES[tone_of(item.tone_line)], CLOSES[close_of(item.close_line)]
    if item.target == item.first:
        rows = (BASE[item.kind], tone[0], close[0])
    else:
        rows = (tone[1], close[1])
    columns = (COLUMNS.index(EMOTIONS[word]) for word in item.emotions)
    return tuple(min(10, max(0, sum(row[c] for row in rows))) for c in columns)


def render_prompt(item: Item) -> str:
    head, question = FRAMES[item.frame]
    lines = [head]
    lines += [f"{item.second}: {line}" for line in item.fillers]
    lines.append(f"{item.first}: {item.event}.")
    lines.append(f"{item.second}: {item.tone_line}")
    lines.append(f"{item.first}: {item.close_line}")
    lines.append(question.format(t=item.target, e=", ".join(item.emotions)))
    return "\n".join(lines)


def render_answer(item: Item) -> str:
    return "\n".join(
        f"{word}: {value}" for word, value in zip(item.emotions, values(item), strict=True)
    )


def asked(text: str) -> tuple[str, tuple[str, ...]] | None:
    """Target and emotions of a rating question, or None when the text is no such question."""
    last = text.rsplit("\n", 1)[-1]
    for _, question in FRAMES:
        before, after = question.split("{t}")
        middle, _ = after.split("{e}")
        pattern = rf"{re.escape(before)}(\w+){re.escape(middle)}(\w+(?:, \w+)*)\."
        match = re.fullmatch(pattern, last)
        if match and "\n" in text:
            return match.group(1), tuple(match.group(2).split(", "))
    return None


def parse_answer(text: str, emotions: tuple[str, ...]) -> tuple[int, ...] | None:
    """Strict: one line `emotion: value` for each emotion in the order of the question, nothing else."""
    lines = text.split("\n")
    found = [ANSWER.fullmatch(line) for line in lines]
    if any(match is None for match in found) or tuple(m.group(1) for m in found) != emotions:
        return None
    return tuple(int(match.group(2)) for match in found)


def parse_prompt(text: str, kind_of) -> Item | None:
    """The item behind a prompt; None when it is no question or not a dialogue of this grammar.

    `kind_of(sentence)` tells the kind of a first-person event sentence, or None.
    """
    question = asked(text)
    if question is None or not set(question[1]) <= set(EMOTIONS):
        return None
    head, *body, _ = text.split("\n")
    turns = [line.partition(": ")[::2] for line in body]
    if len(turns) < 3:
        return None
    *before, (first, event), (second, tone_line), (last, close_line) = turns
    kind = kind_of(event.removesuffix("."))
    heads = [frame[0] for frame in FRAMES]
    known = kind and tone_of(tone_line) and close_of(close_line) and head in heads
    roles = first == last != second and question[0] in (first, second)
    if not known or not roles or any(name != second for name, _ in before):
        return None
    return Item(
        first, second, event.removesuffix("."), kind, tone_line, close_line, question[0], question[1],
        tuple(line for _, line in before), heads.index(head),
    )  # fmt: skip
