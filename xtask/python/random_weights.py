"""The weights of a rehearsal as raw little-endian fp32 on standard output, tensor by tensor.

The GGUF of a rehearsal is made of the very numbers that its `.pte` is made of: both come from the
worker's seeded generator.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from proofmark_worker.architecture import parse_architecture
from proofmark_worker.checkpoint import RandomSource

CHUNK_ELEMENTS = 1 << 20


def main() -> None:
    request = json.loads(sys.argv[1])
    source = RandomSource(request["seed"], parse_architecture(request["architecture"]))
    for name in request["names"]:
        shape = source.tensors[name].shape
        step = max(1, CHUNK_ELEMENTS // (shape[1] if len(shape) > 1 else 1))
        for first in range(0, shape[0], step):
            rows = source.rows(name, first, min(first + step, shape[0]))
            sys.stdout.buffer.write(rows.contiguous().numpy().tobytes())
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
