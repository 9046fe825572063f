"""Token ids of our byte-level BPE against the `tokenizers` library, id for id.

On SmolLM2's real vocabulary: the handbook in English (at least 1 MB), parts of it in other languages, every Unicode
character in three settings, random mixtures of awkward pieces, and special-token text with and without
parse_special. On a small vocabulary trained here: the other pre-tokenizers that we know.
"""

import json
import os
import random
import re
import struct
import subprocess
import sys
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers

SOURCE = Path(os.environ["THRESHER_SOURCE_DIR"])
TOOL = Path(os.environ["THRESHER_BIN"]) / "tokenize_tool"
MODEL = SOURCE / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
ENGLISH = SOURCE / "data/handbook-en-US"

GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
SMOLLM = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)


def byte_spelling():
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    spelling = {b: chr(b) for b in printable}
    for number, byte in enumerate(b for b in range(256) if b not in spelling):
        spelling[byte] = chr(256 + number)
    return spelling


SPELLING = byte_spelling()


def invalid_runs(text):
    """[(run, is_valid)]: text's maximal runs of valid UTF-8 (as str) and of other bytes (as bytes)."""
    for run in re.split("([\udc80-\udcff]+)", text.decode("utf-8", "surrogateescape")):
        if run and "\udc80" <= run[0] <= "\udcff":
            yield run.encode("utf-8", "surrogateescape"), False
        elif run:
            yield run, True


class Ours:
    """Sends all records at once and reads all answers."""

    def __init__(self, arguments, vocabulary=b""):
        self.arguments = arguments
        self.vocabulary = vocabulary

    def encode(self, records, parse_special=False):
        request = self.vocabulary + b"".join(
            struct.pack("<QQ", parse_special, len(record)) + record for record in records
        )
        done = subprocess.run([TOOL, *self.arguments], input=request, capture_output=True, check=False)
        if done.returncode != 0:
            sys.exit(f"tokenize_tool failed: {done.stderr.decode()}")
        answers, at = [], 0
        for _ in records:
            (count,) = struct.unpack_from("<Q", done.stdout, at)
            answers.append(list(struct.unpack_from(f"<{count}i", done.stdout, at + 8)))
            at += 8 + 4 * count
        assert at == len(done.stdout)
        return answers


class Theirs:
    """`tokenizer` decides valid text; a run of invalid bytes goes to its BPE model as one word."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def encode(self, record):
        ids = []
        for run, is_valid in invalid_runs(record):
            if is_valid:
                ids += self.tokenizer.encode(run, add_special_tokens=False).ids
            else:
                spelled = "".join(SPELLING[byte] for byte in run)
                ids += [token.id for token in self.tokenizer.model.tokenize(spelled)]
        return ids


def compare(name, ours, theirs, records, parse_special=False):
    n_bytes = n_ids = 0
    for record, found in zip(records, ours.encode(records, parse_special)):
        expected = theirs.encode(record)
        n_bytes += len(record)
        n_ids += len(expected)
        if found != expected:
            at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
            print(f"FAIL {name}: {record[:200]!r}: ids differ from number {at} of {len(expected)}:")
            print(f"  ours   {found[at:at + 8]}\n  theirs {expected[at:at + 8]}")
            return False
    print(f"ok {name}: {len(records)} texts, {n_bytes} bytes, {n_ids} ids")
    return True


PIECES = [
    *("a", "the", "Don't", "we'll", "I'VE", "'s", "’s", " ", "  ", "\t", "\n", "\r\n", "\r", "\n\n", "\0", "\0\0", "0"),
    *("42", "1234567", "3.14", "½", "²", "Ⅷ", "٣", "𝟘", "é", "e\u0301", "n\u0303o", "ß", "ſ", "İ", "K", "'ſ", "\u00a0"),
    *("\u0085", "\u180e", "\u200b", "\u200d", "\u2028", "\u3000", "\ufeff", "\ufffd", "中文", "日本語", "한국어", "العربية"),
    *("مرحبا", "हिन्दी", "ไทย", "😀", "👩‍👩‍👧‍👦", "🇫🇷", "👍🏽", "_", "-", "--", "...", "=>", "$", "€", "\\", "\x7f", "\x04", "\U00010ffff"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start", "|>", "<repo_name>", "<file_sep>"),
]
BROKEN = [b"\x80", b"\xff", b"\xfe\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80"]


def awkward_texts(with_broken, count, seed):
    draw = random.Random(seed)
    pool = [piece.encode() for piece in PIECES] + (BROKEN if with_broken else [])
    return [b"".join(draw.choices(pool, k=draw.randint(0, 40))) for _ in range(count)]


def every_character():
    """Each assigned character between letters, spaces and digits, a few thousand a text. Which code points are letters
    grows with Unicode's versions, so those that this Python does not know yet are left out."""
    texts, text = [], []
    for code in range(0x110000):
        if 0xD800 <= code <= 0xDFFF or unicodedata.category(chr(code)) == "Cn":
            continue
        text.append(f"a{chr(code)}b {chr(code)}{chr(code)} 1{chr(code)}2  {chr(code)}\n")
        if len(text) == 4096:
            texts.append("".join(text).encode())
            text = []
    return texts + ["".join(text).encode()]


