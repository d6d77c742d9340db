"""Writes golden_tiny_architectures.json: what tiny models of further families compute, in float64.

As golden_tiny_families.json. Every parameter is random, biases and gains of norms too; each sequence is fed by itself, so nothing is padded.
transformers keeps normalisation, rotation and softmax in float32 even in a model of float64: `torch.float32` is float64 while they run. No
embedding has a padding index that cuts its gradient. Gemma's head is its own here: with a tied one, tiny models repeat their last word. The first
Qwen is the one of qwen.py beside this file. Needs transformers 5.24 and torch.

    python3 tests/golden/make_architectures.py
"""

import contextlib
import json
import os

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, __version__
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from qwen import QWen

HERE = os.path.dirname(os.path.abspath(__file__))
SMALL = dict(vocab_size=32, hidden_size=8, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=16)
CONFIGS = {
    "qwen": dict(
        vocab_size=32, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, kv_channels=4, max_position_embeddings=32,
        seq_length=16, rotary_emb_base=10000, rotary_pct=1.0, layer_norm_epsilon=1e-6, no_bias=True, use_dynamic_ntk=True, use_logn_attn=True,
        scale_attn_weights=True, tie_word_embeddings=False, initializer_range=0.02,
    ),
    "roberta": dict(SMALL, intermediate_size=16, max_position_embeddings=18, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2),
    "phi3": dict(
        SMALL, intermediate_size=16, num_key_value_heads=2, hidden_size=16, original_max_position_embeddings=16,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5),
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ),
    "gemma2": dict(
        SMALL, intermediate_size=16, num_key_value_heads=2, head_dim=4, query_pre_attn_scalar=3, sliding_window=3,
        attn_logit_softcapping=0.7, final_logit_softcapping=4.0, pad_token_id=0, bos_token_id=2, eos_token_id=1, tie_word_embeddings=False,
    ),
    "gemma3_text": dict(
        SMALL, intermediate_size=16, num_key_value_heads=2, head_dim=4, query_pre_attn_scalar=5, sliding_window=3, sliding_window_pattern=2,
        pad_token_id=0, bos_token_id=2, eos_token_id=1, tie_word_embeddings=False,
    ),
    "modernbert": dict(
        SMALL, intermediate_size=12, hidden_size=16, local_attention=4, global_attn_every_n_layers=2, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    ),
    "deberta-v2": dict(
        SMALL, intermediate_size=16, relative_attention=True, position_buckets=4, norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type="p2c|c2p",
        position_biased_input=False, max_relative_positions=-1, type_vocab_size=0, layer_norm_eps=1e-7, pad_token_id=0,
    ),
}


@contextlib.contextmanager
def float64():
    kept = torch.float32, torch.float, torch.Tensor.float, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = kept[:3]
        torch.set_default_dtype(kept[3])


def build(config):
    """An empty model of a `config.json`, in the class whose tensors its file holds."""
    config = dict(config)
    kind = config.pop("model_type")
    if kind == "qwen":
        return QWen(config)
    config = AutoConfig.for_model(kind, **config)
    if kind in ("roberta", "modernbert", "deberta-v2"):
        more = {"add_pooling_layer": False} if kind == "roberta" else {}
        return AutoModel.from_config(config, attn_implementation="eager", **more)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def digits(value):
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    return [digits(item) for item in value] if isinstance(value, list) else float(f"{value:.9g}")


def case(name, rows):
    seed = list(CONFIGS).index(name)
    torch.manual_seed(seed)
    model = build({"model_type": name, **CONFIGS[name]}).eval()
    encoder = not hasattr(model, "lm_head")
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            # Of Gemma, the gain is 1 above the parameter.
            centre = (-0.5 if name.startswith("gemma") else 1.0) if parameter.dim() == 1 and path.endswith("weight") else 0.0
            # Small enough that float32 is not amplified beyond what tests allow; few digits, for a small file.
            values = torch.randn(parameter.shape) * (0.2 if parameter.dim() == 1 else 0.8 / parameter.shape[-1] ** 0.5) + centre
            parameter.copy_(torch.tensor([float(f"{x:.4g}") for x in values.flatten().tolist()]).view(parameter.shape))
    weights = {path: parameter for path, parameter in model.named_parameters()}
    hidden_size = CONFIGS[name]["hidden_size"]
    head = torch.tensor(digits(torch.randn(2, hidden_size) * 0.5))
    labels = torch.softmax(torch.randn(len(rows), 2), -1)
    labels = torch.tensor(digits(labels))
    pooled, last, firsts, lm = [], [], [], []
    for row in rows:
        out = model(torch.tensor([row]), output_hidden_states=True)
        states = out.hidden_states
        final = getattr(out, "last_hidden_state", None)
        final = states[-1] if final is None else final
        if row is rows[0]:
            shown = torch.cat([*states[:-1], final])
        last.append(final[0, -1])
        firsts.append(final[0, 0])
        pooled.append(final[0].mean(0) if encoder else final[0, -1])
        if not encoder:
            lm.append(out.logits[0, -1])
    pooled = torch.stack(pooled)
    head.requires_grad_()
    logits = pooled @ head.T
    loss = -(torch.log_softmax(logits, -1) * labels).sum(-1).mean()
    loss.backward()
    config = {"model_type": name, **CONFIGS[name]} if name == "qwen" else model.config.to_dict()
    config = {key: value for key, value in config.items() if key not in ("_name_or_path", "architectures", "dtype")}
    result = {
        "config": config,
        "weights": {path: digits(value) for path, value in weights.items()},
        "head_weight": digits(head.detach()),
        "hidden_states_seq0": digits(shown.detach()),
        "pooled": digits(pooled.detach()),
        "last": digits(torch.stack(last).detach()),
        "pooled_first": digits(torch.stack(firsts).detach()),
        "head_logits": digits(logits.detach()),
        "soft_labels": digits(labels),
        "xent_loss": digits(loss.item()),
        "head_grad": digits(head.grad),
        "backbone_grad_norms": {path: digits(value.grad.norm().item()) for path, value in weights.items() if value.grad is not None},
    }
    if lm:
        result["lm_logits_last_token"] = digits(torch.stack(lm).detach())
    return result


def main():
    with open(os.path.join(HERE, "golden_tiny_families.json"), encoding="utf-8") as text:
        known = json.load(text)
    padded, lengths = known["input_ids_right_padded_with_0"], known["lengths"]
    rows = [row[:length] for row, length in zip(padded, lengths)]
    golden = {"transformers": __version__, "input_ids_right_padded_with_0": padded, "lengths": lengths, "models": {}}
    # Of DeBERTa-v3, for distances from -511 to 511; and of a scale with little room.
    golden["buckets"] = [
        {"count": count, "longest": longest, "of": make_log_bucket_position(torch.arange(1 - longest, longest), count, longest).long().tolist()}
        for count, longest in ((256, 512), (4, 16), (32, 24))
    ]
    with float64():
        for name in CONFIGS:
            golden["models"][name] = case(name, rows)
    with open(os.path.join(HERE, "golden_tiny_architectures.json"), "w", encoding="utf-8") as out:
        json.dump(golden, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
