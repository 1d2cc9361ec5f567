"""A `.pte` in upstream's Python runtime: `runner.py REQUEST` writes the speeds to `response`.

The work is that of `engine bench`: `prefill` tokens in chunks, and `decode` single tokens after the
first one. Logits are not copied, and tensors of single tokens are made beforehand: only the
runtime's own work is timed, in tokens per second.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def load(path: str, threads: int):
    import executorch.kernels.quantized  # noqa: F401
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
    from executorch.extension.pybindings import portable_lib

    portable_lib._unsafe_reset_threadpool(threads)
    used = portable_lib._threadpool_get_thread_count()
    if used != threads:
        sys.exit(f"threads: got {used}, expected {threads}")
    return portable_lib._load_for_executorch(path)


def rate(tokens: int, repeats: int, work) -> list[float]:
    """Tokens per second of each repeat, after one that does not count."""
    work()
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        rates.append(tokens / (time.perf_counter() - began))
    return rates


def main() -> None:
    import torch

    torch.set_num_threads(1)
    request = json.loads(Path(sys.argv[1]).read_text())
    module = load(request["pte"], request["threads"])
    prompt, chunk, repeats = request["prefill"], request["chunk"], request["repeats"]
    chunks = [
        (torch.tensor([prompt[at : at + chunk]]), torch.tensor([at]))
        for at in range(0, len(prompt), chunk)
    ]
    singles = [
        (torch.tensor([[token]]), torch.tensor([at])) for at, token in enumerate(request["decode"])
    ]

    def feed(inputs: list) -> None:
        for pair in inputs:
            module.forward(pair, clone_outputs=False)

    rates = {
        "prefill": rate(len(prompt), repeats, lambda: feed(chunks)),
        "decode": rate(len(singles) - 1, repeats, lambda: feed(singles[1:])),
    }
    Path(request["response"]).write_text(json.dumps(rates))


if __name__ == "__main__":
    main()
