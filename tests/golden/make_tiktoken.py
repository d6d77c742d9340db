"""Writes golden_tiktoken.json: a small qwen.tiktoken, and the ids that `tiktoken` makes of texts with it.

The texts are the 2,000 of golden_tokenizers.json and long runs of few letters, where ways to put pieces together compete. Needs tokenizers and
tiktoken; downloads nothing.

    python3 tests/golden/make_tiktoken.py
"""

import base64
import json
import os
import unicodedata

import tiktoken
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from make_tokenizers import corpus, digest, texts

# As in tokenization_qwen.py of Qwen/Qwen-7B.
SPLIT = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]
RUNS = ["a" * n for n in range(1, 40)] + ["=" * n for n in range(1, 40)] + ["ab" * n + "a" for n in range(1, 20)] + ["=-" * n for n in range(1, 20)]


def ranks():
    """Bytes in their order, then what training puts together."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=256 + 500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([*corpus(), *RUNS], trainer)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(rest)}
    assert sorted(byte_of) == letters
    merged = sorted((id, token) for token, id in tokenizer.get_vocab().items() if len(token) > 1)
    return [bytes([byte]) for byte in range(256)] + [bytes(byte_of[letter] for letter in token) for _, token in merged]


def main():
    tokens = ranks()
    special = {mark: len(tokens) + i for i, mark in enumerate(MARKS)}
    encoding = tiktoken.Encoding("Qwen", pat_str=SPLIT, mergeable_ranks={token: i for i, token in enumerate(tokens)}, special_tokens=special)

    def encode(text):
        return encoding.encode(unicodedata.normalize("NFC", text), allowed_special="all")

    ids = [encode(text) for text in texts()]
    golden = {
        "ranks": "".join(f"{base64.b64encode(token).decode()} {i}\n" for i, token in enumerate(tokens)),
        "first": ids[1:4],
        "blocks": digest(ids),
        "runs": [[text, encode(text)] for text in [*RUNS, "a<|im_start|>b <|extra_204|> <|extra_205|>"]],
    }
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden_tiktoken.json"), "w", encoding="utf-8") as out:
        json.dump(golden, out, ensure_ascii=False, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
