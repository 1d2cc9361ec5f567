"""The fixed grid of an activation in two int8 rows.

XNNPACK quantizes each row by its least and its largest value, zero included, and gives nobody the
rounded values back. Whole numbers from 0 to 255 are their own codes if 255 is among them: then the
multiplier is exactly 1. So the first row is `floor(x + 128)` with one more column that is always
255 (and meets a weight of zero), and the second, exactly known, is what that leaves over.

**Invariant:** |x| <= 127 by construction, not by observation. After a norm `|x| <= sqrt(n) * gain`;
where nothing bounds it, x is divided by its root mean square first.
**Invariant:** a step of the grid is a power of two, so that to fold it changes no bit.
"""

import math

SHIFT = 128.0
WIDEST = 255.0
REACH = 127.0
# Keeps the inverse of a row of zeros finite; far below any activation's square.
TINY = 1e-20


def step_for(bound: float) -> float:
    """The least power of two of which 127 reach `bound`."""
    return 2.0 ** math.ceil(math.log2(max(bound, 2.0**-60) / REACH))


def unit_step(width: int) -> float:
    """Of a row of `width` values divided by its root mean square."""
    return step_for(math.sqrt(width))
