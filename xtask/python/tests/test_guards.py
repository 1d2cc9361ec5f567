"""Each guard must fire when what it guards against happens. The faults are put in by hand."""

import contextlib
import unittest
from pathlib import Path
from unittest import mock

import torch

from proofmark_worker import guards, lower, partition, protocol, reference, upstream, worker

from .support import Case, request


class Delegates(Case):
    def broken_partitions(self, change):
        whole = partition.LevelPartitioner.generate_partitions

        def generate(partitioner, ep):
            return change(whole(partitioner, ep))

        return mock.patch.object(partition.LevelPartitioner, "generate_partitions", generate)

    def test_a_part_that_is_not_delegated(self):
        value = request(self.directory(), quantization="fp32")
        with self.broken_partitions(lambda found: found[:-1]):
            self.fail_with(value, "delegate", "was not decomposed or delegated", stage="partition")

    def test_a_delegate_that_falls_apart(self):
        """As if upstream had stopped delegating one cheap operator in the middle."""

        def change(found):
            silent = next(n for n in found[1].nodes if "sigmoid" in str(n.target))
            found[1].nodes = [n for n in found[1].nodes if n is not silent]
            return found

        with self.broken_partitions(change):
            code, response, _ = self.run_request(request(self.directory(), quantization="fp32"))
        self.assertEqual((code, response["stage"]), (1, "partition"))

    def test_counts(self):
        ask = protocol.parse_request(request(self.directory()))
        want = guards.expected(ask)
        self.assertEqual((want.partitions, want.linears), (3, 15))
        good = guards.Census(partitions=3, empty=0, delegated=15, quantized=15)
        guards.check_census(ask, want, good)
        for change, name in (
            ({"partitions": 4}, "partitions"),
            ({"empty": 1}, "empty delegates"),
            ({"delegated": 14}, "delegated linears"),
            ({"quantized": 14}, "quantized linears"),
        ):
            with self.subTest(name=name), self.assertRaises(protocol.WorkerError) as caught:
                guards.check_census(ask, want, guards.Census(**{**good.__dict__, **change}))
            self.assertIn(name, caught.exception.error)

    def test_an_unquantized_linear_is_seen(self):
        from proofmark_worker import model

        with mock.patch.object(model, "fake_quantize", lambda x: x):
            self.fail_with(request(self.directory()), "delegate", stage="partition")

    def test_an_empty_delegate_is_seen(self):
        from executorch.backends.xnnpack import xnnpack_preprocess

        with mock.patch.object(xnnpack_preprocess, "serialize_xnnpack_binary", lambda *_: b""):
            self.fail_with(request(self.directory()), "delegate", "empty delegates: got 3")

    def test_what_the_recipe_expects_is_compared_before_any_work(self):
        value = request(self.directory(), expected_delegated_linears=14)
        self.fail_with(value, "request", "give 15, recipe expects 14", stage="preflight")


class Upstream(Case):
    def test_other_versions_are_refused(self):
        for name in upstream.PINNED:
            with self.subTest(name=name), mock.patch.dict(upstream.PINNED, {name: "0.0.1"}):
                self.fail_with(request(self.directory()), "version", name, "expected 0.0.1")

    def test_a_patch_without_a_target_is_an_error(self):
        with (
            self.assertRaises(protocol.WorkerError) as caught,
            upstream._replaced(upstream.Tie, "gone", None),
        ):
            pass
        self.assertIn("Tie.gone", caught.exception.error)

    def test_patches_are_taken_back(self):
        from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
        from executorch.exir._serialize import _program
        from executorch.exir._serialize._named_data_store import NamedDataStore

        def state():
            return (
                XnnpackBackend.copy_exported_program_for_preprocess.__func__,
                NamedDataStore.add_named_data,
                _program._extract_named_data,
                _program._program_to_flatbuffer,
            )

        before = state()
        low_memory, tie = upstream.LowMemory(self.directory(), {}), upstream.Tie()
        with low_memory.applied(), tie.applied():
            self.assertFalse(any(a is b for a, b in zip(before, state(), strict=True)))
        self.assertEqual(state(), before)

    def test_a_patch_that_took_no_effect_is_an_error(self):
        @contextlib.contextmanager
        def nothing(patch):
            yield patch

        big = {"ffn": 1024}
        for owner, part in (
            (upstream.LowMemory, "constants shared for 0 of 3"),
            (upstream.Tie, "tied matrix: saved 0 bytes, expected 98304"),
        ):
            with self.subTest(part=part), mock.patch.object(owner, "applied", nothing):
                self.fail_with(request(self.directory(), architecture=big), "version", part)

    def test_weights_that_are_not_in_files_are_an_error(self):
        low_memory = upstream.LowMemory(self.directory(), {})
        low_memory.shared_programs, low_memory.in_files = 3, 7
        low_memory.check(3, 7)
        for delegates, large in ((4, 7), (3, 8)):
            with self.assertRaises(protocol.WorkerError):
                low_memory.check(delegates, large)


