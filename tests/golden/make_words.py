"""Writes golden_words.json: ten steps of two tiny language models on fixed prompts and answers, by transformers and PyTorch.

The loss is taken on the answers' tokens and the end-of-text token after them, averaged over all of a batch, as transformers' own loss does with
`labels` of -100 elsewhere (with cross-entropy it is that loss). Needs transformers 5 and torch.

    python3 tests/golden/make_words.py
"""

import json
import os
import random

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

VOCAB, END, STEPS, BATCH, RATE, CLIP = 32, 31, 10, 4, 0.01, 1.0
CONFIGS = {
    "gpt2": (GPT2LMHeadModel, GPT2Config, {
        "vocab_size": VOCAB, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 32,
        "initializer_range": 0.3, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
    }),
    "llama": (LlamaForCausalLM, LlamaConfig, {
        "vocab_size": VOCAB, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
        "initializer_range": 0.3,
    }),
}


def rounded(value):
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.9g}")


def batch_of(rows):
    ids = [row["prompt"] + row["answer"] + [END] for row in rows]
    longest = max(map(len, ids))
    labels = [[-100] * len(row["prompt"]) + row["answer"] + [END] for row in rows]
    pad = lambda rows, value: torch.tensor([row + [value] * (longest - len(row)) for row in rows])
    return pad(ids, 0), pad([[1] * len(row) for row in ids], 0), pad(labels, -100)


def train(kind, loss_name, weights, rows):
    cls, config, settings = CONFIGS[kind]
    model = cls(config(**settings))
    model.load_state_dict(weights)
    model.eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    log = []
    for step in range(STEPS):
        start = step * BATCH % len(rows)
        ids, mask, labels = batch_of(rows[start:start + BATCH])
        output = model(input_ids=ids, attention_mask=mask, labels=labels)
        answers = labels[:, 1:] != -100
        log_p = torch.log_softmax(output.logits[:, :-1][answers], -1)
        labels = labels[:, 1:][answers]
        label = log_p.gather(1, labels[:, None])[:, 0]
        own = log_p.max(1).values
        if loss_name == "cross-entropy":
            loss = output.loss
            assert abs(loss.item() + label.mean().item()) < 1e-6
        else:
            share = 0.5 * min(1.0, step / STEPS / 0.2)
            loss = -((1 - share) * label + share * own).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        accuracy = (log_p.argmax(1) == labels).float().mean()
        log.append({"loss": rounded(loss.item()), "gradient_norm": rounded(norm.item()), "accuracy": rounded(accuracy.item())})
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([rows[0]["prompt"] + rows[0]["answer"]])).logits[0, -1]
        unembedding = model.get_output_embeddings().weight
    return {"log": log, "logits": rounded(logits.tolist()), "unembedding": rounded(unembedding.tolist())}


def main():
    draw = random.Random(5)
    words = lambda low, high: [draw.randrange(END) for _ in range(draw.randint(low, high))]
    rows = [{"prompt": words(2, 6), "answer": words(1, 5)} for _ in range(STEPS * BATCH // 2)]
    golden = {"rows": rows, "end": END, "models": {}}
    for kind, (cls, config, settings) in CONFIGS.items():
        torch.manual_seed(3)
        model = cls(config(**settings))
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        shared = [name for name in weights if name == "lm_head.weight" and kind == "gpt2"]
        golden["models"][kind] = {
            "config": {"model_type": kind, **settings},
            "weights": {name: rounded(value.tolist()) for name, value in weights.items() if name not in shared},
            "runs": {loss: train(kind, loss, weights, rows) for loss in ["cross-entropy", "aux-confidence"]},
        }
    with open(os.path.join(os.path.dirname(__file__), "golden_words.json"), "w", encoding="utf-8") as out:
        json.dump(golden, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
