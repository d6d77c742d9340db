"""The first Qwen in PyTorch, written anew after the published modeling_qwen.py, for golden values alone.

transformers does not have it: `Qwen/Qwen-1_8B` and its like bring code of their own. What is computed here is what that code computes of one text
without padding: in `eval()` with log-n scaling and dynamic NTK, which change something behind `seq_length`, and in `train()` without.
"""

import math

from types import SimpleNamespace

import torch
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def rotated(x, base):
    """`x` is [batch, tokens, heads, width]; halves are paired."""
    _, count, _, width = x.shape
    angle = torch.arange(count, dtype=x.dtype)[:, None] / base ** (torch.arange(0, width, 2, dtype=x.dtype) / width)
    cos, sin = (torch.cat([part, part], -1)[None, :, None] for part in (angle.cos(), angle.sin()))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        inner = config.kv_channels * config.num_attention_heads
        self.c_attn = nn.Linear(config.hidden_size, 3 * inner)
        self.c_proj = nn.Linear(inner, config.hidden_size, bias=not config.no_bias)

    def forward(self, x, prompt):
        batch, count, _ = x.shape
        query, key, value = (
            part.view(batch, count, self.config.num_attention_heads, self.config.kv_channels)
            for part in self.c_attn(x).chunk(3, -1)
        )
        base, first = self.config.rotary_emb_base, self.config.seq_length
        if not self.training and self.config.use_dynamic_ntk:
            alpha = max(2 ** math.ceil(math.log((prompt or count) / first, 2) + 1) - 1, 1)
            base = base * alpha ** (self.config.kv_channels / (self.config.kv_channels - 2))
        query, key = (rotated(part, base) for part in (query, key))
        if not self.training and self.config.use_logn_attn:
            logn = [math.log(i, first) if i > first else 1.0 for i in range(1, count + 1)]
            query = query * torch.tensor(logn, dtype=x.dtype)[:, None, None]
        scores = torch.einsum("bqhw,bkhw->bhqk", query, key) / self.config.kv_channels**0.5
        scores = scores.masked_fill(torch.ones(count, count).triu(1).bool(), -torch.inf)
        return self.c_proj(torch.einsum("bhqk,bkhw->bqhw", scores.softmax(-1), value).flatten(2))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        inner = config.intermediate_size // 2
        self.w1, self.w2 = (nn.Linear(config.hidden_size, inner, bias=not config.no_bias) for _ in range(2))
        self.c_proj = nn.Linear(inner, config.hidden_size, bias=not config.no_bias)

    def forward(self, x):
        return self.c_proj(self.w1(x) * nn.functional.silu(self.w2(x)))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1, self.ln_2 = (RMSNorm(config.hidden_size, config.layer_norm_epsilon) for _ in range(2))
        self.attn, self.mlp = Attention(config), MLP(config)

    def forward(self, x, prompt):
        x = x + self.attn(self.ln_1(x), prompt)
        return x + self.mlp(self.ln_2(x))


class QWen(nn.Module):
    def __init__(self, config):
        super().__init__()
        config = SimpleNamespace(**config)
        self.transformer = nn.Module()
        self.transformer.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.transformer.h = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.transformer.ln_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, input_ids, prompt=None, **_):
        """`prompt`: how many tokens were read before the others were written one by one, if not all. Dynamic NTK goes by it."""
        states = [self.transformer.wte(input_ids)]
        for block in self.transformer.h:
            states.append(block(states[-1], prompt))
        last = self.transformer.ln_f(states[-1])
        return SimpleNamespace(logits=self.lm_head(last), hidden_states=[*states[:-1], last])
