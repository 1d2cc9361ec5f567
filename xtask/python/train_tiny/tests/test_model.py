"""The network: Hugging Face names and shapes, rotary form, cache, learning, and resuming a killed
run."""

import json
import tempfile
import unittest
from pathlib import Path

import torch
from safetensors import safe_open

import chat
import train
from model import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    Llama,
    Shape,
    load_checkpoint,
    rotate,
    save_checkpoint,
    write_atomic,
)

SMALL = Shape(vocab=64, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn=64, seq_max=32)


def small_model() -> Llama:
    model = Llama(SMALL)
    # larger than the initialisation of a training, so that errors are larger than rounding
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


class Layout(unittest.TestCase):
    def test_names_and_shapes(self):
        s = Shape()
        expected = {"model.embed_tokens.weight": (s.vocab, s.dim), "model.norm.weight": (s.dim,)}
        for i in range(s.layers):
            p = f"model.layers.{i}."
            expected |= {
                p + "input_layernorm.weight": (s.dim,),
                p + "post_attention_layernorm.weight": (s.dim,),
                p + "self_attn.q_proj.weight": (s.heads * s.head_dim, s.dim),
                p + "self_attn.k_proj.weight": (s.kv_heads * s.head_dim, s.dim),
                p + "self_attn.v_proj.weight": (s.kv_heads * s.head_dim, s.dim),
                p + "self_attn.o_proj.weight": (s.dim, s.heads * s.head_dim),
                p + "mlp.gate_proj.weight": (s.ffn, s.dim),
                p + "mlp.up_proj.weight": (s.ffn, s.dim),
                p + "mlp.down_proj.weight": (s.dim, s.ffn),
            }
        self.assertEqual({n: tuple(t.shape) for n, t in Llama(s).state_dict().items()}, expected)

    def test_sizes_suit_the_quantizer(self):
        s = Shape()
        for size in (s.dim, s.ffn, s.heads * s.head_dim, s.kv_heads * s.head_dim):
            self.assertEqual(size % 32, 0)
        self.assertEqual(s.heads % s.kv_heads, 0)
        self.assertEqual(s.head_dim % 2, 0)

    def test_checkpoint_round_trip(self):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            model = Llama(Shape())
            model.init_weights(torch.Generator().manual_seed(3))
            save_checkpoint(model, out)
            config = model.shape.to_hf(chat.BEGIN_ID, chat.END_ID, chat.PAD_ID)
            (out / CONFIG_NAME).write_text(json.dumps(config), encoding="utf-8")
            self.assertLessEqual((out / CHECKPOINT_NAME).stat().st_size, 4_000_000)
            with safe_open(out / CHECKPOINT_NAME, framework="pt") as handle:
                self.assertEqual(
                    {handle.get_tensor(n).dtype for n in Llama(Shape()).state_dict()},
                    {torch.bfloat16},
                )
            loaded = load_checkpoint(out)
            self.assertEqual(loaded.shape, model.shape)
            for name, tensor in model.state_dict().items():
                self.assertTrue(
                    torch.equal(loaded.state_dict()[name], tensor.bfloat16().float()), name
                )

    def test_write_is_all_or_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            path.write_text("old", encoding="utf-8")

            def fail(tmp):
                tmp.write_text("ha", encoding="utf-8")
                raise OSError("no space")

            with self.assertRaises(OSError):
                write_atomic(path, fail)
            self.assertEqual(path.read_text(encoding="utf-8"), "old")

    def test_config_refuses_what_the_model_lacks(self):
        config = Shape().to_hf(0, 1, 5)
        for change in ({"tie_word_embeddings": False}, {"rope_scaling": {"rope_type": "llama3"}}):
            with self.assertRaises(ValueError):
                Shape.from_hf(config | change)


