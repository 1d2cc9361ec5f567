"""Programs of single operators are exported each by itself."""

import os
import unittest
from pathlib import Path
from unittest import mock

from operators import programs


class Isolated(unittest.TestCase):
    def test_an_exporter_that_dies_costs_its_own_programs_and_no_others(self):
        def export(operator, folder):
            if operator == "aten::dies":
                os._exit(7)
            return [str(folder / operator)], ""

        with mock.patch.object(programs, "export", export):
            dead = programs.isolated("aten::dies", Path("x"))
            alive = programs.isolated("aten::lives", Path("x"))
        self.assertEqual(dead, ([], "the exporter died: exit code 7"))
        self.assertEqual(alive, (["x/aten::lives"], ""))

    def test_an_exporter_that_works_without_end_is_ended(self):
        def export(*_):
            while True:
                pass

        with (
            mock.patch.object(programs, "export", export),
            mock.patch.object(programs, "CPU_SECONDS_MAX", 1),
        ):
            endless = programs.isolated("aten::endless", Path("x"))
        self.assertEqual(endless, ([], "the exporter did not end in 1 s of a processor"))

    def test_what_an_exporter_raises_is_the_reason(self):
        raising = mock.Mock(side_effect=ValueError("no such guess"))
        with mock.patch.object(programs, "attempts", raising):
            files, why = programs.export("aten::mm.out", Path("x"))
        self.assertEqual((files, why), ([], "ValueError: no such guess"))
