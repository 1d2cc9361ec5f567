"""Checkpoints that must not become a model."""

import json
import struct
from pathlib import Path
from unittest import mock

import torch

from proofmark_worker import checkpoint

from .support import Case, request

NAME = "model.layers.1.mlp.up_proj.weight"


def shard(value: dict) -> Path:
    return next(Path(value["source"]["dir"]).glob("*.safetensors"))


class Tensors(Case):
    def test_missing(self):
        value = self.checkpoint(change=lambda t: t.pop(NAME))
        self.fail_with(value, "weights", f"missing tensor {NAME}", stage="preflight")

    def test_unexpected(self):
        value = self.checkpoint(change=lambda t: t.update({"model.extra": torch.ones(2)}))
        self.fail_with(value, "weights", "unexpected tensor model.extra", stage="preflight")

    def test_a_layer_too_many(self):
        def change(tensors):
            for name in [n for n in tensors if "layers.1." in n]:
                tensors[name.replace("layers.1.", "layers.2.")] = tensors[name].clone()

        self.fail_with(self.checkpoint(change=change), "weights", "model.layers.2.")

    def test_a_head_where_none_belongs_and_none_where_one_does(self):
        def other_head(tensors):
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1e-3

        value = self.checkpoint(change=other_head)
        self.fail_with(value, "weights", "lm_head.weight differs", stage="digest")
        value = self.checkpoint(tied=False, change=lambda t: t.pop("lm_head.weight"))
        self.fail_with(value, "weights", "missing tensor lm_head.weight")

    def test_wrong_shape(self):
        def change(tensors):
            tensors[NAME] = tensors[NAME].T.contiguous()

        value = self.checkpoint(change=change)
        self.fail_with(value, "weights", NAME, "got shape [96, 160], expected [160, 96]")

    def test_wrong_dtype(self):
        def change(tensors):
            tensors[NAME] = tensors[NAME].to(torch.float64)

        self.fail_with(self.checkpoint(change=change), "weights", NAME, "got dtype F64")

    def test_values_that_are_not_finite(self):
        for bad in (float("nan"), float("inf"), -float("inf")):
            for name in (NAME, "model.norm.weight", "model.embed_tokens.weight"):
                with self.subTest(bad=bad, name=name):

                    def change(tensors, name=name, bad=bad):
                        tensors[name].view(-1)[-1] = bad

                    value = self.checkpoint(change=change)
                    # In whichever stage reads it first.
                    self.fail_with(value, "weights", name, "not finite")

    def test_all_zero(self):
        for name in (NAME, "model.norm.weight", "model.embed_tokens.weight"):
            with self.subTest(name=name):
                value = self.checkpoint(change=lambda t, name=name: t[name].zero_())
                self.fail_with(value, "weights", name, "every value is zero", stage="quantize")

    def test_a_width_the_group_does_not_divide(self):
        value = request(
            self.directory(), quantization="int4", architecture={"dim": 80, "head_dim": 40}
        )
        self.fail_with(value, "config", "self_attn.q_proj", "width 80", "group 32")


class Files(Case):
    def test_truncated(self):
        value = self.checkpoint()
        path = shard(value)
        for keep in (0, 7, 8, 100, path.stat().st_size - 1):
            with self.subTest(keep=keep):
                raw = path.read_bytes()
                path.write_bytes(raw[:keep])
                self.fail_with(value, "weights", path.name, stage="preflight")
                path.write_bytes(raw)

    def test_bytes_that_no_tensor_covers(self):
        value = self.checkpoint()
        with shard(value).open("ab") as file:
            file.write(b"\0")
        response = self.fail_with(value, "weights", "expected")
        self.assertIn("no tensor covers", response["hint"])

    def rewrite(self, value: dict, change) -> None:
        path = shard(value)
        raw = path.read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        text = change(raw[8 : 8 + length].decode())
        path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + raw[8 + length :])

    def edited(self, value: dict, change) -> None:
        def apply(text):
            header = json.loads(text)
            change(header)
            return json.dumps(header)

        self.rewrite(value, apply)

    def test_headers_that_lie(self):
        def overlap(header):
            header[NAME]["data_offsets"] = header["model.norm.weight"]["data_offsets"]

        def negative(header):
            header[NAME]["data_offsets"] = [-8, header[NAME]["data_offsets"][1]]

        def huge(header):
            header[NAME]["shape"] = [1 << 47, 1 << 47]

        def nothing(header):
            header[NAME] = None

        for change in (overlap, negative, huge, nothing):
            with self.subTest(change=change.__name__):
                value = self.checkpoint()
                self.edited(value, change)
                self.fail_with(value, "weights", stage="preflight")

    def test_headers_that_are_no_headers(self):
        for text in ("", "[]", "{", '{"a":1,"a":1}', "\ud7ff" * 4):
            with self.subTest(text=text):
                value = self.checkpoint()
                self.rewrite(value, lambda _, text=text: text)
                self.fail_with(value, "weights", "header", stage="preflight")

    def test_a_header_longer_than_the_file(self):
        value = self.checkpoint()
        raw = shard(value).read_bytes()
        shard(value).write_bytes(struct.pack("<Q", 1 << 63) + raw[8:])
        self.fail_with(value, "weights", "does not fit")

    def test_a_tensor_in_two_shards(self):
        value = self.checkpoint(shards=2)
        path = shard(value)
        path.with_name("copy.safetensors").write_bytes(path.read_bytes())
        self.fail_with(value, "weights", "also in", stage="preflight")

    def test_an_index_that_disagrees(self):
        value = self.checkpoint(shards=2)
        index = Path(value["source"]["dir"]) / "model.safetensors.index.json"
        for content in ({"weight_map": {NAME: "elsewhere.safetensors"}}, {"map": {}}, []):
            with self.subTest(content=content):
                index.write_text(json.dumps(content))
                self.fail_with(value, "weights", "index.json")

    def test_no_weights_at_all(self):
        value = self.checkpoint()
        shard(value).rename(Path(value["source"]["dir"]) / "pytorch_model.bin")
        self.fail_with(value, "weights", "no *.safetensors file")

    def test_a_file_that_changes_while_it_is_read(self):
        value = self.checkpoint()
        rows, path = checkpoint.SafetensorsSource.rows, shard(value)

        def meddle(source, name, first, last):
            if name == "model.norm.weight":
                with path.open("r+b") as file:
                    file.seek(-1, 2)
                    last_byte = file.read(1)
                    file.seek(-1, 2)
                    file.write(bytes([last_byte[0] ^ 1]))
            return rows(source, name, first, last)

        with mock.patch.object(checkpoint.SafetensorsSource, "rows", meddle):
            self.fail_with(value, "weights", "changed while it was read", stage="quantize")
