"""Export worker: one JSON request in, one `.pte`, one reference file and one JSON response out.

The supervisor is a Rust process. It starts `run.py`, reads `@proofmark` lines from standard
output and believes nothing but the response file, and even that it checks again.

**Invariant:** the response is written atomically, on success and on failure.
**Invariant:** the same request on the same lock gives the same bytes: no path, time, hash seed
or thread count reaches the `.pte` or the reference.
**Invariant:** no weight tensor is ever held whole in anonymous memory.
"""

PROTOCOL = 1
