"""Writes golden_tokenizers.json: small tokenizers of many kinds, keys beside them, and the ids that AutoTokenizer makes of 2,000 texts.

Needs transformers 5.24 and tokenizers; downloads nothing. The test that reads it draws the same texts.

    python3 tests/golden/make_tokenizers.py
"""

import hashlib
import json
import os
import random
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "critical"

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

COUNT, BLOCK = 2000, 100

WORDS = """the of and to in a is that it was for on are with as be this have from or by one had not but what all were when we there can
an your which their said if do will each about how up out them then she many some so these would other into has more her two like him see
time could no make than first been its who now people my made over did down only way find use may water long little very after words""".split()

FOREIGN = ["größe straße über naïve café façade Ünïcödé", "北京是中华人民共和国的首都 東京都 日本語のテキスト", "привет мир как дела", "مرحبا بالعالم",
           "안녕하세요 세계", "https://example.org/a/b?c=d&e=f 3.14159", "def f(x):\n    return x ** 2\n", "I’m “quoted” — don’t…"]

# Pieces of which texts are put together, joined as they are.
PIECES = (
    [word if i % 2 else " " + word for i, word in enumerate(WORDS[:48])]
    + FOREIGN
    + ["The", " THERE", "people", "don't", " I'LL", "you'Re", "12345", " 3,141", "1", " ", "  ", "   ", "     ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", "\u2028",
       "\x00", "\x07", "\x1b[0m", "\x7f", "\u200b", "\u200d", "\ufeff", "\ufffd", "\u202e", "\ue000", "\U0010ffff",
       "🤗", "👩‍👩‍👧", "🇩🇪", "👍🏽", "e\u0301", "\u00e9", "a\u030a\u0323", "Å", "ﬁ", "½", "Ⅷ", "ß", "ẞ", "İ", "ǆ", "ﷺ", "각", "각",
       "中", "中文", "、", "。", "ー", "ﾊﾟ", "𠮷", "ไทย", "नमस्ते", "עברית", "٣", "²",
       "``", "''", '"', "“", "…", "-", "--", "_", "/", "\\", "<", ">", "##", "[", "]", "▁", "Ġ", "Ċ", "<0x41>",
       "<s>", " <s> ", "</s>", "<unk>", "<pad>", "<mask>", " <mask>", "[CLS]", "[SEP]", "[MASK]", " [MASK] ", "[UNK]", "[cls]",
       "<|endoftext|>", " <|endoftext|>", "<|padding|>", "<|begin_of_text|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>",
       "<new>", " <new> ", "<extra>", "there", "<extra_id_0>", "xx" * 60]
)


def texts():
    """Drawn with Knuth's MMIX generator; the first is empty, every fiftieth long."""
    state = 1

    def draw(n):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 33) % n

    for i in range(COUNT):
        size = 0 if i == 0 else 400 if i % 50 == 0 else 1 + draw(14)
        yield "".join(PIECES[draw(len(PIECES))] for _ in range(size))


def corpus():
    rng = random.Random(7)
    for i in range(300):
        yield " ".join(rng.choice(WORDS) for _ in range(12)).capitalize() + "."
        yield FOREIGN[i % len(FOREIGN)]


CORPUS = list(corpus())
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_bpe(specials, pre, normalizer=None, **options):
    t = Tokenizer(models.BPE(**options))
    t.pre_tokenizer = pre
    if normalizer:
        t.normalizer = normalizer
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False))
    return t


def byte_level(**options):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, **options)


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(use_regex=False)])


def gpt2():
    t = byte_bpe(["<|endoftext|>"], byte_level())
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def digits():
    return byte_bpe(["<|endoftext|>"], pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]))


def roberta():
    t = byte_bpe(["<s>", "<pad>", "</s>", "<unk>"], byte_level())
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return t


def neox():
    t = byte_bpe(["<|endoftext|>", "<|padding|>"], byte_level(), normalizers.NFC())
    t.add_tokens([AddedToken(" " * n, normalized=True) for n in (4, 3, 2)])
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    return t


