"""Times w2s-bench and PyTorch in turn on the same shapes, and prints a table of medians and ratios.

usage: compare.py PATH/TO/w2s-bench [SHAPE ...] [--threads 1,2] [--phases train,predict] [--steps N] [--repeats N] [--rounds N] [--composed] [--recompute] [--precision bf16]

With --composed the other program is w2s itself with Burn's own operations in place of the fused ones. With --recompute or --precision bf16 w2s
computes blocks again on the way back, or holds its matrices in bfloat16; the other program does neither. Shapes of adapters (`lora`) have peft
beside transformers.

Each round runs both programs one after the other, so that a busy machine slows both. Speed counts real tokens, not padding. `processor` is
the time of all threads, which other programs on the machine disturb less than wall time. Memory is the process's peak resident set, for
PyTorch with and without the part that its imports take. Needs torch and transformers, and peft for adapters.
"""

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import time

GPT2_WORLD = dict(vocab_size=700, n_embd=128, n_layer=2, n_head=4, n_positions=128)
GPT2 = dict(vocab_size=50257, n_embd=768, n_layer=12, n_head=12, n_positions=128)
MINILM = dict(vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
QWEN2 = dict(vocab_size=151936, hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864, max_position_embeddings=128)
SHAPES = {  # configuration, batch, shortest, longest, language model; as in main.rs
    "world-pretrain": (GPT2_WORLD, 32, 12, 32, True),
    "world-finetune": (GPT2_WORLD, 32, 12, 32, False),
    "minilm-128": (MINILM, 32, 128, 128, False),
    "minilm-sst2": (MINILM, 32, 8, 40, False),
    "gpt2": (GPT2, 4, 64, 64, True),
    "gpt2-classifier": (GPT2, 4, 64, 64, False),
    "gpt2-classifier-wide": (GPT2, 16, 128, 128, False),
    "gpt2-lora": (GPT2, 16, 128, 128, False),
    "qwen2-lora": (QWEN2, 16, 128, 128, False),
    "qwen2-lora-4": (QWEN2, 4, 128, 128, False),
}
ADAPTED = {  # every linear layer of the blocks, as w2s has it by default
    "gpt2": ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"],
    "qwen2": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def pytorch(name, phase, steps, repeats, threads):
    """What w2s-bench does, with transformers' own models, attention and losses, and PyTorch's AdamW."""
    import torch
    import transformers

    if "lora" in name:
        import peft

    torch.set_num_threads(threads)
    imports = peak_mb()
    torch.manual_seed(0)
    random.seed(2)
    settings, batch, short, long, language = SHAPES[name]
    if settings is MINILM:
        dropout = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**settings, **dropout, num_labels=2))
    elif settings is QWEN2:
        config = transformers.Qwen2Config(**settings, num_labels=2, pad_token_id=0, tie_word_embeddings=True)
        model = transformers.Qwen2ForSequenceClassification(config)
    else:
        dropout = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        config = transformers.GPT2Config(**settings, **dropout, num_labels=2, pad_token_id=0, bos_token_id=0, eos_token_id=0)
        model = (transformers.GPT2LMHeadModel if language else transformers.GPT2ForSequenceClassification)(config)
    if "lora" in name:
        targets = ADAPTED[model.config.model_type]
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=8, lora_dropout=0.0, target_modules=targets))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)
    model.train(phase == "train")
    lengths = [random.randint(short, long) for _ in range(steps * batch)]
    if phase == "predict":
        lengths.sort()
    batches = []
    for start in range(0, len(lengths), batch):
        part = lengths[start : start + batch]
        mask = torch.tensor([[1] * n + [0] * (max(part) - n) for n in part])
        ids = torch.randint(1, settings["vocab_size"], mask.shape) * mask
        batches.append(({"input_ids": ids} if short == long else {"input_ids": ids, "attention_mask": mask}, mask))
    for repeat in range(repeats + 1):
        start, start_cpu = time.perf_counter(), time.process_time()
        for arguments, mask in batches:
            if phase == "train":
                ids = arguments["input_ids"]
                labels = torch.where(mask == 1, ids, -100) if language else torch.randint(0, 2, (batch,))
                loss = model(**arguments, labels=labels).loss
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            else:
                with torch.inference_mode():
                    model(**arguments)
        if repeat > 0:
            wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
            print(f"{wall * 1e3:.3f} {cpu * 1e3:.3f} {sum(lengths)} {peak_mb()} {imports}")


def read(command, threads, **more):
    """Rows of (wall, processor) microseconds per token, then megabytes: the peak, and for PyTorch what imports took of it."""
    count = str(threads)
    environment = dict(os.environ, RAYON_NUM_THREADS=count, OMP_NUM_THREADS=count, MKL_NUM_THREADS=count, **more)
    lines = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    rows = [tuple(map(float, line.split())) for line in lines.stdout.split("\n") if line]
    return [(wall / tokens * 1e3, cpu / tokens * 1e3, *memory) for wall, cpu, tokens, *memory in rows]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("shapes", nargs="*")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--phases", default="train,predict")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--composed", action="store_true")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--precision", default="f32")
    options = parser.parse_args()
    other = "Composed" if options.composed else "PyTorch"
    print(f"| shape | phase | threads | w2s tokens/s | {other} tokens/s | speed by wall time | speed by processor time | w2s MB | {other} MB{'' if options.composed else ' (imports)'} |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.shapes or SHAPES:
        for phase in options.phases.split(","):
            if phase == "predict" and SHAPES[name][4]:
                continue
            for threads in map(int, options.threads.split(",")):
                ours, theirs = [], []
                work = [name, phase, str(options.steps), str(options.repeats)]
                manner = dict(W2S_PRECISION=options.precision, **(dict(W2S_RECOMPUTE="1") if options.recompute else {}))
                for _ in range(options.rounds):
                    ours.append(read([options.program, *work], threads, **manner))
                    if options.composed:
                        theirs.append(read([options.program, *work], threads, W2S_COMPOSED="1"))
                    else:
                        theirs.append(read([sys.executable, __file__, "--pytorch", *work, str(threads)], threads))
                median = lambda rows, column: statistics.median(row[column] for row in rows)
                columns = []
                for column in (0, 1):
                    ratios = [median(b, column) / median(a, column) for a, b in zip(ours, theirs)]
                    columns.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
                speeds = [f"{1e6 / median(sum(rows, []), 0):,.0f}" for rows in (ours, theirs)]
                peak = lambda rows: round(max(row[2] for row in sum(rows, [])))
                imports = "".join(f" ({megabytes:.0f})" for megabytes in theirs[0][0][3:])
                memory = [str(peak(ours)), f"{peak(theirs)}{imports}"]
                print(f"| {name} | {phase} | {threads} | {' | '.join(speeds + columns + memory)} |", flush=True)


if sys.argv[1:2] == ["--pytorch"]:
    pytorch(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:7]))
else:
    main()
