"""A Hugging Face folder from a GGUF: configuration, weights, tokenizer, template.

What was stored in blocks becomes fp16, what was stored as floats keeps its type. The supervisor
proves the folder, says in it where it came from, and puts it in its place.

**Invariant:** what is not known to be exact is refused by name: another architecture, a setting
that changes the arithmetic, a tokenizer of another kind.
**Invariant:** everything that can be refused is refused before the first weight is read.
"""

from .task import run

__all__ = ["run"]