def llama3():
    t = byte_bpe([], split(LLAMA3), ignore_merges=True)
    t.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    begin = ("<|begin_of_text|>", t.token_to_id("<|begin_of_text|>"))
    around = processors.TemplateProcessing(single=f"{begin[0]} $A", pair=f"{begin[0]} $A {begin[0]}:1 $B:1", special_tokens=[begin])
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), around])
    return t


def qwen2():
    t = byte_bpe([], split(QWEN2), normalizers.NFC())
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.post_processor = processors.ByteLevel(trim_offsets=False, add_prefix_space=False, use_regex=False)
    return t


def bert(lowercase):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=None)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=350, special_tokens=names, show_progress=False))
    t.post_processor = around("[CLS]", 2, "[SEP]", 3)
    return t


def around(first, first_id, last, last_id):
    special = [(first, first_id), (last, last_id)]
    return processors.TemplateProcessing(single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1", special_tokens=special)


def llama(metaspace):
    t = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, special_tokens=names, show_progress=False))
    file = json.loads(t.to_str())
    file["added_tokens"] = file["added_tokens"][:3]
    file["pre_tokenizer"] = None
    if metaspace:
        file["normalizer"] = None
        file["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    t = Tokenizer.from_str(json.dumps(file))
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return t


def unigram(specials, normalizer, post, unknown="<unk>"):
    t = Tokenizer(models.Unigram())
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")])
    t.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=specials, unk_token=unknown, show_progress=False)
    t.train_from_iterator(CORPUS, trainer)
    if post:
        t.post_processor = post
    return t


def t5():
    end = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    return unigram(["<pad>", "</s>", "<unk>"], None, end)


def albert():
    quotes = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    lower = normalizers.Sequence(quotes + [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
    return unigram(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], lower, around("[CLS]", 2, "[SEP]", 3))


def xlm_roberta(normalizer=None):
    return unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], normalizer, around("<s>", 0, "</s>", 2))


def deberta():
    """As the class of transformers writes it."""
    pieces = [tuple(piece) for piece in json.loads(unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], None, None, "[UNK]").to_str())["model"]["vocab"]]
    return transformers.DebertaV2Tokenizer(vocab=pieces).backend_tokenizer


