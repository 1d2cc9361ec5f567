"""Makes the small models of `cases` with `transformers`: `make.py FOLDER PACKAGES`.

PACKAGES is where torch is: the export's own. Nothing of the worker is imported here. For each case:
`config.json` as it is written there and as `transformers` writes it, `model.safetensors` of
random weights, and `resaved/logits.safetensors` with tokens and their logits.

**Invariant:** the numbers are those of `transformers`' own modules, in fp32.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# Last, so that the packages of the oracle's venv go first.
sys.path.append(sys.argv[2])

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from oracle.cases import CASES, TOKENS, config


def randomize(model, kind: str) -> None:
    """Of a size at which every part shows in the logits."""
    generator = torch.Generator().manual_seed(7)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name:
            weight.copy_(0.2 * noise + (0.0 if kind == "gemma3_text" else 1.0))
        elif name.endswith("bias"):
            weight.copy_(0.3 * noise)
        elif "embed_tokens" in name:
            weight.copy_(0.5 * noise)
        else:
            weight.copy_(1.5 * noise / weight.shape[1] ** 0.5)


def make(folder: Path, kind: str, changes: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    written = json.dumps(config(kind, changes), indent=1)
    (folder / "config.json").write_text(written)
    settings = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(settings, attn_implementation="eager")
    model = model.float().eval()
    randomize(model, kind)
    settings.save_pretrained(folder / "resaved")
    tied = settings.tie_word_embeddings
    weights = {
        name: value.contiguous()
        for name, value in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(weights, folder / "model.safetensors")
    generator = torch.Generator().manual_seed(11)
    tokens = torch.randint(settings.vocab_size, (1, TOKENS), generator=generator)
    logits = model(tokens, use_cache=False).logits[0]
    found = {"tokens": tokens[0], "logits": logits.contiguous()}
    save_file(found, folder / "resaved/logits.safetensors")


def main() -> None:
    torch.set_grad_enabled(False)
    for name, (kind, changes) in CASES.items():
        make(Path(sys.argv[1]) / name, kind, changes)


if __name__ == "__main__":
    main()
