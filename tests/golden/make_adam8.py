"""Writes golden_adam8.json: the maps of bitsandbytes' 8-bit optimizers, and ten steps of Adam and AdamW with moments in 8 bits.

The maps are those of bitsandbytes' `create_dynamic_map` (bitsandbytes/functional.py, MIT licence), written down again; quantising and the step
follow `kOptimizerStatic8bit2StateBlockwise` (csrc/kernels.cu), but that weight decay is PyTorch's. Needs torch.

    python3 tests/golden/make_adam8.py
"""

import json
import math
import os

import torch

BLOCK, STEPS = 256, 10
# Two whole blocks and a part of one.
NUMBERS = 2 * BLOCK + 71


def dynamic_map(signed, exponents=7, bits=8):
    """`create_dynamic_map(signed, max_exponent_bits=7, total_bits=8)`."""
    numbers = [0.0, 1.0]
    for exponent in range(exponents):
        count = 2 ** (exponent + bits - 1 - exponents + (0 if signed else 1))
        edges = torch.linspace(0.1, 1, count + 1)
        middles = 10 ** (exponent - exponents + 1) * ((edges[:-1] + edges[1:]) / 2)
        numbers += middles.tolist() + ((-middles).tolist() if signed else [])
    assert len(numbers) == 2**bits
    return torch.tensor(sorted(numbers))


def nearest(table, x, signed):
    """The code of each number: the nearest, of two as near the even one, and for numbers below zero one that means less than zero."""
    codes = (x[:, None].double() - table.double()).abs().argmin(1)
    for place, value in enumerate(x.tolist()):
        code = int(codes[place])
        upper = min(code + 1, 255)
        half = (table[code] + table[upper]) * 0.5
        if value == float(half) and code % 2 == 1:
            code = upper
        if signed and value < 0 and float(table[code]) >= 0:
            code -= 1
        codes[place] = code
    return codes


class Moment:
    def __init__(self, signed):
        self.table, self.signed = dynamic_map(signed), signed
        self.blocks = None

    def value(self, count):
        if self.blocks is None:
            return torch.zeros(count)
        return torch.cat([self.table[codes] * scale for codes, scale in self.blocks])

    def keep(self, values):
        self.blocks = []
        for block in values.split(BLOCK):
            scale = block.abs().max()
            self.blocks.append((nearest(self.table, block / scale if scale > 0 else block, self.signed), scale))


def train(weight, grads, rates, decay, decoupled):
    beta_1, beta_2, epsilon = 0.9, 0.999, 1e-8
    weight = weight.clone()
    first, second = Moment(True), Moment(False)
    after = []
    for time, (grad, rate) in enumerate(zip(grads, rates), 1):
        if decoupled:
            weight = weight * (1 - rate * decay)
        else:
            grad = grad + decay * weight
        m = first.value(NUMBERS) * beta_1 + (1 - beta_1) * grad
        v = second.value(NUMBERS) * beta_2 + (1 - beta_2) * grad * grad
        root = v.sqrt() / math.sqrt(1 - beta_2**time) + epsilon
        weight = weight - rate / (1 - beta_1**time) * m / root
        first.keep(m)
        second.keep(v)
        after.append(weight.tolist())
    codes = [torch.cat([codes for codes, _ in moment.blocks]).tolist() for moment in (first, second)]
    scales = [[float(scale) for _, scale in moment.blocks] for moment in (first, second)]
    return {"after": after, "codes": codes, "scales": scales}


def rounded(values):
    if isinstance(values, (list, tuple)):
        return [rounded(value) for value in values]
    if isinstance(values, dict):
        return {key: rounded(value) for key, value in values.items()}
    return float(f"{values:.9g}") if isinstance(values, float) else values


def main():
    torch.manual_seed(8)
    torch.set_num_threads(1)
    weight = torch.randn(NUMBERS)
    # Sizes that differ from place to place and from step to step; no gradient at some places at some times.
    sizes = 10 ** (torch.rand(NUMBERS) * 2 - 2)
    grads = [sizes * torch.randn(NUMBERS) * (torch.rand(NUMBERS) > 0.02) for _ in range(STEPS)]
    rates = [1e-3 * (1 - step / STEPS) for step in range(STEPS)]
    cases = [{"decay": decay, "decoupled": decoupled} for decay, decoupled in [(0.0, False), (0.1, False), (0.1, True)]]
    golden = {
        "description": "bitsandbytes' dynamic maps for 8 bits, and a vector of numbers after each of ten steps of Adam with such moments, their codes and scales after the last; float32, torch " + torch.__version__.split("+")[0],
        "signed": dynamic_map(True).tolist(),
        "unsigned": dynamic_map(False).tolist(),
        "weight": weight.tolist(),
        "rates": rates,
        "grads": [grad.tolist() for grad in grads],
        "cases": [{**case, **train(weight, grads, rates, **case)} for case in cases],
    }
    # The weight after the last step and halfway is enough.
    for case in golden["cases"]:
        case["after"] = [case["after"][step] for step in (0, STEPS // 2, STEPS - 1)]
    with open(os.path.join(os.path.dirname(__file__), "golden_adam8.json"), "w", encoding="utf-8") as out:
        json.dump(rounded(golden), out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
