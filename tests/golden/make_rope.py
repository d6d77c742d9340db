"""Writes golden_rope.json: frequencies of rotary positions, as transformers computes them from a configuration.

Needs transformers 5.24 and torch.

    python3 tests/golden/make_rope.py
"""

import copy
import json
import os

from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
CONFIGS = [
    {"head_dim": 64, "rope_theta": 500000.0, "rope_scaling": None},
    {"head_dim": 128, "rope_theta": 500000.0, "rope_scaling": LLAMA3},
    {"head_dim": 64, "rope_theta": 500000.0, "rope_scaling": {**LLAMA3, "factor": 32.0}},
    {"head_dim": 64, "rope_parameters": {**LLAMA3, "rope_theta": 10000.0, "factor": 2}},
    {"head_dim": 16, "rope_theta": 77.0, "rope_scaling": {"type": "llama3", "factor": 3.5, "low_freq_factor": 0.5, "high_freq_factor": 9.0, "original_max_position_embeddings": 64}},
    {"head_dim": 32, "rope_parameters": {"rope_theta": 1000.0, "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 2.0}},
]


def main():
    cases = []
    for config in CONFIGS:
        shape = {"hidden_size": 8, "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 16}
        rotary = LlamaRotaryEmbedding(LlamaConfig(**shape, **copy.deepcopy(config)))
        assert rotary.attention_scaling == 1.0
        cases.append({"config": {"max_position_embeddings": 16, **config}, "inv_freq": rotary.inv_freq.tolist()})
    with open(os.path.join(os.path.dirname(__file__), "golden_rope.json"), "w", encoding="utf-8") as out:
        json.dump(cases, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