class Network(unittest.TestCase):
    def test_rotation_pairs_the_halves(self):
        """Against complex multiplication of (x[i], x[i + half])."""
        x = torch.randn(1, 1, 3, 8, generator=torch.Generator().manual_seed(2))
        angles = torch.outer(torch.arange(3.0), 1.0 / 10000 ** (torch.arange(0, 8, 2) / 8))
        double = torch.cat((angles, angles), -1)
        pairs = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
        expected = torch.cat((pairs.real, pairs.imag), -1)
        self.assertTrue(torch.allclose(rotate(x, double.cos(), double.sin()), expected, atol=1e-6))

    def test_cache_agrees_with_the_whole(self):
        model = small_model()
        ids = torch.randint(0, 64, (1, 20), generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            whole = model(ids)
            for cuts in ([1] * 20, [7, 1, 12], [20], [1, 19]):
                cache, parts, at = model.new_cache(), [], 0
                for size in cuts:
                    parts.append(model(ids[:, at : at + size], cache))
                    at += size
                self.assertTrue(torch.allclose(torch.cat(parts, 1), whole, atol=1e-4), cuts)

    def test_no_look_ahead(self):
        model = small_model()
        ids = torch.randint(0, 64, (1, 12), generator=torch.Generator().manual_seed(6))
        other = ids.clone()
        other[0, 8:] = (other[0, 8:] + 1) % 64
        with torch.no_grad():
            a, b = model(ids), model(other)
        self.assertTrue(torch.allclose(a[:, :8], b[:, :8], atol=1e-5))
        self.assertFalse(torch.allclose(a[:, 8:], b[:, 8:], atol=1e-2))

    def test_refuses_more_than_the_window(self):
        with self.assertRaises(ValueError):
            small_model()(torch.zeros(1, 33, dtype=torch.long))


class Training(unittest.TestCase):
    def run_training(self, folder: Path, steps: int, stop: int | None = None) -> dict:
        """A few real steps on the real data with a small network; with `stop`, killed there and resumed."""
        tokenizer = self.tokenizer
        shape = Shape(dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn=64)
        model = None
        every, train.STATE_EVERY = train.STATE_EVERY, 3
        self.addCleanup(setattr, train, "STATE_EVERY", every)
        for killed in [stop, None] if stop else [None]:
            model = Llama(shape)
            model.init_weights(torch.Generator().manual_seed(1))
            optimizer = train.Optimizer(model)
            state = train.State(folder / "state.safetensors", {"steps": steps})
            state.load(model, optimizer)
            stream = train.batch_stream(tokenizer, 1, shape)
            for _ in range(state.step):
                next(stream)
            if killed:
                stream = iter([next(stream) for _ in range(killed)])
                with self.assertRaises(StopIteration):
                    train.run_steps(steps, model, optimizer, stream, state)
            else:
                if stop:
                    self.assertEqual(state.step, stop - stop % 3)
                train.run_steps(steps, model, optimizer, stream, state)
        return model.state_dict()

    @classmethod
    def setUpClass(cls):
        cls.drills, train.DRILL_STEPS = train.DRILL_STEPS, 2
        cls.count, train.TOKENIZER_DIALOGUES = train.TOKENIZER_DIALOGUES, 4000
        cls.tokenizer = train.make_tokenizer(1, 1024)
        cls.pool, train.POOL_DIALOGUES = train.POOL_DIALOGUES, 64
        cls.threads = torch.get_num_threads()
        torch.set_num_threads(1)

    @classmethod
    def tearDownClass(cls):
        train.POOL_DIALOGUES, train.TOKENIZER_DIALOGUES = cls.pool, cls.count
        train.DRILL_STEPS = cls.drills
        torch.set_num_threads(cls.threads)

    def test_a_resumed_run_ends_in_the_same_weights(self):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            straight = self.run_training(Path(one), 8)
            resumed = self.run_training(Path(two), 8, stop=5)
        for name, tensor in straight.items():
            self.assertTrue(torch.equal(tensor, resumed[name]), name)

    def test_a_drill_asks_only_for_what_can_be_copied(self):
        generator = torch.Generator().manual_seed(2)
        for _ in range(30):
            ids, targets, weight = train.drill(generator, 1024)
            self.assertLessEqual(ids.numel(), train.BATCH_TOKENS)
            self.assertLessEqual(ids.shape[1], 512)
            self.assertGreaterEqual(int(ids.min()), len(chat.SPECIALS))
            for row in range(ids.shape[0]):
                for at in weight[row].nonzero().flatten().tolist():
                    before = (ids[row, :at] == ids[row, at]).nonzero().flatten().tolist()
                    self.assertIn(int(targets[row, at]), ids[row, [i + 1 for i in before]].tolist())

    def test_state_of_another_run_is_not_used(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "s"
            model = Llama(SMALL)
            optimizer = train.Optimizer(model)
            model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
            optimizer.step(1.0)
            written = train.State(path, {"seed": 1})
            written.step = 5
            written.save(model, optimizer)
            for key, step in (({"seed": 1}, 5), ({"seed": 2}, 0)):
                state = train.State(path, key)
                state.load(model, optimizer)
                self.assertEqual(state.step, step)


if __name__ == "__main__":
    unittest.main()
