"""The speaking half of the grammar: every reply that may follow a conversation, and the acceptor.

`replies` lists all replies to a state (reading.py); the generator (dialogues.py) draws from the
same list, so acceptance is membership, not a guess.

Invariant: `accepts(conversation, r)` holds for every r that the generator can write after it.
"""

from __future__ import annotations

import re
from itertools import product

import ratings
import world
from reading import GREETINGS, State, kind_of, understand

HOW = ("How do you feel today?", "How are you today?")
REPLY_SPECIAL = re.compile(r"<\|[^|]*\|>")


def _say(*choices) -> list[str]:
    """All ways to say one choice after the other; empty parts vanish."""
    return [" ".join(part for part in parts if part) for parts in product(*choices)]


def _with_name(state: State, *texts: str) -> list[str]:
    """Each text as it is and, if the name is known, with the name at its `{n}`."""
    plain = [text.replace("{n}", "") for text in texts]
    if state.name is None:
        return plain
    return plain + [text.replace("{n}", f", {state.name}") for text in texts if "{n}" in text]


def _greeting(state: State, kind: str) -> list[str]:
    if kind == "greet":
        return _with_name(state, "Hello{n}.", "Hi{n}.")
    return _with_name(state, f"Good {kind}{{n}}.")


def replies(state: State) -> list[str]:
    """Every reply to the last message. For "rate" without a readable dialogue see `accepts`."""
    body = _REPLIES[state.act](state)
    if state.greeted and state.act not in (*GREETINGS, "rate"):
        return _say(_greeting(state, state.greeted), body)
    return body


def _reply_greet(state: State) -> list[str]:
    if state.feeling:
        question = [f"Do you still feel {state.feeling}?"]
    elif state.name:
        question = list(HOW)
    else:
        question = ["I am Pip. What is your name?", *HOW]
    return _say(_greeting(state, state.act), question)


def _reply_name(state: State) -> list[str]:
    n = state.name
    return _say([f"Nice to meet you, {n}.", f"I am happy to meet you, {n}."], HOW)


def _reply_ask_name(state: State) -> list[str]:
    if state.name:
        return [f"Your name is {state.name}.", f"You are {state.name}."]
    return ["You have not told me your name yet. What is your name?"]


def _reply_ask_feeling(state: State) -> list[str]:
    if state.feeling:
        return _with_name(state, f"You said that you feel {state.feeling}{{n}}.")
    return _say(["You have not told me how you feel yet."], HOW)


def _reply_ask_event(state: State) -> list[str]:
    if state.event:
        return _with_name(state, f"You told me about {state.event.second}{{n}}.")
    return ["You have not told me what happened yet. What happened?"]


def _feeling_opener(state: State) -> list[str]:
    f = state.feeling
    if state.feels_good:
        return _with_name(
            state, f"I am glad that you feel {f}{{n}}.", f"It is wonderful that you feel {f}{{n}}."
        )
    return _with_name(state, f"I am sorry that you feel {f}{{n}}.", f"It is okay to feel {f}{{n}}.")


def _reply_feeling(state: State) -> list[str]:
    if state.event:
        question = [f"Is it because of {state.event.second}?"]
    else:
        question = ["What happened?", "Do you know why?"]
    return _say(_feeling_opener(state), question)


def _event_opener(state: State) -> list[str]:
    e = state.event.second
    start = e[0].upper() + e[1:]
    if state.event.positive:
        return _with_name(state, f"{start} sounds great{{n}}.", f"I am happy about {e}{{n}}.")
    return _with_name(state, f"{start} sounds hard{{n}}.", f"I am sorry about {e}{{n}}.")


def _ask_part(state: State) -> list[str]:
    if state.event.positive:
        return ["What did you like most?"]
    return ["What is the hardest part?", "Do you want to talk about it?"]


def _reply_event(state: State) -> list[str]:
    if state.feeling is None:
        return _say(_event_opener(state), ["How do you feel about it?"])
    if state.feels_good == state.event.positive:
        return _say(
            _event_opener(state),
            [f"It makes sense that you feel {state.feeling}."],
            _ask_part(state),
        )
    return _say(_event_opener(state), [f"Do you still feel {state.feeling}?"])


def _reply_because(state: State) -> list[str]:
    understood = [f"I understand that {state.event.second} makes you feel {state.feeling}."]
    return _say(_feeling_opener(state), understood, _ask_part(state))


def _reply_advice(state: State) -> list[str]:
    if state.feeling:
        tips = world.TIPS[state.group]
        return [
            f"When you feel {state.feeling}, it can help to {tip}." for tip in tips
        ] + _with_name(state, *(f"You could {tip}{{n}}." for tip in tips))
    if state.event:
        return [f"You could talk with somebody you trust about {state.event.second}."]
    return _say(["I would like to help you."], HOW)


