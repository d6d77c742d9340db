"""Writes golden_precision.json: how far the tiny models of the other golden files are from themselves in PyTorch's own bfloat16.

Weights and inputs are those of golden_tiny_forward.json, golden_tiny_families.json and golden_tiny_architectures.json. Each text is fed by itself
to the model in float32 and to the same with everything in bfloat16 (`model.to(torch.bfloat16)`); what is kept is the root of the mean square of
the difference, over that of the values, of the vectors that a head sees and of the logits of the last token. Needs transformers and torch.

    python3 tests/golden/make_precision.py
"""

import copy
import json
import os

import torch
from transformers import __version__

from make_architectures import build

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = ["golden_tiny_forward.json", "golden_tiny_families.json", "golden_tiny_architectures.json"]


def states(model, rows):
    """Vectors that a head sees, and logits of the last token if there are any."""
    pooled, logits = [], []
    for row in rows:
        with torch.no_grad():
            out = model(torch.tensor([row]), output_hidden_states=True)
        final = getattr(out, "last_hidden_state", None)
        final = (out.hidden_states[-1] if final is None else final)[0].float()
        pooled.append(final[-1] if hasattr(out, "logits") else final.mean(0))
        if hasattr(out, "logits"):
            logits.append(out.logits[0, -1].float())
    return [torch.stack(part) for part in (pooled, logits) if part]


def main():
    golden = {"transformers": __version__, "torch": torch.__version__, "models": {}}
    for file in FILES:
        with open(os.path.join(HERE, file), encoding="utf-8") as text:
            known = json.load(text)
        rows = known["input_ids_right_padded_with_0"]
        rows = [row[:length] for row, length in zip(rows, known.get("lengths", [5, 3, 8, 1]))]
        for name, case in known["models"].items():
            weights = {path: torch.tensor(value) for path, value in case["weights"].items()}
            model = build(case["config"]).eval()
            missing = [path for path in model.load_state_dict(weights, strict=False).missing_keys if "lm_head" not in path]
            if missing:
                # A file of the bare model.
                model = getattr(model, model.base_model_prefix, model)
                missing = model.load_state_dict(weights, strict=False).missing_keys
            assert not [path for path in missing if "lm_head" not in path and "inv_freq" not in path and ".bias" not in path], (name, missing)
            whole = states(model, rows)
            half = states(copy.deepcopy(model).to(torch.bfloat16), rows)
            far = [((a - b).square().mean() / a.square().mean()).sqrt().item() for a, b in zip(whole, half)]
            found = torch.tensor(case["pooled"])
            assert (whole[0] - found).abs().max() < 1e-5, (name, (whole[0] - found).abs().max())
            key = "llama" if name == "llama_gqa" else name
            golden["models"][key] = dict(zip(("states", "logits"), (float(f"{value:.3g}") for value in far)))
    with open(os.path.join(HERE, "golden_precision.json"), "w", encoding="utf-8") as out:
        json.dump(golden, out, indent=1)
        out.write("\n")


if __name__ == "__main__":
    main()
