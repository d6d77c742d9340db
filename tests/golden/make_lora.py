"""Writes golden_lora.json: adapters on tiny models, by peft, transformers and PyTorch.

For each model: its weights, an adapter as `save_pretrained` of peft writes it (configuration and tensors), logits of a classifier with it, the
gradients of A, B and the head, and ten steps of AdamW on fixed rows. Needs transformers 5, peft and torch.

    python3 tests/golden/make_lora.py
"""

import json
import os
import random
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    GPT2Config, GPT2ForSequenceClassification, GPTNeoXConfig, GPTNeoXForSequenceClassification, LlamaConfig, LlamaForSequenceClassification,
)

VOCAB, STEPS, BATCH, RATE = 32, 10, 4, 0.01
MODELS = {
    "gpt2": (GPT2ForSequenceClassification, GPT2Config, {
        "vocab_size": VOCAB, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 16, "initializer_range": 0.3,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "pad_token_id": 0,
    }, dict(r=3, lora_alpha=6, target_modules=["c_attn", "mlp.c_proj"])),
    "gpt_neox": (GPTNeoXForSequenceClassification, GPTNeoXConfig, {
        "vocab_size": VOCAB, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 16, "rotary_pct": 0.5, "initializer_range": 0.3, "hidden_dropout": 0.0, "attention_dropout": 0.0,
        "pad_token_id": 0,
    }, dict(r=2, lora_alpha=4, target_modules=["query_key_value", "dense_h_to_4h"])),
    "llama": (LlamaForSequenceClassification, LlamaConfig, {
        "vocab_size": VOCAB, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 16, "initializer_range": 0.3, "pad_token_id": 0,
    }, dict(r=4, lora_alpha=6, use_rslora=True, target_modules="all-linear")),
}


def rounded(value):
    return [rounded(item) for item in value] if isinstance(value, list) else float(f"{value:.9g}")


def named(tensors):
    return {name: rounded(value.tolist()) for name, value in sorted(tensors.items())}


def batch_of(rows):
    longest = max(len(row["ids"]) for row in rows)
    ids = torch.tensor([row["ids"] + [0] * (longest - len(row["ids"])) for row in rows])
    mask = torch.tensor([[1] * len(row["ids"]) + [0] * (longest - len(row["ids"])) for row in rows])
    return ids, mask, torch.tensor([row["label"] for row in rows])


def loss_of(model, rows):
    ids, mask, labels = batch_of(rows)
    logits = model(input_ids=ids, attention_mask=mask).logits
    return logits, -(torch.log_softmax(logits, -1) * labels).sum(-1).mean()


def saved(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with open(os.path.join(folder, "adapter_config.json"), encoding="utf-8") as file:
            config = json.load(file)
        config["target_modules"] = sorted(config["target_modules"])
        return config, load_file(os.path.join(folder, "adapter_model.safetensors"))


def main():
    draw = random.Random(11)
    rows = []
    for _ in range(STEPS * BATCH // 2):
        share = draw.randint(0, 4) / 4
        rows.append({"ids": [draw.randrange(1, VOCAB) for _ in range(draw.randint(3, 9))], "label": [1 - share, share]})
    golden = {"rows": rows, "models": {}}
    for kind, (cls, config, settings, lora) in MODELS.items():
        torch.manual_seed(7)
        base = cls(config(**settings)).eval()
        weights = {name: value.clone() for name, value in base.state_dict().items() if name != "score.weight"}
        model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", **lora)).eval()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        adapter_config, adapter = saved(model)
        logits, loss = loss_of(model, rows[:BATCH])
        loss.backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
        losses = []
        for step in range(STEPS):
            start = step * BATCH % len(rows)
            _, of_step = loss_of(model, rows[start:start + BATCH])
            optimizer.zero_grad()
            of_step.backward()
            optimizer.step()
            losses.append(rounded(of_step.item()))
        golden["models"][kind] = {
            "config": {"model_type": kind, **settings}, "weights": named(weights), "adapter_config": adapter_config,
            "adapter": named(adapter), "logits": rounded(logits.tolist()),
            "gradients": {name.replace(".default", "").replace(".modules_to_save", ""): rounded(value.tolist()) for name, value in gradients.items()},
            "losses": losses, "trained": named(saved(model)[1]),
        }
    with open(os.path.join(os.path.dirname(__file__), "golden_lora.json"), "w", encoding="utf-8") as out:
        json.dump(golden, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
