"""Golden answers for core/src/task/matching.rs: the rules of that module's documentation, written a second time.

    python3 tests/golden/make_matching.py > tests/golden/golden_matching.json

Python 3.8 or later, the standard library alone. Every rule set is run on every text; the output says what was found.
"""

import json
import random
import re
import sys
import unicodedata

# Unicode's White_Space, which is not what `str.isspace` means (U+001C to U+001F).
WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
ASCII_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def words(text):
    return [word for word in re.split("[" + WHITE + "]+", text) if word]


def is_punctuation(c):
    return c in ASCII_PUNCTUATION if ord(c) < 128 else unicodedata.category(c).startswith("P")


def strip_punctuation(text):
    start, end = 0, len(text)
    while start < end and (is_punctuation(text[start]) or text[start] in WHITE):
        start += 1
    while end > start and (is_punctuation(text[end - 1]) or text[end - 1] in WHITE):
        end -= 1
    return text[start:end]


def number(text):
    match = re.fullmatch(r"([-+\u2212]?)([0-9]*)(?:\.([0-9]*))?", text)
    if not match or not (match[2] or match[3]):
        return text
    whole, fraction = match[2].lstrip("0") or "0", (match[3] or "").rstrip("0")
    sign = "-" if match[1] in ("-", "\u2212") and (whole, fraction) != ("0", "") else ""
    return sign + whole + ("." + fraction if fraction else "")


RULES = {
    "lowercase": str.lower,
    "strip-punctuation": strip_punctuation,
    "strip-punctuation-inside": lambda text: "".join(c for c in text if not is_punctuation(c)),
    "strip-articles": lambda text: " ".join(w for w in words(text) if w.lower() not in ("a", "an", "the")),
    "strip-commas": lambda text: re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", text),
    "number": number,
    "collapse-space": lambda text: " ".join(words(text)),
}


def find(extract, raw):
    if extract is None:
        return raw
    which = -1 if extract.get("which", "last") == "last" else 0
    if "after" in extract:
        marker = extract["after"]
        # What stands behind a marker, up to the next one; the markers may not overlap.
        places = [i for i in range(len(raw)) if raw.startswith(marker, i)]
        if not places:
            return None
        rest = raw[places[which] + len(marker):].lstrip(WHITE)
        return re.split("[\n\r]", rest)[0].split(marker)[0]
    matches = list(re.finditer(extract["regex"], raw))
    if not matches:
        return None
    match = matches[which]
    if match.re.groups == 0:
        return match[0]
    return next((group for group in match.groups() if group is not None), None)


def answer(matching, raw):
    text = find(matching.get("extract"), raw)
    if text is None:
        return None
    text = text.strip(WHITE)
    for rule in matching.get("rules", []):
        if isinstance(rule, dict):
            for expression in rule["delete"]:
                text = re.sub(expression, "", text)
        else:
            text = RULES[rule](text)
        text = text.strip(WHITE)
    return text or None


MATCHINGS = [
    {},
    {"rules": ["lowercase", "strip-punctuation", "strip-articles", "collapse-space"]},
    {"rules": ["lowercase", "strip-punctuation-inside", "strip-articles"]},
    {"extract": {"after": "####"}, "rules": ["strip-commas", {"delete": ["[$]", "\\.$"]}, "number"]},
    {"extract": {"after": "####", "which": "first"}, "rules": ["strip-commas", "number"]},
    {"extract": {"regex": "#### (-?[0-9.,]+)", "which": "first"}, "rules": [{"delete": [",", "[$]", "\\.$"]}]},
    {"extract": {"regex": "-?[$0-9.,]{2,}|-?[0-9]+"}, "rules": [{"delete": ["[$]"]}, "strip-commas", "number"]},
    {"extract": {"regex": "(?i)the answer is ([^\\n.]+)|answer: ([a-z]+)"}, "rules": ["lowercase", "strip-punctuation"]},
    {"extract": {"after": "The answer is"}, "rules": ["number", "strip-punctuation", "number"]},
    {"rules": ["number"]},
    {"rules": ["collapse-space", "strip-commas", "lowercase"]},
]

