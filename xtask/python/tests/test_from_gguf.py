"""A checkpoint from a GGUF: what comes out is what went in, and what cannot is refused by name."""

import json
import math
import struct
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file
from tokenizers import Tokenizer

from proofmark_worker import families
from proofmark_worker.architecture import parse_architecture
from proofmark_worker.checkpoint import SafetensorsSource
from proofmark_worker.tensors import AFTER_ATTENTION, AFTER_FFN, KEY_NORM, QUERY_NORM, demanded

from .support import ARCHITECTURE, Case, weights

ARCH = {**ARCHITECTURE, "rope_scaling": None}
SPECIAL = ["<|begin|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["a b", "ab c", "Ġ t", "Ġt h", "Ġth e"]


def vocabulary(size: int) -> list[str]:
    """Three special tokens, every byte, the merged words, and words that no merge reaches."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in visible]
    letters += [chr(256 + index) for index in range(256 - len(visible))]
    words = [merge.replace(" ", "") for merge in MERGES]
    known = SPECIAL + letters + words
    return known + [f"filler{index}" for index in range(size - len(known))]


def turn(tensor, heads: int):
    """From halves of a head to pairs of neighbours: what llama.cpp's converter does to q and k."""
    rows, width = tensor.shape
    return tensor.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def as_stored(name: str, tensor, arch: dict):
    """A tensor of a checkpoint in the order of rows that a GGUF has."""
    heads = {"q_proj": arch["heads"], "k_proj": arch["kv_heads"]}.get(name.split(".")[-2])
    return tensor if heads is None else turn(tensor, heads).contiguous()


NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def named(name: str) -> str:
    outside = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in outside:
        return outside[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def metadata(arch: dict) -> dict:
    return {
        "llama.block_count": arch["layers"],
        "llama.context_length": 2048,
        "llama.embedding_length": arch["dim"],
        "llama.feed_forward_length": arch["ffn"],
        "llama.attention.head_count": arch["heads"],
        "llama.attention.head_count_kv": arch["kv_heads"],
        "llama.attention.key_length": arch["head_dim"],
        "llama.attention.value_length": arch["head_dim"],
        "llama.attention.layer_norm_rms_epsilon": arch["norm_eps"],
        "llama.rope.dimension_count": arch["head_dim"],
        "llama.rope.freq_base": arch["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": vocabulary(arch["vocab"]),
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (arch["vocab"] - len(SPECIAL)),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": "{{ messages }}",
    }


def add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    else:
        kinds = {str: writer.add_string, bool: writer.add_bool, float: writer.add_float32}
        kinds.get(type(value), writer.add_uint32)(key, value)


def write(path: Path, arch: dict, tensors: dict, *, kind: Kind, keys: dict, family: str) -> None:
    """A GGUF by the public package's own writer; vectors are F32, as llama.cpp's converter does."""
    writer = gguf.GGUFWriter(path, family)
    for key, value in keys.items():
        add(writer, key, value)
    for name, tensor in tensors.items():
        of = kind if tensor.dim() == 2 else Kind.F32
        data = gguf.quants.quantize(as_stored(name, tensor, arch).numpy(), of)
        writer.add_tensor(named(name), data, raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class FromGguf(Case):
    def made(self, kind=Kind.F32, keys=None, change=None, gguf_family="llama", **arch) -> dict:
        """A request for a fresh GGUF; `keys` changes its metadata (`None` removes a key) and
        `change(tensors)` its tensors."""
        directory, shape = self.directory(), {**ARCH, **arch}
        tensors = weights(shape)
        if change is not None:
            change(tensors)
        found = {**metadata(shape), **(keys or {})}
        found = {key: value for key, value in found.items() if value is not None}
        write(directory / "model.gguf", shape, tensors, kind=kind, keys=found, family=gguf_family)
        (directory / "out").mkdir()
        return {
            "protocol": 1,
            "task": "from-gguf",
            "gguf": str(directory / "model.gguf"),
            "architecture": shape,
            "bos_id": 1,
            "eos_ids": [2],
            "tokenizer": "tokenizer.json",
            "dir": str(directory / "out"),
            "response": str(directory / "response.json"),
        }

    def refused(self, value: dict, *parts: str) -> None:
        _, response, log = self.run_request(value)
        self.assertEqual((response["ok"], response.get("kind")), (False, "gguf"), log[-2000:])
        self.assertEqual(response["stage"], "preflight", response)
        for part in parts:
            self.assertIn(part, response["error"])
        self.assertNotIn("\n", response["error"])
        self.assertFalse((Path(value["dir"]) / "model.safetensors").exists())


class Weights(FromGguf):
    def test_floats_come_back_bit_for_bit(self):
        for kind, dtype in (
            (Kind.F32, torch.float32),
            (Kind.F16, torch.float16),
            (Kind.BF16, torch.bfloat16),
        ):
            with self.subTest(kind=kind.name):
                value = self.made(kind)
                self.succeed(value)
                got, wanted = load_file(Path(value["dir"]) / "model.safetensors"), weights(ARCH)
                self.assertEqual(got.keys(), wanted.keys())
                for name, tensor in wanted.items():
                    expected = tensor.to(dtype) if tensor.dim() == 2 else tensor
                    self.assertTrue(torch.equal(got[name], expected), name)

    def test_blocks_come_back_as_the_halves_nearest_to_them(self):
        for kind in (Kind.Q8_0, Kind.Q4_1, Kind.Q5_0):
            with self.subTest(kind=kind.name):
                value = self.made(kind)
                self.succeed(value)
                got = load_file(Path(value["dir"]) / "model.safetensors")
                for name, tensor in weights(ARCH).items():
                    if tensor.dim() == 2:
                        # A row is quantized by itself: the order of rows does not matter to it.
                        blocks = gguf.quants.quantize(tensor.numpy(), kind)
                        wanted = gguf.quants.dequantize(blocks, kind).astype(np.float16)
                        self.assertTrue(np.array_equal(got[name].numpy(), wanted), name)

    def test_a_head_of_its_own_and_chunks_of_some_rows(self):
        from proofmark_worker.from_gguf import weights as module

        value, before = self.made(Kind.F32, tied=False), module.CHUNK_ELEMENTS
        self.addCleanup(setattr, module, "CHUNK_ELEMENTS", before)
        module.CHUNK_ELEMENTS = 100
        self.succeed(value)
        got = load_file(Path(value["dir"]) / "model.safetensors")
        for name, tensor in weights({**ARCH, "tied": False}).items():
            self.assertTrue(torch.equal(got[name], tensor), name)

    def test_llama_3s_scaling_is_held_against_the_files_factors(self):
        from proofmark_worker.from_gguf.weights import _rope_factors
        from proofmark_worker.protocol import parse_architecture

        shape = {**ARCH, "rope_scaling": ARCHITECTURE["rope_scaling"]}
        factors = torch.tensor(_rope_factors(parse_architecture(shape)))
        for scale, parts in ((1.0, ()), (1.01, ("other factors",))):
            value = self.made(rope_scaling=shape["rope_scaling"])
            path = Path(value["gguf"])
            self.with_factors(path, shape, factors * scale)
            if parts:
                self.refused(value, *parts)
            else:
                self.succeed(value)
                config = json.loads((Path(value["dir"]) / "config.json").read_text())
                self.assertEqual(config["rope_scaling"]["factor"], 4.0)
        self.refused(self.made(rope_scaling=shape["rope_scaling"]), "rotary scaling: got none")
        value = self.made()
        self.with_factors(Path(value["gguf"]), ARCH, factors)
        self.refused(value, "rotary scaling: got rope_freqs.weight")

    def with_factors(self, path: Path, arch: dict, factors) -> None:
        path.unlink()
        writer = gguf.GGUFWriter(path, "llama")
        for key, value in metadata(arch).items():
            add(writer, key, value)
        for name, tensor in weights(arch).items():
            writer.add_tensor(named(name), as_stored(name, tensor, arch).numpy())
        writer.add_tensor("rope_freqs.weight", factors.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


class Words(FromGguf):
    def folder(self, **keys) -> Path:
        value = self.made(keys=keys)
        self.succeed(value)
        return Path(value["dir"])

    def test_the_folder_is_a_checkpoint(self):
        folder = self.folder()
        names = sorted(path.name for path in folder.iterdir())
        self.assertEqual(
            names,
            [
                "chat_template.jinja",
                "config.json",
                "generation_config.json",
                "model.safetensors",
                "tokenizer.json",
                "tokenizer_config.json",
            ],
        )
        config = json.loads((folder / "config.json").read_text())
        self.assertEqual((config["rms_norm_eps"], config["eos_token_id"]), (1e-5, 2))
        self.assertEqual((folder / "chat_template.jinja").read_text(), "{{ messages }}")
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        self.assertEqual(
            (settings["bos_token"], settings["eos_token"]), ("<|im_start|>", "<|im_end|>")
        )

    def test_kinds_of_pre_tokenizers(self):
        for pre, wanted in (("gpt-2", ["12"]), ("smollm", ["1", "2"]), ("llama-bpe", ["12"])):
            with self.subTest(pre=pre):
                folder = self.folder(**{"tokenizer.ggml.pre": pre})
                it = Tokenizer.from_file(str(folder / "tokenizer.json"))
                cut = [word for word, _ in it.pre_tokenizer.pre_tokenize_str("12")]
                self.assertEqual(cut, wanted)
                ids = it.encode("<|im_start|>abc the", add_special_tokens=False)
                self.assertEqual(ids.tokens, ["<|im_start|>", "abc", "Ġthe"])
                self.assertEqual(
                    it.decode(ids.ids, skip_special_tokens=False), "<|im_start|>abc the"
                )
                # Llama 3's own file begins a text with its first token.
                first = it.encode("a").tokens
                self.assertEqual(first, ["<|im_start|>", "a"] if pre == "llama-bpe" else ["a"])

    def test_every_token_that_ends_a_reply(self):
        value = self.made(keys={"tokenizer.ggml.eot_token_id": 0})
        value["eos_ids"] = [2, 0]
        self.succeed(value)
        generation = json.loads((Path(value["dir"]) / "generation_config.json").read_text())
        self.assertEqual(generation["eos_token_id"], [2, 0])

    def test_tokenizers_that_cannot_be_rebuilt(self):
        tokens = vocabulary(ARCH["vocab"])
        for keys, *parts in (
            ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model: got 'llama'"),
            (
                {"tokenizer.ggml.pre": "deepseek-llm"},
                "tokenizer.ggml.pre: got 'deepseek-llm'",
                "gpt-2, gpt2, llama",
            ),
            ({"tokenizer.ggml.pre": None}, "got None"),
            ({"tokenizer.ggml.add_space_prefix": True}, "add_space_prefix"),
            ({"tokenizer.ggml.tokens": tokens[:-1]}, "got 1023, expected the recipe's vocabulary"),
            ({"tokenizer.ggml.tokens": [*tokens[:-1], "a"]}, "a token twice"),
            ({"tokenizer.ggml.token_type": [6] * ARCH["vocab"]}, "tokens of type 6"),
            ({"tokenizer.ggml.merges": ["a nothing"]}, "tokenizer: "),
            ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges: got none"),
            ({"tokenizer.ggml.eos_token_id": None}, "no eos_token_id"),
            ({"tokenizer.ggml.bos_token_id": 5000}, "expected a token below 1024"),
            ({"tokenizer.chat_template": 7}, "tokenizer.chat_template: got int"),
        ):
            with self.subTest(keys=[*keys]):
                self.refused(self.made(keys=keys), *parts)


class Families(FromGguf):
    """Files as llama.cpp's converter writes them: names, order of rows, and gains with the 1."""

    NORMS = MappingProxyType({QUERY_NORM: "attn_q_norm", KEY_NORM: "attn_k_norm"})
    SHAPES = MappingProxyType(
        {
            "qwen2": {"qkv_bias": True},
            "qwen3": {"qk_norm": True, "head_dim": 64, "rotary_dim": 64},
            "mistral": {"window": 4096},
            "smollm3": {"layers": 4, "layer_kinds": ["global"] * 3 + ["unrotated"]},
            "gemma3": {
                "qk_norm": True,
                "post_norms": True,
                "activation": "gelu-tanh",
                "embedding_scale": math.sqrt(96),
                "attention_scale": 0.25,
                "gain_offset": 1.0,
                "layer_kinds": ["local", "global"],
                "local_rope_theta": 1000.0,
                "window": 512,
            },
        }
    )

    def stored(self, arch, tensors: dict) -> dict:
        """The tensors of a GGUF, by name: rows and gains as the file has them."""
        post = {AFTER_ATTENTION: "post_attention_norm", AFTER_FFN: "post_ffw_norm"}
        names = {**NAMES, **self.NORMS, **post}
        turned = families.ALL[arch.family].gguf_turned
        found = {}
        for tensor in demanded(arch):
            data, end = tensors[tensor.name], tensor.name.rsplit(".", 1)[1]
            if tensor.name.startswith("model.layers."):
                _, _, layer, part = tensor.name.removesuffix(f".{end}").split(".", 3)
                name = f"blk.{layer}.{names[part]}.{end}"
                if turned and part.endswith(("q_proj", "k_proj")):
                    data = turn(data, arch.heads if "q_proj" in part else arch.kv_heads)
            else:
                name = named(tensor.name)
            found[name] = data.contiguous()
        return found

    def test_a_checkpoint_of_every_family_comes_back(self):
        for family, shape in self.SHAPES.items():
            with self.subTest(family=family):
                value = self.made(**{**shape, "family": family})
                arch = parse_architecture(value["architecture"])
                generator = torch.Generator().manual_seed(5)
                tensors = {
                    it.name: torch.randn(it.shape, generator=generator) for it in demanded(arch)
                }
                prefix = families.ALL[family].gguf
                keys = {
                    key.replace("llama.", f"{prefix}.", 1) if key.startswith("llama.") else key: it
                    for key, it in metadata(value["architecture"]).items()
                }
                stored, writer = self.stored(arch, tensors), gguf.GGUFWriter(value["gguf"], prefix)
                for key, it in keys.items():
                    add(writer, key, it)
                for name, tensor in stored.items():
                    writer.add_tensor(name, tensor.numpy())
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.write_tensors_to_file()
                writer.close()
                self.succeed_with(value)
                folder = Path(value["dir"])
                described = families.describe(json.loads((folder / "config.json").read_text()), 64)
                self.assertEqual(parse_architecture(described), arch)
                source = SafetensorsSource(folder, arch)
                for it in demanded(arch):
                    got = source.rows(it.name, 0, it.shape[0])
                    want = tensors[it.name] * it.factor
                    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6, msg=it.name)

    def succeed_with(self, value: dict) -> None:
        _, response, log = self.run_request(value)
        self.assertTrue(response["ok"], f"{response}\n{log[-2000:]}")

    def test_what_gguf_has_not_whole_is_refused_by_name(self):
        value = self.made()
        value["architecture"] = {**value["architecture"], "family": "phi3", "fused": True}
        self.refused(value, "general.architecture: got a recipe of family phi3")


class Refusals(FromGguf):
    def test_what_the_worker_has_not(self):
        self.refused(self.made(gguf_family="qwen2"), "general.architecture: got 'qwen2'")
        for key, value in (
            ("llama.expert_count", 8),
            ("llama.rope.scaling.factor", 2.0),
            ("llama.logit_scale", 0.5),
            ("llama.rope.scaling.type", "linear"),
            ("llama.rope.dimension_count", 16),
            ("llama.attention.value_length", 16),
            ("llama.attention.head_count", 0),
            ("llama.block_count", "two"),
        ):
            with self.subTest(key=key):
                self.refused(self.made(keys={key: value}), key)

    def test_another_model_than_the_recipes(self):
        for keys in (
            {"llama.rope.freq_base": 500000.0},
            {"llama.attention.layer_norm_rms_epsilon": 1e-6},
            {"tokenizer.ggml.bos_token_id": 0},
            {"tokenizer.ggml.eot_token_id": 0},
        ):
            with self.subTest(keys=keys):
                self.refused(self.made(keys=keys), "expected")
        self.refused({**self.made(), "architecture": {**ARCH, "layers": 3}}, "missing")
        self.refused({**self.made(), "architecture": {**ARCH, "layers": 1}}, "unexpected tensor")
        self.refused({**self.made(), "architecture": {**ARCH, "ffn": 192}}, "expected [192, 96]")
        self.refused(
            {**self.made(), "architecture": {**ARCH, "tied": False}}, "lm_head.weight: missing"
        )
        self.refused({**self.made(tied=False), "architecture": ARCH}, "a head of its own")

    def test_weights_that_are_none(self):
        for bad in (float("nan"), float("inf")):
            value = self.made(change=lambda t, bad=bad: t["model.norm.weight"].fill_(bad))
            _, response, _ = self.run_request(value)
            self.assertIn("output_norm.weight: got a weight that is not finite", response["error"])

    def test_a_type_that_cannot_be_dequantized(self):
        value = self.made()
        path = Path(value["gguf"])
        raw = bytearray(path.read_bytes())
        name = b"blk.0.attn_q.weight"
        at = raw.index(name) + len(name) + 4 + 16
        raw[at : at + 4] = struct.pack("<I", 777)
        path.write_bytes(raw)
        self.refused(value, "blk.0.attn_q.weight: got type 777")

    def test_it_is_no_gguf(self):
        for content in (
            b"",
            b"GGUF",
            b"PK\x03\x04" + bytes(100),
            b"GGUF" + struct.pack("<I", 2) + bytes(99),
        ):
            value = self.made()
            Path(value["gguf"]).write_bytes(content)
            self.refused(value)
        value = self.made()
        Path(value["gguf"]).unlink()
        self.refused(value, "no such file")

    def test_cut_anywhere_it_is_refused(self):
        value = self.made()
        path, out = Path(value["gguf"]), Path(value["dir"])
        whole = path.read_bytes()
        cuts = [4, 8, 16, 24, 31, 100, 1000, 5000, 20000, len(whole) // 2, len(whole) - 1]
        for cut in cuts:
            with self.subTest(cut=cut):
                path.write_bytes(whole[:cut])
                self.refused(value)
                for left in out.iterdir():
                    left.unlink()

    def test_counts_that_lie(self):
        value = self.made()
        path, out = Path(value["gguf"]), Path(value["dir"])
        whole = path.read_bytes()
        merges = whole.index(b"tokenizer.ggml.merges") + len("tokenizer.ggml.merges") + 8
        for at in (8, 16, 24, merges):
            for lie in (1 << 63, (1 << 64) - 1, 1 << 40, 1 << 21):
                with self.subTest(at=at, lie=lie):
                    path.write_bytes(whole[:at] + struct.pack("<Q", lie) + whole[at + 8 :])
                    self.refused(value)
                    for left in out.iterdir():
                        left.unlink()

    def test_tensors_that_overlap_or_lie_outside(self):
        value = self.made()
        path, out = Path(value["gguf"]), Path(value["dir"])
        whole, name = path.read_bytes(), b"blk.1.ffn_up.weight"
        at = whole.index(name) + len(name) + 4 + 16 + 4
        for offset, part in (
            (0, "lies within"),
            (1 << 62, "ends at byte"),
            (len(whole), "ends at byte"),
        ):
            path.write_bytes(whole[:at] + struct.pack("<Q", offset) + whole[at + 8 :])
            self.refused(value, part)
            for left in out.iterdir():
                left.unlink()

    def test_no_byte_of_the_head_makes_it_crash(self):
        value = self.made(layers=1)
        path, out = Path(value["gguf"]), Path(value["dir"])
        whole = path.read_bytes()
        head = whole.index(b"tokenizer.ggml.tokens") + 200
        for at in range(0, head, 7):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            _, response, log = self.run_request(value)
            if not response["ok"]:
                self.assertEqual(response["kind"], "gguf", f"byte {at}: {response}\n{log[-1500:]}")
            for left in out.iterdir():
                left.unlink()
