"""Memory that was freed goes back to the system.

One stage's garbage is then not the next one's peak.
"""

import ctypes
import gc
import sys

# glibc's `M_MMAP_THRESHOLD`. Left alone it follows the blocks that are freed, up to 32 MB, and
# blocks of that size in the heap leave holes that nothing fits: 50 MB a layer of calibration. A
# chunk of fp32 weights (`quantize.CHUNK_ELEMENTS`) stays below it: new pages for each cost more
# than its arithmetic.
_THRESHOLD, _THRESHOLD_BYTES = -3, 5 << 20
# glibc's `M_TRIM_THRESHOLD`: so much may be free at a heap's end before it goes back. With the
# 128 KB that it has otherwise, the pages of nearly every chunk would be new.
_TRIM, _TRIM_BYTES = -1, 16 << 20


def _of_glibc(name: str):
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def map_large_blocks() -> None:
    """Each large block gets pages of its own, which go back as soon as it is freed."""
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_THRESHOLD, _THRESHOLD_BYTES)
        mallopt(_TRIM, _TRIM_BYTES)


def release() -> None:
    gc.collect()
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)