def long_runs():
    runs = [b"a" * 1_000_000, b" " * 300_000, b" " * 300_000 + b"x", b"\n" * 100_000, b"\0" * 100_000, b"7" * 100_000]
    return runs + [b"\xff" * 100_000, b"ab" * 200_000, "中".encode() * 100_000, b"'" * 50_000, b" \n" * 100_000]


def smollm2_checks():
    from gguf import GGUFReader

    if not MODEL.exists() or not ENGLISH.is_dir():
        print(f"{MODEL} or {ENGLISH} is missing: run tools/setup.sh")
        return [False]
    fields = GGUFReader(MODEL).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    vocabulary = {token: number for number, token in enumerate(tokens)}

    def make(with_special):
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        tokenizer.pre_tokenizer = SMOLLM
        if with_special:
            special = [token for token, kind in zip(tokens, types) if kind == 3]
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
        return Theirs(tokenizer)

    ours, plain, special = Ours([MODEL]), make(False), make(True)
    english = [path.read_bytes() for path in sorted(ENGLISH.glob("*.txt"))]
    assert sum(map(len, english)) >= 1_000_000
    others = [
        path.read_bytes()
        for language in ("fr-FR", "es-ES")
        for path in sorted((SOURCE / f"data/handbook-{language}").glob("*.txt"))[:20]
    ]
    return [
        compare("English", ours, plain, english),
        compare("English as one text", ours, plain, [b"".join(english)]),
        compare("French and Spanish", ours, plain, others),
        compare("every character", ours, plain, every_character()),
        compare("long runs", ours, plain, long_runs()),
        compare("awkward", ours, plain, [b""] + awkward_texts(False, 3000, 1)),
        compare("awkward and invalid UTF-8", ours, plain, awkward_texts(True, 3000, 2)),
        compare("awkward, special parsed", ours, special, awkward_texts(False, 3000, 3), parse_special=True),
    ]


def small_vocabulary_checks(name, pre_tokenizer, ignore_merges):
    """A vocabulary learnt from our own sources, with all 256 bytes."""
    text = "\n".join(path.read_text() for path in sorted((SOURCE / "corpus").glob("*.cpp")))
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=1500, show_progress=False, initial_alphabet=sorted(SPELLING.values()), special_tokens=[]
    )
    trained.train_from_iterator([text, " ".join(PIECES)] * 2, trainer)
    vocabulary = trained.get_vocab()
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    # A piece (with its leading space) that no merges make: only ignore_merges finds it.
    vocabulary["Ġunmergeable"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokens = sorted(vocabulary, key=vocabulary.get)
    lists = b""
    for entries in (tokens, [" ".join(merge) for merge in merges]):
        encoded = [entry.encode() for entry in entries]
        lists += struct.pack("<Q", len(encoded)) + b"".join(struct.pack("<Q", len(e)) + e for e in encoded)
    ours, theirs = Ours(["--vocabulary", name], lists), Theirs(tokenizer)
    texts = [text.encode(), b"an unmergeable word"] + awkward_texts(True, 2000, 4)
    return [
        compare(f"{name}, small vocabulary", ours, theirs, texts),
        compare(f"{name}, every character", ours, theirs, every_character()[:8]),
    ]


def main():
    results = smollm2_checks()
    results += small_vocabulary_checks("gpt-2", GPT2, ignore_merges=False)
    results += small_vocabulary_checks("llama-bpe", LLAMA3, ignore_merges=True)
    results += small_vocabulary_checks("smollm", SMOLLM, ignore_merges=False)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