class Output(Case):
    def test_size_limits(self):
        for change, part in (
            ({"file_bytes_max": 1000}, "1 to 1000"),
            ({"file_bytes_min": 1 << 30}, ""),
        ):
            with self.subTest(change=change):
                value = request(self.directory(), **change)
                self.fail_with(value, "size", "expected", part, stage="check")

    def test_a_file_that_is_not_the_format(self):
        path = self.directory() / "x.pte"
        header = bytearray(64)
        header[4:12] = b"ET12eh00"
        header[24:32] = (40).to_bytes(8, "little")
        header[32:40] = (24).to_bytes(8, "little")
        path.write_bytes(header)
        self.assertEqual(guards.check_file(path, 1, 100), 64)
        for at, byte in ((4, 0), (8, 0), (24, 41), (32, 25)):
            broken = bytearray(header)
            broken[at] = byte
            path.write_bytes(broken)
            with self.subTest(at=at), self.assertRaises(protocol.WorkerError) as caught:
                guards.check_file(path, 1, 100)
            self.assertEqual(caught.exception.kind, "format")

    def test_a_reference_that_says_nothing(self):
        good = torch.randn(2, 8)
        reference.check_logits(good)
        for bad in (torch.full((2, 8), 0.5), good.where(good != good[0, 0], torch.nan)):
            with self.assertRaises(protocol.WorkerError):
                reference.check_logits(bad)

    def test_no_room_on_disk(self):
        usage = mock.Mock(free=1000)
        with mock.patch("proofmark_worker.worker.shutil.disk_usage", return_value=usage):
            self.fail_with(request(self.directory()), "disk", "1000 bytes free")

    def test_out_of_memory_has_its_own_name(self):
        for cause in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
            with mock.patch.object(lower, "export", side_effect=cause):
                self.fail_with(request(self.directory()), "memory", stage="export")

    def test_anything_else_is_internal_and_leaves_nothing(self):
        with mock.patch.object(lower, "export", side_effect=ValueError("two\nlines")):
            self.fail_with(request(self.directory()), "internal", "two", stage="export")
        with mock.patch.object(lower, "export", side_effect=PermissionError(13, "denied", "/x")):
            self.fail_with(request(self.directory()), "io", "denied", stage="export")

    def test_outputs_of_an_earlier_run_do_not_survive_a_failure(self):
        value = request(self.directory())
        Path(value["pte"]).write_bytes(b"old")
        with mock.patch.object(lower, "export", side_effect=ValueError("x")):
            self.fail_with(value, "internal")


class Kinds(unittest.TestCase):
    """By the kind the supervisor decides whether another attempt can help."""

    def test_what_the_machine_did_has_a_name(self):
        for cause, kind in (
            (MemoryError(), "memory"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory"),
            (OSError(28, "No space left on device"), "disk"),
            (RuntimeError("write failed: No space left on device"), "disk"),
            (OSError(5, "Input/output error"), "io"),
            (TypeError("a bug"), "internal"),
            (protocol.WorkerError("weights", "not finite"), "weights"),
        ):
            self.assertEqual(worker._failure(cause)["kind"], kind)
