"""Renders the contract's constructs and families with `transformers` and with the worker's half.

`python templates.py FOLDER [--write]`: prints, per case, what `transformers` gives, what the worker
gives, and what FOLDER's files expect; `--write` makes the files' expectations anew.

**Invariant:** `transformers` renders through its own public function, and its clock alone is set.
"""

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from transformers.utils import chat_template_utils

from proofmark_worker import templates as worker

NAMES = {"bos_token": "<B>", "eos_token": "<E>"}


class Stopped(datetime):
    @classmethod
    def now(cls, _zone=None):
        return worker.CLOCK


def _or_none(render) -> str | None:
    """None where a template refuses or fails."""
    try:
        return render()
    except Exception:
        return None


def both(source: str, messages: list, tools: list | None, prompt: bool) -> tuple:
    """What `transformers` gives, and the worker."""

    def transformers() -> str:
        found, _ = chat_template_utils.render_jinja_template(
            [messages], tools=tools, chat_template=source, add_generation_prompt=prompt, **NAMES
        )
        return found[0]

    def own() -> str:
        return worker.Template(source, **NAMES).render(messages, prompt, tools)

    return _or_none(transformers), _or_none(own)


def cases(folder: Path):
    """Every case: its name, its expectation's place, and what is rendered."""
    constructs = json.loads((folder / "constructs.json").read_text(encoding="utf-8"))
    for it in constructs["constructs"]:
        yield it["name"], it, (it["template"], constructs["messages"], None, True)
    families = json.loads((folder / "families.json").read_text(encoding="utf-8"))
    talks = {talk["name"]: talk for talk in families["conversations"]}
    for it in families["renderings"]:
        source = (folder / "families" / f"{it['family']}.jinja").read_text(encoding="utf-8")
        talk, prompt = talks[it["conversation"]], it["add_generation_prompt"]
        name = f"{it['family']}, {it['conversation']}, {prompt}"
        yield name, it, (source, talk["messages"], talk.get("tools"), prompt)
    yield "constructs.json", constructs, None
    yield "families.json", families, None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    chat_template_utils.datetime = Stopped
    found = []
    for name, place, rendered in cases(options.folder):
        if rendered is None:
            if options.write:
                text = json.dumps(place, ensure_ascii=False, indent=1) + "\n"
                (options.folder / name).write_text(text, encoding="utf-8")
            continue
        transformers, own = both(*rendered)
        expected = place["expected"]
        place["expected"] = transformers
        found.append(
            {"name": name, "transformers": transformers, "worker": own, "expected": expected}
        )
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