def _reply_yes(state: State) -> list[str]:
    if state.event and state.event.positive:
        return _say(["Tell me more."], [f"What do you like most about {state.event.second}?"])
    if state.event:
        return _say(["I am listening."], [f"What is the hardest part of {state.event.second}?"])
    if state.feeling:
        return _say(["I am listening."], [f"When did you start to feel {state.feeling}?"])
    return _say(["Good."], HOW)


def _reply_bye(state: State) -> list[str]:
    if state.feeling is None:
        wish = ["Take good care of yourself."]
    elif state.feels_good:
        wish = [f"I am glad that you feel {state.feeling}."]
    else:
        wish = [f"I hope that you will feel less {state.feeling} soon."]
    return _say(_with_name(state, "Goodbye{n}.", "See you soon{n}."), wish)


def _reply_hobby(state: State) -> list[str]:
    gerund = world.HOBBIES[state.hobby].capitalize()
    return _say(
        _with_name(state, f"{gerund} sounds fun{{n}}.", f"{gerund} is a lovely hobby{{n}}."),
        [f"How often do you {state.hobby}?"],
    )


def _reply_frequency(state: State) -> list[str]:
    q = state.slots["q"]
    if state.hobby:
        return _with_name(
            state,
            f"I like that you {state.hobby} {q}{{n}}.".replace(" not often", ", even if not often"),
        )
    return _say([f"I see, {q}."], HOW)


def _reply_since(state: State) -> list[str]:
    s = state.slots["s"]
    if state.feeling:
        return _say(
            _with_name(state, f"So you feel {state.feeling} {s}{{n}}."),
            ["What would help you now?"],
        )
    return _say([f"I see, {s}."], HOW)


def _reply_rate(state: State) -> list[str]:
    item = ratings.parse_prompt(state.slots["text"], kind_of)
    return [] if item is None else [ratings.render_answer(item)]


_REPLIES = {
    "greet": _reply_greet,
    "morning": _reply_greet,
    "evening": _reply_greet,
    "name": _reply_name,
    "ask_name": _reply_ask_name,
    "ask_feeling": _reply_ask_feeling,
    "ask_event": _reply_ask_event,
    "who": lambda s: ["I am Pip, a small companion who listens.", "My name is Pip. I am a small companion on your device."],
    "can": lambda s: ["I can listen, talk about feelings, give small tips, tell a joke and rate the emotions in a dialogue."],
    "human": lambda s: _with_name(s, "No, I am a small program{n}. But I like to listen."),
    "well": lambda s: _with_name(s, "I am well, thank you. How are you{n}?"),
    "advice": _reply_advice,
    "breathe": lambda s: _say(
        _with_name(s, "Let us breathe together{n}."),
        ["Breathe in for four and out for six.", "Breathe in slowly, hold it, and breathe out slowly."],
    ),
    "joke": lambda s: list(world.JOKES),
    "yes": _reply_yes,
    "no": lambda s: _say(_with_name(s, "That is okay{n}."), ["We can talk about something else.", "I am here when you need me."]),
    "thanks": lambda s: _say(_with_name(s, "You are welcome{n}."), ["", "I am here for you.", "I like to listen."]),
    "bye": _reply_bye,
    "feeling": _reply_feeling,
    "event": _reply_event,
    "because": _reply_because,
    "hobby": _reply_hobby,
    "frequency": _reply_frequency,
    "thought": lambda s: _say(
        _with_name(s, f"I understand that it is hard when {s.slots['t']}{{n}}."), ["What would help you now?"]
    ),
    "best": lambda s: _with_name(s, f"I can imagine {s.slots['b']}{{n}}. That sounds lovely."),
    "need": lambda s: _say(
        [s.slots["x"][0].upper() + s.slots["x"][1:] + " sounds right."],
        _with_name(s, f"I hope that you get {s.slots['x']} soon{{n}}."),
    ),
    "since": _reply_since,
    "repeat": lambda s: [s.slots["words"]],
    "rate": _reply_rate,
    "outside": lambda s: _say(
        _with_name(s, "I do not know much about that{n}.", "That is outside of my small world{n}."),
        ["I am better with feelings.", ""],
        HOW,
    ),
}  # fmt: skip


def accepts(messages: list[dict], reply: str) -> bool:
    """Could the grammar have answered `reply` to this conversation?

    `messages` are `{"role", "content"}`, the last one from the user. A rating of a dialogue that the
    grammar cannot read has no right values; there a strictly well-formed answer is accepted.
    """
    if not messages or messages[-1]["role"] != "user" or REPLY_SPECIAL.search(reply):
        return False
    state = understand([m["content"] for m in messages if m["role"] == "user"])
    allowed = replies(state)
    if state.act == "rate" and not allowed:
        return ratings.parse_answer(reply, state.slots["emotions"]) is not None
    return reply in allowed