FIXED = [
    "", " ", "\n\n", "5", "5.", "$5", "$5.", "1,000", "$1,000.00", "1,000,000", "12,34,567", "3,5", "1,00", "0", "-0", "-0.0", "+5",
    "05", "00", ".5", "-.50", ".", "-", "--5", "5-", "5.0.0", "1e3", "\u22125", "\u0665", "5 %", "5%", "(5)", "[5]", "five",
    "#### 5", "####5", "####", "#### ", "#### 5 ####", "#### 5 #### 6", "##### 5", "#### \n5", "#### \n\n  7\nnext", "text #### 5\n",
    "#### 1,000", "#### $1,234.50", "#### -3", "#### five", "#### 5 apples", "#### 5.", "a #### 5\r\nb", "#### #### 5", "########",
    "Question: 1+1?\nAnswer: 1+1=<<1+1=2>>2\n#### 2\n\nQuestion: 2+3?\nAnswer: 2+3=5\n#### 5",
    "Question: 1+1?\nAnswer: #### 2\n\nQuestion: 9*9?\nAnswer:",
    "So 3 + 4 = 7.\n#### 7\nQuestion: what is 8?\nAnswer: 8\n#### 8\nQuestion: what",
    "The answer is 42.", "the answer is Paris, I think", "The answer is\n12", "The answer is: 12", "The answer is -3.", "Answer: yes",
    "answer: No!", "ANSWER: Maybe", "The answer is The answer is 3", "The answer is 1,000. The answer is 2,000.",
    "Yes", "yes.", " YES ", "\"yes\"", "\u201cyes\u201d", "yes\u3002", "\u00abOui\u00bb", "no, no", "The cat", "a cat", "An apple a day",
    "the", "A", "a.", "The the THE", "the-cat", "theatre", "an, an", "cat\tsat\u00a0on\u3000mats", "  many   blanks  ", "e.g. this",
    "I_TURN_LEFT I_JUMP", "I_TURN_LEFT  I_JUMP\n", "I_WALK,I_WALK", "\u0130stanbul", "STRASSE \u1e9e", "\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3", "\u65e5\u672c\u3002",
    "it's", "don't stop", "rock 'n' roll", "C++", "C#", "$", "$$$", "...", "!?", "\u2014dash\u2014", "\x1c5\x1c", "\x1f", "\u200b5", "\ufeff5",
    "5 \n", "\n5", "5\x00", "12.50", "12.5", "0012.500", "1.", "1,000.", "1,0000", "a1,000b", "1,000,00", "9,999,999,999", "-1,234",
    "7 or 8", "7, 8 and 9", "from 3 to 4.", "3/4", "3.14.15", "10^6", "2 + 2 = 4", "x = -5", "$-5", "-$5", "50 cents", "1 000",
    "#### (12)", "#### 3 dollars and 50", "#### 1/2", "####\t9", "#### 9\u3000", "# ### 4", "##\u200b## 4", "not # a marker",
]


def random_texts(count):
    rng = random.Random(20261128)
    pieces = ["####", " ", "\n", "5", "1,000", "$", ".", ",", "-", "the", "The", "a", "an", "answer", "The answer is", "Answer:", "yes",
              "NO", "\u2212", "\u00a0", "\u201c", "\u201d", "\u3002", "(", ")", "0", "00", "7", "42", "\u00df", "\u00c9", "_", "'", "\"", "%", "\r\n", "\t"]
    return ["".join(rng.choice(pieces) for _ in range(rng.randrange(1, 12))) for _ in range(count)]


texts = FIXED + random_texts(160)
cases = [{"matching": m, "answers": [answer(m, text) for text in texts]} for m in MATCHINGS]
json.dump({"texts": texts, "cases": cases}, sys.stdout, indent=0)
print()
