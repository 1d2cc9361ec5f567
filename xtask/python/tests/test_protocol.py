"""Requests that must be refused, and the answer they get. Nothing here needs torch."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from proofmark_worker import answers, architecture, choice, protocol, quality
from proofmark_worker.from_gguf import task as from_gguf

from .support import ARCHITECTURE, Case, request

RUN = Path(__file__).resolve().parent.parent / "proofmark_worker" / "run.py"


class Requests(Case):
    def refuse(self, change, *parts: str) -> None:
        value = request(self.directory())
        change(value)
        with self.assertRaises(protocol.WorkerError) as caught:
            protocol.parse_request(value)
        self.assertEqual(caught.exception.kind, "request")
        for part in parts:
            self.assertIn(part, caught.exception.error)

    def test_a_complete_request_is_accepted(self):
        parsed = protocol.parse_request(request(self.directory()))
        self.assertEqual(parsed.architecture.rope_scaling.factor, 4.0)
        self.assertEqual(parsed.eos_ids, (2,))

    def test_unknown_keys_at_every_level(self):
        self.refuse(lambda r: r.update(extra=1), "unknown key 'extra'")
        self.refuse(lambda r: r["source"].update(extra=1), "source: unknown key")
        self.refuse(lambda r: r["architecture"].update(extra=1), "architecture: unknown key")
        scaling = {**ARCHITECTURE["rope_scaling"], "extra": 1}
        self.refuse(
            lambda r: r["architecture"].update(rope_scaling=scaling), "rope_scaling: unknown key"
        )

    def test_every_key_is_required(self):
        for key in request(self.directory()):
            with self.subTest(key=key):
                self.refuse(lambda r, key=key: r.pop(key), f"missing key {key!r}")
        for key in ARCHITECTURE:
            with self.subTest(key=key):
                self.refuse(lambda r, key=key: r["architecture"].pop(key), f"missing key {key!r}")

    def test_versions(self):
        for version in (0, 2, "1", True, None):
            with self.subTest(version=version):
                self.refuse(lambda r, v=version: r.update(protocol=v), "protocol", "expected 1")

    def test_types_and_ranges(self):
        cases = (
            ({"seq_len": "512"}, "seq_len"),
            ({"seq_len": 512.0}, "seq_len"),
            ({"seq_len": True}, "seq_len"),
            ({"threads": 0}, "threads"),
            ({"quantization": "int2"}, "int8, int4, fp32"),
            ({"backend": "gpu"}, "xnnpack, portable"),
            ({"pte": "relative.pte"}, "absolute path"),
            ({"bos_id": 1024}, "bos_id"),
            ({"eos_ids": []}, "eos_ids"),
            ({"eos_ids": [1024]}, "below 1024"),
            ({"reference_prompt": []}, "reference_prompt"),
            ({"reference_prompt": [-1]}, "below 1024"),
            ({"reference_prompt": [1] * 65}, "at most seq_len 64"),
            ({"backend": "portable"}, "expected fp32"),
            ({"source": {"kind": "pickle", "dir": "/x"}}, "safetensors, random"),
        )
        for change, part in cases:
            with self.subTest(change=change):
                self.refuse(lambda r, change=change: r.update(change), part)

    def test_impossible_architectures(self):
        for change, part in (
            ({"kv_heads": 3}, "multiple of kv_heads"),
            ({"head_dim": 31}, "even"),
            ({"tied": 1}, "bool"),
            ({"norm_eps": 0.0}, "positive"),
            ({"rope_scaling": {**ARCHITECTURE["rope_scaling"], "high_freq_factor": 1.0}}, "exceed"),
        ):
            with self.subTest(change=change):
                self.refuse(lambda r, change=change: r["architecture"].update(change), part)


SCHEMA = json.loads((RUN.parent.parent / "schemas/worker-request.json").read_text(encoding="utf-8"))


def resolved(schema: dict) -> list[dict]:
    """What a value may be, one schema for each kind, references followed."""
    if "$ref" in schema:
        return resolved(SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]])
    parts = schema.get("anyOf") or schema.get("oneOf")
    if parts and "properties" not in schema:
        bounds = {k: v for k, v in schema.items() if k.startswith(("exclusive", "minimum", "max"))}
        return [{**bounds, **found} for part in parts for found in resolved(part)]
    return [schema]


def fits(value: dict, schema: dict) -> bool:
    kind = schema["properties"].get("kind")
    return kind is None or kind["const"] == value["kind"]


def wrong(kind: dict):
    """Values that a schema refuses, and what the refusal must name."""
    types = kind.get("type", "")
    if "integer" in types and "maximum" in kind:
        low, high = kind.get("minimum", 0), kind["maximum"]
        expected = [high] if low == high else [f"{low} to {high}"]
        yield from ((low - 1, expected), (high + 1, expected), (str(low), []), (low + 0.5, []))
    if "number" in types:
        for key in ("exclusiveMinimum", "exclusiveMaximum"):
            if key in kind:
                yield kind[key], ["positive"]
        if "minimum" in kind:
            yield from ((kind["minimum"] - 0.5, []), (kind["maximum"] + 0.5, []))
    if "enum" in kind or "const" in kind:
        yield "no such thing", []
    if "boolean" in types:
        yield 1, []
    if "array" in types and "maxItems" in kind:
        yield [0] * (kind["maxItems"] + 1), [kind["maxItems"]]
    if "array" in types and kind.get("minItems"):
        yield [], []
    if types == "string" and kind.get("minLength"):
        yield "", []


class Schema(Case):
    """The reader takes what the committed schema says, and nothing else.

    That file is written from the types of those who write requests.
    """

    def setUp(self) -> None:
        words = {
            "tokenizer": "/t",
            "chat_template": "/c",
            "bos_token": "",
            "eos_token": "",
            "reference": [{"messages": [], "add_generation_prompt": True, "prompt": ""}],
        }
        self.export = {**request(self.directory()), "words": words}
        keys = ("protocol", "source", "architecture", "seq_len", "bos_id", "eos_ids", "threads")
        self.model = {key: self.export[key] for key in (*keys, "work_dir", "response")}
        self.model |= {"tokenizer": "/t", "chat_template": "/c"}

    def refused(self, read, place: str) -> str:
        with self.assertRaises(protocol.WorkerError, msg=place) as caught:
            read()
        self.assertEqual(caught.exception.kind, "request", place)
        return caught.exception.error

    def walk(self, read, value: dict, schema: dict, place: str) -> None:
        """`value`, a part of what `read` reads, has the keys of the schema, each within bounds."""
        keys = schema["properties"]
        self.assertEqual(set(value), set(keys), place)
        self.assertEqual(set(schema["required"]), set(keys), place)
        closed = schema.get("additionalProperties", schema.get("unevaluatedProperties"))
        self.assertIs(closed, False, place)
        value["surprise"] = 1
        self.assertIn("surprise", self.refused(read, place))
        del value["surprise"]
        for key in list(value):
            kept = value.pop(key)
            self.refused(read, f"{place}.{key} missing")
            value[key] = kept
            self.bounds(read, value, key, resolved(keys[key]), place)

    def bounds(self, read, value: dict, key: str, kinds: list, place: str) -> None:
        kept, place = value[key], f"{place}.{key}"
        if not any("null" in kind.get("type", "") for kind in kinds):
            value[key] = None
            self.refused(read, f"{place} is null")
        for bad, said in (pair for kind in kinds for pair in wrong(kind)):
            value[key] = bad
            error = self.refused(read, f"{place} is {bad!r}")
            for part in said:
                self.assertIn(str(part), error, place)
        value[key] = kept
        read()
        self.inside(read, kept, kinds, place)

    def inside(self, read, kept: object, kinds: list, place: str) -> None:
        if isinstance(kept, list) and kept and isinstance(kept[0], dict):
            lists = [kind["items"] for kind in kinds if "items" in kind]
            (inner,) = (one for items in lists for one in resolved(items))
            if inner.get("additionalProperties") is False:
                self.walk(read, kept[0], inner, f"{place}[0]")
        if isinstance(kept, dict):
            named = [k for k in kinds if "properties" in k and fits(kept, k)]
            self.walk(read, kept, named[0], place)

    def test_an_export_is_read_as_its_schema_says(self):
        schema = SCHEMA["$defs"]["Export"]
        self.walk(lambda: protocol.parse_request(self.export), self.export, schema, "export")

    def test_every_scaling_is_read_as_its_schema_says(self):
        kinds = SCHEMA["$defs"]["RopeScaling"]["oneOf"]
        number = {"factor": 2.0, "attention_factor": 1.0}
        yarn = {"beta_fast": 32.0, "beta_slow": 1.0, "original_max_position": 8, "truncate": True}
        scalings = [
            ARCHITECTURE["rope_scaling"],
            {"kind": "linear", "factor": 2.0},
            {"kind": "yarn", **number, **yarn},
            {"kind": "longrope", "short_factor": [1.0] * 16, "attention_factor": 1.0},
        ]
        known = {kind["properties"]["kind"]["const"] for kind in kinds}
        self.assertEqual(known, {scaling["kind"] for scaling in scalings})
        for scaling in scalings:
            value = {**self.export["architecture"], "rope_scaling": scaling}
            schema = SCHEMA["$defs"]["Architecture"]
            read = partial(architecture.parse_architecture, value)
            self.walk(read, value, schema, "architecture")

    def test_a_source_of_weights_is_a_folder_or_a_seed(self):
        for source in ({"kind": "random", "seed": 1}, {"kind": "safetensors", "dir": "/c"}):
            value = {**self.export, "source": source}
            (kind,) = (k for k in resolved(SCHEMA["$defs"]["Source"]) if fits(source, k))
            self.walk(partial(protocol.parse_request, value), source, kind, "source")

    def test_questions_are_read_as_their_schemas_say(self):
        run = {
            "name": "r",
            "quantization": "int8",
            "activations": "rotated",
            "temperature": 0.0,
            "seed": 1,
            "tokens_max": 1,
            "prompts": [],
        }
        scored = {"window": 8, "texts": "/x", "engine": ["e"]}
        asked = {
            "answers": (answers.parse, {"runs": [run]}),
            "choice": (choice.parse, scored),
            "quality": (quality.parse, {**scored, "tokens_max": 9, "tokens_file": "/f"}),
        }
        schema = SCHEMA["$defs"]["Ask"]
        for part in schema["oneOf"]:
            task = part["properties"]["task"]["const"]
            read, more = asked.pop(task)
            properties = {**schema["properties"], **part["properties"]}
            # The window of a question ends with the model's, which a test of its own shows.
            properties["window"] = {"type": "integer"}
            if "window" not in part["properties"]:
                del properties["window"]
            required = schema["required"] + part["required"]
            whole = {**schema, "properties": properties, "required": required}
            value = {**self.model, "task": task, **more}
            self.walk(partial(read, value), value, whole, task)
        self.assertEqual(asked, {})

    def test_a_conversion_is_read_as_its_schema_says(self):
        keys = ("protocol", "architecture", "bos_id", "eos_ids", "response")
        value = {key: self.export[key] for key in keys}
        value |= {"task": "from-gguf", "gguf": "/g", "tokenizer": "t", "dir": "/d"}
        schema = SCHEMA["$defs"]["FromGguf"]
        self.walk(partial(from_gguf.parse, value), value, schema, "from-gguf")


class Process(Case):
    """The real entry file in a real process, on requests that fail before torch is imported."""

    def start(self, value: dict, **environment) -> tuple[subprocess.CompletedProcess, dict | None]:
        path = Path(value["response"]).with_name("request.json")
        path.write_text(json.dumps(value))
        done = subprocess.run(
            [sys.executable, "-I", "-B", str(RUN), str(path)],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.scratch,
            env={**os.environ, **environment},
        )
        response = Path(value["response"])
        return done, json.loads(response.read_text()) if response.exists() else None

    def test_a_refused_request_is_still_answered(self):
        done, response = self.start({**request(self.directory()), "surprise": 1})
        self.assertEqual(done.returncode, 1)
        self.assertEqual((response["ok"], response["kind"]), (False, "request"))
        self.assertIn("surprise", response["error"])

    def test_a_failing_stage_is_announced_and_named(self):
        done, response = self.start({**request(self.directory()), "expected_partitions": 4})
        self.assertEqual(done.returncode, 1)
        self.assertEqual(response["stage"], "preflight")
        self.assertIn("give 3, recipe expects 4", response["error"])
        lines = [ln for ln in done.stdout.splitlines() if ln.startswith("@proofmark ")]
        event = json.loads(lines[0].removeprefix("@proofmark "))
        self.assertEqual(event, {"event": "stage", "stage": "preflight", "index": 0, "of": 11})
        self.assertGreater(response["stages"][0]["peak_rss_bytes"], 1 << 20)

    def test_a_module_lying_nearby_is_not_imported(self):
        (self.scratch / "proofmark_worker.py").write_text("raise SystemExit(77)")
        (self.scratch / "json.py").write_text("raise SystemExit(78)")
        value = {**request(self.directory()), "expected_partitions": 4}
        done, response = self.start(value, PYTHONPATH=str(self.scratch))
        self.assertEqual(done.returncode, 1)
        self.assertEqual(response["kind"], "request")

    def test_a_broken_request_file_has_no_answer_but_an_exit_code(self):
        path = self.directory() / "request.json"
        path.write_text("{")
        command = [sys.executable, "-I", "-B", str(RUN), str(path)]
        done = subprocess.run(command, capture_output=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"not json", done.stderr)


class Publishing(Case):
    def test_an_interrupted_write_leaves_the_old_file(self):
        path = self.directory() / "file"
        path.write_bytes(b"old")

        def write(file):
            file.write(b"half")
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            protocol.publish(path, write)
        self.assertEqual(path.read_bytes(), b"old")
        self.assertEqual([p.name for p in path.parent.iterdir()], ["file"])
