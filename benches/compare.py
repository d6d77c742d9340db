"""Times w2s-bench and PyTorch in turn on the same shapes, and prints a table of medians and ratios.

usage: compare.py PATH/TO/w2s-bench [SHAPE ...] [--threads 1,2] [--phases train,predict] [--steps N] [--repeats N] [--rounds N] [--composed] [--recompute] [--precision bf16] [--device cuda:0] [--micro-batch N]

With --composed the other program is w2s itself with Burn's own operations in place of the fused ones. With --recompute or --precision bf16 w2s
computes blocks again on the way back, or holds its matrices in bfloat16; on a GPU the other program does so, too (`gradient_checkpointing`, frozen
weights in bfloat16, autocast), and never on the CPU. Shapes of adapters (`lora`) have peft beside transformers.

On a GPU (`--device`) PyTorch runs with its fused attention (sdpa), and memory is the most of the GPU's that nvidia-smi saw in use by the process.
Both run the batch in the same micro-batches.

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
QWEN2 = dict(vocab_size=151936, hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864, max_position_embeddings=512, tie_word_embeddings=True)
QWEN_2B = dict(vocab_size=151936, hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, num_key_value_heads=16, intermediate_size=5504, max_position_embeddings=512, tie_word_embeddings=False)
QWEN_7B = dict(vocab_size=151936, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32, intermediate_size=11008, max_position_embeddings=512, tie_word_embeddings=False)
SHAPES = {  # configuration, batch, shortest, longest, language model; as in main.rs
    "world-pretrain": (GPT2_WORLD, 32, 12, 32, True),
    "world-finetune": (GPT2_WORLD, 32, 12, 32, False),
    "minilm-128": (MINILM, 32, 128, 128, False),
    "minilm-sst2": (MINILM, 32, 8, 40, False),
    "gpt2": (GPT2, 4, 64, 64, True),
    "gpt2-classifier": (GPT2, 4, 64, 64, False),
    "gpt2-classifier-wide": (GPT2, 16, 128, 128, False),
    "gpt2-lora": (GPT2, 16, 128, 128, False),
    "gpt2-lora-512": (dict(GPT2, n_positions=512), 16, 512, 512, False),
    "qwen2-lora": (QWEN2, 16, 128, 128, False),
    "qwen2-lora-4": (QWEN2, 4, 128, 128, False),
    "qwen-1.8b-lora": (QWEN_2B, 32, 128, 128, False),
    "qwen-1.8b-lora-512": (QWEN_2B, 32, 512, 512, False),
    "qwen-7b-lora": (QWEN_7B, 32, 128, 128, False),
    "qwen-7b-lora-512": (QWEN_7B, 32, 512, 512, False),
}
ADAPTED = {  # every linear layer of the blocks, as w2s has it by default
    "gpt2": ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"],
    "qwen2": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def pytorch(name, phase, steps, repeats, threads, device, precision, recompute, micro_batch):
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
    on_gpu, lora = device != "cpu", "lora" in name
    half = on_gpu and precision == "bf16"
    attention = dict(attn_implementation="sdpa") if on_gpu else {}
    # Weights are made where they stay, and those that are frozen as they stay.
    torch.set_default_device(device)
    torch.set_default_dtype(torch.bfloat16 if half and lora else torch.float32)
    if settings is MINILM:
        dropout = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**settings, **dropout, **attention, num_labels=2))
    elif "hidden_size" in settings:
        config = transformers.Qwen2Config(**settings, **attention, num_labels=2, pad_token_id=0)
        model = transformers.Qwen2ForSequenceClassification(config)
    else:
        dropout = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        config = transformers.GPT2Config(**settings, **dropout, **attention, num_labels=2, pad_token_id=0, bos_token_id=0, eos_token_id=0)
        model = (transformers.GPT2LMHeadModel if language else transformers.GPT2ForSequenceClassification)(config)
    torch.set_default_dtype(torch.float32)
    if on_gpu and recompute:
        model.gradient_checkpointing_enable(dict(use_reentrant=False))
    if lora:
        targets = ADAPTED[model.config.model_type]
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=8, lora_dropout=0.0, target_modules=targets))
        for weight in model.parameters():  # adapters and head are trained in float32
            if weight.requires_grad:
                weight.data = weight.data.float()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)
    model.train(phase == "train")
    lengths = [random.randint(short, long) for _ in range(steps * batch)]
    if phase == "predict":
        lengths.sort()
    at_once = micro_batch or batch
    batches = []
    for start in range(0, len(lengths), batch):
        parts = []
        for first in range(start, start + batch, at_once):
            part = lengths[first : min(first + at_once, start + batch)]
            mask = torch.tensor([[1] * n + [0] * (max(part) - n) for n in part])
            ids = torch.randint(1, settings["vocab_size"], mask.shape) * mask
            parts.append(({"input_ids": ids} if short == long else {"input_ids": ids, "attention_mask": mask}, mask))
        batches.append(parts)
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    autocast = torch.autocast(device.split(":")[0], torch.bfloat16, enabled=half)
    for repeat in range(repeats + 1):
        synchronize()
        start, start_cpu = time.perf_counter(), time.process_time()
        for parts in batches:
            if phase == "train":
                optimizer.zero_grad(set_to_none=True)
            for arguments, mask in parts:
                if phase == "train":
                    ids = arguments["input_ids"]
                    labels = torch.where(mask == 1, ids, -100) if language else torch.randint(0, 2, (len(ids),))
                    with autocast:
                        loss = model(**arguments, labels=labels).loss
                    (loss * (len(ids) / batch)).backward()
                else:
                    with torch.inference_mode(), autocast:
                        model(**arguments)
            if phase == "train":
                optimizer.step()
        synchronize()
        if repeat > 0:
            wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
            print(f"{wall * 1e3:.3f} {cpu * 1e3:.3f} {sum(lengths)} {peak_mb()} {imports}")


def most_gpu_memory(process):
    """Most megabytes of GPU memory that nvidia-smi sees in use by a process until it ends."""
    most = 0
    while process.poll() is None:
        query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
        for line in subprocess.run(query, stdout=subprocess.PIPE, text=True).stdout.splitlines():
            pid, megabytes = line.split(",")
            if int(pid) == process.pid and megabytes.strip().isdigit():
                most = max(most, int(megabytes))
        time.sleep(0.2)
    return most


def read(command, threads, device, **more):
    """Rows of (wall, processor) microseconds per token, then megabytes: the peak, and for PyTorch what imports took of it."""
    count = str(threads)
    environment = dict(os.environ, RAYON_NUM_THREADS=count, OMP_NUM_THREADS=count, MKL_NUM_THREADS=count, **more)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    on_gpu = most_gpu_memory(process) if device.startswith("cuda") else None
    lines, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}")
    rows = [tuple(map(float, line.split())) for line in lines.split("\n") if line]
    if on_gpu is not None:
        rows = [(wall, cpu, tokens, on_gpu) for wall, cpu, tokens, *_ in rows]
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
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--micro-batch", type=int, default=0)
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
                manner = dict(W2S_PRECISION=options.precision, W2S_DEVICE=options.device)
                if options.recompute:
                    manner["W2S_RECOMPUTE"] = "1"
                if options.micro_batch:
                    manner["W2S_MICRO_BATCH"] = str(options.micro_batch)
                alike = [options.device, options.precision, str(int(options.recompute)), str(options.micro_batch)]
                for _ in range(options.rounds):
                    ours.append(read([options.program, *work], threads, options.device, **manner))
                    if options.composed:
                        theirs.append(read([options.program, *work], threads, options.device, W2S_COMPOSED="1"))
                    else:
                        theirs.append(read([sys.executable, __file__, "--pytorch", *work, str(threads), *alike], threads, options.device))
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
    name, phase, steps, repeats, threads, device, precision, recompute, micro_batch = sys.argv[2:]
    pytorch(name, phase, int(steps), int(repeats), int(threads), device, precision, recompute == "1", int(micro_batch))
else:
    main()
