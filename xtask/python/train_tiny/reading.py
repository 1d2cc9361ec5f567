"""The reading half of the grammar: what a user message means, whatever the way it is typed.

Invariant: the state depends on the user's messages alone, so a conversation in which the model
wrote the earlier replies is judged by the same rule as one from the generator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from itertools import product

import ratings
import world

CONTRACTIONS = (
    ("i'm", "i am"), ("don't", "do not"), ("can't", "can not"), ("what's", "what is"), ("it's", "it is"),
    ("let's", "let us"), ("didn't", "did not"),
)  # fmt: skip
WHEN = ("today", "yesterday", "this morning", "this week")

# act -> phrases of the user, lower case, without the full stop
PHRASES = {
    "greet": ("hello", "hi", "hey", "hi there", "hello there", "hey there"),
    "morning": ("good morning",),
    "evening": ("good evening",),
    "ask_name": ("what is my name", "do you remember my name", "do you know my name", "who am i"),
    "ask_feeling": (
        "how do i feel",
        "do you remember how i feel",
        "what did i say about my feelings",
    ),
    "ask_event": ("what did i tell you", "do you remember what happened", "what happened to me"),
    "who": ("who are you", "what is your name", "what are you", "tell me about yourself"),
    "can": ("what can you do", "how can you help me", "help", "what can i ask you"),
    "human": ("are you a human", "are you real", "are you a robot", "do you have feelings"),
    "well": ("how are you", "how are you today", "how is it going", "and you"),
    "advice": (
        "what should i do",
        "can you help me",
        "do you have any advice",
        "give me some advice",
        "what can i do",
    ),
    "breathe": ("help me calm down", "i need to calm down", "let us breathe", "i can not breathe"),
    "joke": ("tell me a joke", "do you know a joke", "make me laugh", "another joke please"),
    "yes": ("yes", "yes please", "sure", "okay yes", "i think so", "of course"),
    "no": ("no", "no thanks", "not really", "not now", "i do not think so"),
    "thanks": ("thank you", "thanks", "thank you so much", "thanks a lot", "that helps"),
    "bye": ("bye", "goodbye", "see you", "good night", "i have to go", "see you tomorrow"),
}
GREETINGS = ("greet", "morning", "evening")
NAME_PHRASES = ("my name is {n}", "i am {n}", "call me {n}", "this is {n}")
FEELING_PHRASES = (
    "i feel {f}",
    "i am {f}",
    "i am feeling {f}",
    "i feel so {f}",
    "i am very {f}",
    "i am really {f}",
    "i feel a little {f}",
    "i feel {f} today",
    "{f}",
)
BECAUSE_PHRASES = ("i feel {f} because {e}", "i am {f} because {e}", "i am so {f}, {e}")
HOBBY_PHRASES = ("i like to {h}", "i love to {h}", "in my free time i {h}")
FREQUENCY_PHRASES = ("{q}", "i do it {q}")
THOUGHT_PHRASES = ("the hardest part is that {t}", "that {t}", "it is hard that {t}")
BEST_PHRASES = ("the best part was {b}", "i liked {b}", "{b}")
NEED_PHRASES = ("i need {x}", "maybe {x}", "{x} would help")
REPEAT_PHRASES = ("Repeat: ", "Please say: ", "repeat after me: ")
SINCE_PHRASES = ("{s}", "i feel like this {s}")


@dataclass(frozen=True)
class Event:
    kind: str
    first: str  # "I lost my keys"
    second: str  # "losing your keys"

    @property
    def positive(self) -> bool:
        return self.kind in world.POSITIVE_KINDS


@dataclass
class State:
    """What the user has said so far; `act` and `slots` belong to the last message."""

    name: str | None = None
    feeling: str | None = None
    event: Event | None = None
    hobby: str | None = None
    act: str = "outside"
    greeted: str | None = None
    slots: dict = field(default_factory=dict)

    @property
    def group(self) -> str | None:
        return world.FEELINGS.get(self.feeling)

    @property
    def feels_good(self) -> bool:
        return self.group in world.POSITIVE_GROUPS


@cache
def events() -> dict[str, Event]:
    """Every event with its slots filled, by its first-person sentence in lower case."""
    found = {}
    for kind, first, second in world.EVENTS:
        slots = re.findall(r"{(\w+)}", first)
        for fill in product(*(world.SLOTS[slot] for slot in slots)):
            filled = dict(zip(slots, fill, strict=True))
            event = Event(kind, first.format(**filled), second.format(**filled))
            found[event.first.lower()] = event
    return found


def kind_of(sentence: str) -> str | None:
    event = events().get(sentence.lower())
    return event.kind if event else None


def normalise(text: str) -> str:
    """Lower case, plain apostrophes, no contractions, single spaces, no closing punctuation."""
    text = " ".join(text.replace("\u2019", "'").lower().split()).rstrip(".!? ")
    for short, long in CONTRACTIONS:
        text = re.sub(rf"\b{short}\b", long, text)
    return text


@cache
def _patterns() -> tuple[tuple[str, re.Pattern], ...]:
    """(act, pattern) in order of precedence. The event slot takes the rest of the message."""

    def any_of(words) -> str:
        return "|".join(re.escape(w.lower()) for w in sorted(words, key=len, reverse=True))

    def compile_all(act: str, phrases, **slots: str):
        for phrase in phrases:
            pattern = re.escape(phrase).replace(r"\{", "{").replace(r"\}", "}")
            for slot, body in slots.items():
                pattern = pattern.replace("{" + slot + "}", f"(?P<{slot}>{body})")
            yield act, re.compile(pattern)

    feeling = any_of(world.FEELINGS)
    return (
        *compile_all("because", BECAUSE_PHRASES, f=feeling, e=".+"),
        *compile_all("feeling", FEELING_PHRASES, f=feeling),
        *compile_all("hobby", HOBBY_PHRASES, h=any_of(world.HOBBIES)),
        *compile_all("frequency", FREQUENCY_PHRASES, q=any_of(world.FREQUENCIES)),
        *compile_all("thought", THOUGHT_PHRASES, t=any_of(world.THOUGHTS)),
        *compile_all("best", BEST_PHRASES, b=any_of(world.BEST_PARTS)),
        *compile_all("need", NEED_PHRASES, x=any_of(world.NEEDS)),
        *compile_all("since", SINCE_PHRASES, s=any_of(world.SINCES)),
    )


@cache
def _fixed() -> dict[str, str]:
    return {phrase: act for act, phrases in PHRASES.items() for phrase in phrases}


@cache
def _names() -> tuple[re.Pattern, ...]:
    """A name keeps its spelling; after "I am" and "this is" it must begin with a capital letter."""
    loose, strict = r"(\w{1,20})", r"((?=[^\W\d_])(?-i:[A-Z])\w{0,19})"
    bodies = (loose if phrase.startswith(("my", "call")) else strict for phrase in NAME_PHRASES)
    frames = (
        phrase.replace("{n}", body) for phrase, body in zip(NAME_PHRASES, bodies, strict=True)
    )
    return tuple(re.compile(frame, re.IGNORECASE) for frame in frames)


def _lookup(table, lowered: str) -> str:
    """The spelling of the table ("since Monday") for a slot that was read in lower case."""
    return next(word for word in table if word.lower() == lowered)


def _understand_one(text: str, state: State) -> None:
    """Read one message without its greeting into `state`."""
    state.slots = {}
    if (question := ratings.asked(text)) is not None:
        state.act, state.slots = "rate", {"text": text, "emotions": question[1]}
        return
    for phrase in REPEAT_PHRASES:
        if text.startswith(phrase) and text.removeprefix(phrase).strip():
            state.act, state.slots = "repeat", {"words": text.removeprefix(phrase).strip()}
            return
    plain = normalise(text)
    if plain in _fixed():
        state.act = _fixed()[plain]
        return
    if _read_event(plain, state):
        state.act = "event"
        return
    for act, pattern in _patterns():
        match = pattern.fullmatch(plain)
        if match and (act != "because" or _read_event(match["e"], state)):
            _read_slots(act, match.groupdict(), state)
            return
    spelled = " ".join(text.replace("\u2019", "'").split()).rstrip(".!? ")
    spelled = re.sub(r"^i'm\b", "I am", spelled, flags=re.IGNORECASE)
    for pattern in _names():
        if match := pattern.fullmatch(spelled):
            state.act, state.name = "name", match.group(1)
            return
    state.act = "outside"


def _read_event(plain: str, state: State) -> bool:
    for when in WHEN:
        plain = plain.removeprefix(f"{when} ")
    event = events().get(plain)
    if event is not None:
        state.event = event
    return event is not None


def _read_slots(act: str, slots: dict, state: State) -> None:
    state.act = act
    if "f" in slots:
        state.feeling = slots["f"]
    match act:
        case "hobby":
            state.hobby = slots["h"]
        case "frequency":
            state.slots = {"q": _lookup(world.FREQUENCIES, slots["q"])}
        case "thought":
            state.slots = {"t": world.THOUGHTS[_lookup(world.THOUGHTS, slots["t"])]}
        case "best":
            state.slots = {"b": _lookup(world.BEST_PARTS, slots["b"])}
        case "need":
            state.slots = {"x": _lookup(world.NEEDS, slots["x"])}
        case "since":
            state.slots = {"s": _lookup(world.SINCES, slots["s"])}


def understand(messages: list[str]) -> State:
    """The state after the user's messages, oldest first."""
    state = State()
    for message in messages:
        head, comma, rest = message.partition(", ")
        hello = _fixed().get(normalise(head)) if comma else None
        state.greeted = hello if hello in GREETINGS else None
        _understand_one(rest if state.greeted else message, state)
    return state
