"""Times w2s-bench and PyTorch in turn on the same shapes, and prints a table of medians and ratios.

usage: compare.py PATH/TO/w2s-bench [SHAPE ...] [--threads 1,2] [--steps N] [--rounds N]

Each round runs both programs one after the other, so that a busy machine slows both. Needs torch and transformers.
"""
import argparse, os, random, statistics, subprocess, sys

SHAPES = {  # vocab, width, layers, heads, batch, shortest, longest, language model
    "world": (700, 128, 2, 4, 32, 12, 32, True),
    "world-classify": (700, 128, 2, 4, 32, 12, 32, False),
    "minilm-128": (30522, 384, 6, 12, 32, 128, 128, False),
    "minilm-sst2": (30522, 384, 6, 12, 32, 8, 40, False),
    "gpt2": (50257, 768, 12, 12, 4, 64, 64, True),
}


def torch_side(name, phase, steps, threads):
    import time, torch, transformers
    torch.set_num_threads(threads)
    vocab, d, layers, heads, batch, short, long, lm = SHAPES[name]
    torch.manual_seed(0)
    random.seed(2)
    if name.startswith("minilm"):
        config = transformers.BertConfig(vocab_size=vocab, hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=4 * d, hidden_dropout_prob=0, attention_probs_dropout_prob=0, num_labels=2)
        model = transformers.BertForSequenceClassification(config)
    else:
        config = transformers.GPT2Config(vocab_size=vocab, n_embd=d, n_layer=layers, n_head=heads, n_positions=max(long, 64),
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, num_labels=2, pad_token_id=0)
        model = transformers.GPT2LMHeadModel(config) if lm else transformers.GPT2ForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train(phase == "train")
    for step in range(steps + 3):
        lengths = [random.randint(short, long) for _ in range(batch)]
        width = max(lengths)
        ids = torch.randint(1, vocab, (batch, width))
        mask = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
        ids = ids * mask
        arguments = {"input_ids": ids}
        if short != long:
            arguments["attention_mask"] = mask
        start, start_cpu = time.perf_counter(), time.process_time()
        if phase == "train":
            labels = torch.where(mask == 1, ids, -100) if lm else torch.randint(0, 2, (batch,))
            loss = model(**arguments, labels=labels).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        else:
            with torch.inference_mode():
                model(**arguments)
        elapsed, cpu = (time.perf_counter() - start) * 1e3, (time.process_time() - start_cpu) * 1e3
        if step >= 3:
            print(f"{elapsed:.3f} {cpu:.3f} {sum(lengths)}")


def read(command, threads):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    lines = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split("\n")
    return [tuple(map(float, line.split())) for line in lines if line]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("shapes", nargs="*", default=[])
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--phases", default="train,infer")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.program == "--torch":
        return
    print("| shape | phase | threads | w2s ms/step | PyTorch ms/step | w2s tokens/s | PyTorch tokens/s | speed of w2s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.shapes or SHAPES:
        for phase in options.phases.split(","):
            for threads in map(int, options.threads.split(",")):
                ours, theirs, ratios = [], [], []
                for _ in range(options.rounds):
                    a = read([options.program, name, phase, str(options.steps)], threads)
                    b = read([sys.executable, __file__, "TORCH", name, phase, str(options.steps), str(threads)], threads)
                    speed = lambda rows: statistics.median(tokens / ms * 1e3 for ms, tokens in rows)
                    ours += a
                    theirs += b
                    ratios.append(speed(a) / speed(b))
                ms = lambda rows: statistics.median(ms for ms, _ in rows)
                speed = lambda rows: statistics.median(tokens / ms * 1e3 for ms, tokens in rows)
                print(f"| {name} | {phase} | {threads} | {ms(ours):.1f} | {ms(theirs):.1f} | {speed(ours):,.0f} | {speed(theirs):,.0f} "
                      f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |", flush=True)


if len(sys.argv) > 1 and sys.argv[1] == "TORCH":
    torch_side(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
else:
    main()
