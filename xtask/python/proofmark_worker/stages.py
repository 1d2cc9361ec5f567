"""Stages: announcement, time and peak memory of each.

**Invariant:** a stage's peaks are its own: the kernel's high-water mark is reset between stages
where it can be, and the sampler runs for the whole life of the worker.
"""

import resource
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from .protocol import emit

STAGES = (
    "preflight",
    "digest",
    "import",
    "calibrate",
    "quantize",
    "reference",
    "export",
    "partition",
    "lower",
    "write",
    "check",
)
SAMPLE_SECONDS = 0.02
PROGRESS_SECONDS = 0.2
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def memory() -> dict[str, int]:
    """Bytes by /proc/self/status name; empty where there is no such file."""
    try:
        text = _STATUS.read_text()
    except OSError:
        return {}
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmHWM", "VmRSS", "RssAnon", "RssFile"):
            found[name] = int(rest.split()[0]) * 1024
    return found


def _lifetime_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Stages:
    def __init__(self) -> None:
        self.done: list[dict] = []
        self.current: str | None = None
        self._anon = 0
        self._rss = 0
        self._last_progress = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _observe(self) -> None:
        now = memory()
        self._anon = max(self._anon, now.get("RssAnon", 0))
        self._rss = max(self._rss, now.get("VmRSS", 0))

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._observe()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    @contextmanager
    def stage(self, name: str):
        self.current = name
        emit({"event": "stage", "stage": name, "index": STAGES.index(name), "of": len(STAGES)})
        resettable = True
        try:
            _CLEAR.write_text("5")
        except OSError:
            resettable = False
        self._anon = self._rss = 0
        self._observe()
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            self._observe()
            high = memory().get("VmHWM", 0) if resettable else 0
            self.done.append(
                {
                    "name": name,
                    "seconds": round(seconds, 3),
                    "peak_rss_bytes": max(high, self._rss) or _lifetime_peak(),
                    "peak_anon_bytes": self._anon or _lifetime_peak(),
                }
            )
        self.current = None

    def progress(self, done: int, total: int) -> None:
        """Rate-limited, except for the last one."""
        now = time.monotonic()
        if done < total and now - self._last_progress < PROGRESS_SECONDS:
            return
        self._last_progress = now
        emit({"event": "progress", "stage": self.current, "done": done, "total": total})