def gemma():
    """As the class of transformers writes it."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Replace(" ", "▁")
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, special_tokens=names, show_progress=False))
    model = json.loads(t.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return transformers.GemmaTokenizer(vocab=model["vocab"], merges=merges).backend_tokenizer


def word_level():
    t = Tokenizer(models.WordLevel(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.train_from_iterator(CORPUS, trainers.WordLevelTrainer(vocab_size=150, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False))
    return t


def token(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True, **flags}


# Followed in any class.
COMMON = {
    "keys of other things": {"model_max_length": 16, "padding_side": "left", "truncation_side": "left", "clean_up_tokenization_spaces": True},
    "new special tokens": {"pad_token": "<new>", "additional_special_tokens": ["there", "<extra>"]},
    "special tokens split": {"split_special_tokens": True},
}
MARKED = {"added_tokens_decoder": {"900": token("<new>"), "901": token("there", special=False, normalized=True, lstrip=True)}}
FILE = "PreTrainedTokenizerFast"
PREFIX, NO_PREFIX = {"add_prefix_space": True}, {"add_prefix_space": False}

# Kind: tokenizer, `model_type`, class, and what is put into tokenizer_config.json. `None` is no such file.
KINDS = {
    "gpt2": (gpt2, "gpt2", "GPT2Tokenizer", [None, PREFIX, NO_PREFIX, MARKED, {"tokenizer_class": FILE}, {"add_eos_token": True, "add_bos_token": True}]),
    "gpt2 with dropout": (gpt2, "gpt2", "GPT2Tokenizer", [None, PREFIX]),
    "roberta": (roberta, "roberta", "RobertaTokenizer", [None, PREFIX, NO_PREFIX]),
    "neox": (neox, "gpt_neox", "GPTNeoXTokenizer", [None, PREFIX, {"add_bos_token": False, "add_eos_token": False}]),
    "llama3": (llama3, "llama", FILE, [None, MARKED, {"tokenizer_class": "LlamaTokenizer"}, {"add_bos_token": True}, {"unk_token": "the"}]),
    "qwen2": (qwen2, "qwen2", "Qwen2Tokenizer", [None, NO_PREFIX, {"tokenizer_class": FILE}, {"bos_token": None, "pad_token": "<|endoftext|>"}]),
    "bert uncased": (lambda: bert(True), "bert", "BertTokenizer", [None, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}, MARKED]),
    "bert cased": (lambda: bert(False), "bert", "BertTokenizer", [None, {"do_lower_case": False}, {"do_lower_case": True}, {"strip_accents": True, "do_lower_case": False}, {"tokenizer_class": FILE}]),
    "llama": (lambda: llama(False), "llama", "LlamaTokenizer", [None, {"legacy": False}, {"legacy": True}, {"add_bos_token": True, "add_eos_token": False}, PREFIX, NO_PREFIX]),
    "llama metaspace": (lambda: llama(True), "llama", "LlamaTokenizer", [None, {"legacy": True}, {"tokenizer_class": FILE}, NO_PREFIX]),
    "t5": (t5, "t5", "T5Tokenizer", [{"tokenizer_class": FILE}]),
    "albert": (albert, "albert", "AlbertTokenizer", [{"do_lower_case": True}, {"keep_accents": False}]),
    "xlm-roberta": (xlm_roberta, "xlm-roberta", "XLMRobertaTokenizer", [PREFIX, {"tokenizer_class": FILE}]),
    "deberta": (deberta, "deberta-v2", "DebertaV2Tokenizer", [{"do_lower_case": False}]),
    "gemma": (gemma, "gemma2", "GemmaTokenizer", [{"tokenizer_class": FILE}]),
    "word level": (word_level, "gpt2", FILE, [PREFIX, {"add_eos_token": True, "eos_token": "</s>"}]),
}
# Another pipeline than the class's own: the file is followed, as version 4 does.
AS_THE_FILE = {
    "gpt2 with digits": (digits, "llama", "GPT2Tokenizer", [{}, NO_PREFIX]),
    "xlm-roberta normalized": (lambda: xlm_roberta(normalizers.NFKC()), "bert", "XLMRobertaTokenizer", [{}]),
    "word level of gpt2": (word_level, "gpt2", None, [None]),
}


def digest(rows):
    """Hash of the ids of each block of texts."""
    blocks = [rows[start:start + BLOCK] for start in range(0, len(rows), BLOCK)]
    return [hashlib.sha256(json.dumps(block, separators=(",", ":")).encode()).hexdigest()[:8] for block in blocks]


def main():
    all_texts = list(texts())
    cases = []
    for kinds, as_file in ((KINDS, False), (AS_THE_FILE, True)):
        for kind, (make, model_type, name, configs) in kinds.items():
            file = json.loads(make().to_str())
            variants = [config if config is None or name is None else {"tokenizer_class": name, **config} for config in configs]
            if not as_file:
                variants += [{"tokenizer_class": name, **config} for config in ({}, *COMMON.values())]
            results = []
            for config in variants:
                with tempfile.TemporaryDirectory() as folder:
                    def write(name, content):
                        with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
                            json.dump(content, out)
                    write("tokenizer.json", file)
                    write("config.json", {"model_type": model_type})
                    if config is not None:
                        write("tokenizer_config.json", config)
                    if as_file:
                        backend = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
                        ids = [backend.encode(text).ids for text in all_texts]
                    else:
                        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
                        ids = [tokenizer(text)["input_ids"] for text in all_texts]
                results.append({"config": config, "first": ids[1:4], "blocks": digest(ids)})
            if kind.endswith("dropout"):
                file["model"]["dropout"] = 0.3
            cases.append({"kind": kind, "model_type": model_type, "tokenizer": file, "variants": results})
    golden = {"transformers": transformers.__version__, "pieces": PIECES, "cases": cases}
    with open(os.path.join(os.path.dirname(__file__), "golden_tokenizers.json"), "w", encoding="utf-8") as out:
        json.dump(golden, out, ensure_ascii=False, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    sys.exit(main())
