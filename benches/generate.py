"""Times w2s-bench-generate and transformers' greedy `generate` in turn on the same shapes, and prints a table of medians.

usage: generate.py PATH/TO/w2s-bench-generate [--threads 2] [--batches 1,8,32] [--prompt 64] [--new 64] [--repeats 1] [--rounds 3] [SHAPE ...]

Weights are random, so speed alone is compared; prompts are of one length, so there is no padding. Needs torch and transformers.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

SHAPES = {
    "world": dict(model_type="gpt2", vocab_size=700, n_embd=128, n_layer=2, n_head=4, n_positions=256),
    "gpt2": dict(model_type="gpt2", vocab_size=50257, n_embd=768, n_layer=12, n_head=12, n_positions=1024),
    "qwen2-small": dict(
        model_type="qwen2", vocab_size=32000, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
    ),
}


def transformers_side(config, batch, prompt, new, repeats, threads):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).eval()
    model.generation_config.eos_token_id = None
    ids = torch.randint(1, config["vocab_size"], (batch, prompt))
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, pad_token_id=0, return_dict_in_generate=True,
        )
        wall = time.perf_counter() - start
        if repeat > 0:
            tokens = (out.sequences.shape[1] - prompt) * batch
            print(f"{wall * 1e3:.3f} {tokens} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("shapes", nargs="*")
    for name, default in [("threads", 2), ("prompt", 64), ("new", 64), ("repeats", 1), ("rounds", 3)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batches", default="1,8,32")
    options = parser.parse_args()
    count = str(options.threads)
    environment = dict(os.environ, RAYON_NUM_THREADS=count, OMP_NUM_THREADS=count, MKL_NUM_THREADS=count)

    def rows(command):
        out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        return [tuple(map(float, line.split())) for line in out.splitlines()]

    print("| shape | batch | w2s tokens/s | transformers tokens/s | ratio (least–most) | w2s MB | transformers MB |")
    print("|---|---|---|---|---|---|---|")
    for name in options.shapes or SHAPES:
        for batch in options.batches.split(","):
            work = [json.dumps(SHAPES[name]), batch, str(options.prompt), str(options.new), str(options.repeats)]
            ours, theirs = [], []
            for _ in range(options.rounds):
                ours.append(rows([options.program, *work]))
                theirs.append(rows([sys.executable, __file__, "--transformers", *work, count]))
            speed = lambda rows: statistics.median(tokens / ms * 1e3 for ms, tokens, _ in rows)
            ratios = [speed(a) / speed(b) for a, b in zip(ours, theirs)]
            peak = lambda rounds: round(max(row[2] for row in sum(rounds, [])))
            speeds = f"{speed(sum(ours, [])):,.0f} | {speed(sum(theirs, [])):,.0f}"
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
            print(f"| {name} | {batch} | {speeds} | {spread} | {peak(ours)} | {peak(theirs)} |", flush=True)


if sys.argv[1:2] == ["--transformers"]:
    transformers_side(json.loads(sys.argv[2]), *map(int, sys.argv[3:8]))
else:
    main()
