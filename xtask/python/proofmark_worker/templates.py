"""Chat templates by the conventions of `transformers` (`utils/chat_template_utils.py`, 5.24).

The app renders with a machine of its own, which bounds what a template may take. This half is an
independent renderer, so that both can be held against each other: before anything heavy starts, a
child process with bounded memory and time renders the reference conversation, and its prompts must
be the app's.

**Invariant:** a template computes text and nothing else (sandbox, no loader, a given clock).
**Invariant:** the worker itself renders no template that the child has not rendered.
"""

import json
import os
import resource
from datetime import datetime
from pathlib import Path

from .fields import WorkerError
from .protocol import Words

# What `Clock::FIXED` of the contract says: a prompt must not depend on the day of its proof.
CLOCK = datetime(2024, 7, 26, 12, 0, 0)  # noqa: DTZ001 (templates ask for a local time)

MEMORY_BYTES_MAX = 1 << 30
SECONDS_MAX = 20
ANSWER_BYTES_MAX = 64 << 20
HINT = "a template must render the same in the app and in transformers; mend the line that differs"


def _raise(message: str):
    raise WorkerError("template", f"the chat template refuses the conversation: {message}")


def _json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Jinja's own filter escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def environment():
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """What a model is trained on; renders as its body, in a scope of its own."""

        tags = frozenset({"generation"})

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            call = self.call_method("_body")
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _body(self, caller):
            return caller()

    def _letter_first(name):
        """Other names could lead into Python itself."""
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"got {name!r} for a namespace")

    class LettersOnly(Namespace):
        def __init__(*args, **kwargs):
            self, args = args[0], args[1:]
            values = dict(*args, **kwargs)
            for name in values:
                _letter_first(name)
            Namespace.__init__(self, values)

        def __setitem__(self, name, value):
            _letter_first(name)
            Namespace.__setitem__(self, name, value)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    made.filters["tojson"] = _json
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = CLOCK.strftime
    made.globals["namespace"] = LettersOnly
    return made


class Template:
    """A compiled template with what it may print."""

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        self.template = environment().from_string(source)
        self.names = {"bos_token": bos_token, "eos_token": eos_token}

    def render(self, messages: list[dict], add_generation_prompt: bool, tools=None) -> str:
        """`tools` and `documents` are always there, none where a caller has none."""
        return self.template.render(
            messages=messages,
            tools=tools,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self.names,
        )


def described(cause: BaseException) -> str:
    """One line, with the template's own where Jinja knows it."""
    line = getattr(cause, "lineno", None)
    text = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return f"line {line}: {text}" if line else text


def bounded(work) -> dict:
    """What `work` answers, from a child that may take little memory and time."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS_MAX, SECONDS_MAX))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            try:
                answer = {"found": work()}
            except MemoryError:
                answer = {"error": f"it needs more memory than {MEMORY_BYTES_MAX} bytes"}
            except BaseException as cause:
                answer = {"error": described(cause)}
            with os.fdopen(write, "wb") as file:
                file.write(json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        raw = file.read(ANSWER_BYTES_MAX + 1)
    os.waitpid(child, 0)
    try:
        return json.loads(raw)
    except ValueError:
        # Killed, or broken off in the middle of a word.
        return {"error": f"it takes more than {MEMORY_BYTES_MAX} bytes or {SECONDS_MAX} seconds"}


def check(words: Words) -> None:
    """Renders the reference conversation in a child; its prompts must be the app's."""
    path = Path(words.chat_template)

    def prompts() -> list[str]:
        template = Template(path.read_text(encoding="utf-8"), words.bos_token, words.eos_token)
        turns = [(it["messages"], it["add_generation_prompt"]) for it in words.reference]
        return [template.render(*turn) for turn in turns]

    answer = bounded(prompts)
    if "error" in answer:
        raise WorkerError("template", f"{path}: {answer['error']}", HINT)
    for got, it in zip(answer["found"], words.reference, strict=True):
        if got != it["prompt"]:
            place = next(
                (at for at, (a, b) in enumerate(zip(got, it["prompt"], strict=False)) if a != b),
                min(len(got), len(it["prompt"])),
            )
            raise WorkerError(
                "template",
                f"{path}: at character {place} of a prompt: got {got[place : place + 40]!r} "
                f"from jinja2, expected {it['prompt'][place : place + 40]!r} as the app renders it",
                HINT,
            )
