"""Tests of the export worker: `python -m unittest discover -s tests -t .` with the locked venv.

Everything runs in one process, because importing the exporter costs more than most exports here.
"""
