"""Writes golden_qwen_long.json: what the tiny Qwen of golden_tiny_architectures.json computes of texts longer than its `seq_length`, in float64.

Each text by itself: logits of its last token (`eval`, with log-n scaling and dynamic NTK; `train`, without), and what it goes on with greedily,
where dynamic NTK stays that of the prompt. Needs torch.

    python3 tests/golden/make_qwen_long.py
"""

import json
import os

import torch

from qwen import QWen

HERE = os.path.dirname(os.path.abspath(__file__))
LENGTHS, NEW, SCALE = [5, 16, 17, 29, 32, 35, 64, 65, 90], 6, 2.0


def digits(values):
    return [float(f"{value:.9g}") for value in values.tolist()]


torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
with open(os.path.join(HERE, "golden_tiny_architectures.json")) as file:
    case = json.load(file)["models"]["qwen"]
config = dict(case["config"], max_position_embeddings=128)
model = QWen({key: value for key, value in config.items() if key != "model_type"})
# Attention of the tiny model is nearly even; sharper, it tells where a token looks.
weights = {path: torch.tensor(values) * (SCALE if path.endswith("c_attn.weight") else 1.0) for path, values in case["weights"].items()}
model.load_state_dict(weights)
rows = []
with torch.no_grad():
    for length in LENGTHS:
        ids = torch.randint(0, config["vocab_size"], (length,)).tolist()
        row = {"ids": ids}
        for mode in ("train", "eval"):
            logits = getattr(model, mode)()(torch.tensor([ids])).logits[0, -1]
            row[mode] = digits(logits)
        row["new"], row["log_p"] = [], []
        for _ in range(NEW):
            logits = model(torch.tensor([ids + row["new"]]), prompt=length).logits[0, -1]
            row["new"].append(logits.argmax().item())
            row["log_p"].append(digits(torch.log_softmax(logits, -1).max()[None])[0])
        rows.append(row)
# Switches, each alone.
alone = {}
for key in ("use_dynamic_ntk", "use_logn_attn"):
    other = QWen({**{key: value for key, value in config.items() if key != "model_type"}, key: False}).eval()
    other.load_state_dict(weights)
    with torch.no_grad():
        alone[key] = [digits(other(torch.tensor([row["ids"]])).logits[0, -1]) for row in rows]
with open(os.path.join(HERE, "golden_qwen_long.json"), "w") as file:
    json.dump({"positions": 128, "scale": SCALE, "rows": rows, "without": alone}, file, separators=(",", ":"))
    file.write("\n")
