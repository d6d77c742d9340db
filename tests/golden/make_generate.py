"""Writes golden_generate.json: what the tiny decoders of golden_tiny_forward.json, golden_tiny_families.json and golden_tiny_architectures.json
write, by `generate` of transformers; the first Qwen, which it does not have, goes on one likeliest token after the other.

Their matrices are doubled first, so that they say more than one word; the test does the same. (With a factor of 4 they amplify rounding: the logits
of gpt_neox are then up to 5e-5 away from those of float64, in transformers and in w2s alike.) Prompts are those of random ones of which no step's
two likeliest tokens are closer than MARGIN, which rounding cannot turn around. Tokens are those of float32; their log-probabilities are computed in
float64, from which transformers' own in float32 are up to the printed distance away. Needs transformers 5 and torch.

    python3 tests/golden/make_generate.py
"""

import json
import os
import random

import torch

from make_architectures import build

SCALE, NEW, PROMPTS, MARGIN = 2.0, 7, 6, 1e-3
FILES = {
    "golden_tiny_forward.json": ["gpt2", "gpt_neox", "llama_gqa"],
    "golden_tiny_families.json": ["qwen2", "qwen3", "mistral", "opt"],
    "golden_tiny_architectures.json": ["qwen", "phi3", "gemma2", "gemma3_text"],
}
HERE = os.path.dirname(__file__)


def load(case):
    model = build(case["config"])
    weights = {name: torch.tensor(value) for name, value in case["weights"].items()}
    if "embed_out.weight" in weights:
        weights["lm_head.weight"] = weights.pop("embed_out.weight")
    weights = {name: value * SCALE if value.dim() > 1 else value for name, value in weights.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = ["lm_head.weight"] if getattr(model, "config", None) and model.config.tie_word_embeddings else []
    assert not unexpected and set(missing) <= set(tied), (missing, unexpected)
    if tied:
        model.tie_weights()
    return model.eval()


def write(model, prompt, end):
    ids = torch.tensor([prompt])
    if not hasattr(model, "generate"):
        tokens, logits = [], []
        while len(tokens) < NEW and end not in tokens:
            with torch.no_grad():
                logits.append(model(torch.tensor([prompt + tokens])).logits[:, -1])
            tokens.append(logits[-1].argmax().item())
        return described(tokens, logits)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW, eos_token_id=end, pad_token_id=0,
        return_dict_in_generate=True, output_logits=True,
    )
    return described(out.sequences[0, len(prompt):].tolist(), out.logits)


def described(tokens, logits):
    logits = torch.cat(list(logits)).float()
    top = logits.topk(2, dim=1).values
    return tokens, log_p_of(tokens, logits), (top[:, 0] - top[:, 1]).min().item()


def log_p_of(tokens, logits):
    return torch.log_softmax(logits, 1).gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()


def exact(model, prompt, tokens):
    with torch.no_grad():
        return log_p_of(tokens, model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1:-1])


def main():
    golden = {"scale": SCALE, "new": NEW, "models": {}}
    for file, names in FILES.items():
        with open(os.path.join(HERE, file), encoding="utf-8") as text:
            models = json.load(text)["models"]
        for name in names:
            model = load(models[name])
            if hasattr(model, "generation_config"):
                model.generation_config.eos_token_id = None
            double = load(models[name]).double()
            draw, rows, far, tries = random.Random(name), [], 0.0, 0
            while len(rows) < PROMPTS:
                tries += 1
                assert tries < 500, f"{name} says one word over and over"
                prompt = [draw.randrange(32) for _ in range(1 + len(rows) % 5)]
                tokens, log_p, margin = write(model, prompt, None)
                if margin > MARGIN and len(set(tokens)) > 2:
                    plain, log_p = log_p, exact(double, prompt, tokens)
                    far = max([far] + [abs(a - b) for a, b in zip(plain, log_p)])
                    rows.append({"prompt": prompt, "tokens": tokens, "log_p": [float(f"{x:.9g}") for x in log_p], "margin": margin})
            # A token that comes in the middle of an answer, as the end of texts.
            end = rows[0]["tokens"][NEW // 2]
            ended = [write(model, row["prompt"], end)[0] for row in rows]
            golden["models"][name] = {"rows": rows, "end": end, "ended": ended}
            print(f"{name}: float32 is up to {far:.1e} away; least margin {min(row['margin'] for row in rows):.1e}")
    with open(os.path.join(HERE, "golden_generate.json"), "w", encoding="utf-8") as out:
        json.dump(golden, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
