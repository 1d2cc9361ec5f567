"""Entry file: `python -I -B run.py REQUEST.json`.

Loads its own folder as the package `proofmark_worker`, whatever the folder is called, and leaves
`sys.path` alone, so that no file lying nearby can shadow a module.
"""

import importlib.util
import os
import sys
import threading
from pathlib import Path


def load_package() -> None:
    here = Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location(
        "proofmark_worker", here / "__init__.py", submodule_search_locations=[str(here)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["proofmark_worker"] = package
    spec.loader.exec_module(package)


def die_with_parent() -> None:
    """Ends this process when the supervisor's end of the pipe closes, however it died."""
    # Not through `sys.stdin`: its lock, held here, would abort the interpreter at exit.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    if os.environ.get("PROOFMARK_PARENT_PIPE"):
        threading.Thread(target=die_with_parent, daemon=True).start()
    load_package()
    from proofmark_worker.worker import main

    sys.exit(main(sys.argv[1:]))
