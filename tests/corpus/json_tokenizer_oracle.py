"""Ids and decoded text of a tokenizer.json against the `tokenizers` library, id for id and byte for byte.

Files in the shapes of real models (GPT-2, RoBERTa, Llama 2 and 3, Qwen2, DeepSeek-V3, o200k, Mistral, Gemma, Phi-3 and
odd mixtures), made with the library itself from vocabularies learnt on a little of the handbook, and SmolLM2's own
vocabulary and merges out of its GGUF. Text: the handbook in fifteen languages (2 MB and more for the main shapes),
awkward mixtures, every character, invalid UTF-8, text that spells special tokens.
"""

import json
import os
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

sys.path.insert(0, str(Path(__file__).parent))
from tokenizer_oracle import (BROKEN, GPT2, LLAMA3, MODEL, PIECES, SMOLLM, SOURCE, SPELLING, TOOL, awkward_texts,
                              every_character, invalid_runs, long_runs)

LANGUAGES = ["handbook-en-US", "handbook-fr-FR", "handbook-es-ES"] + [
    f"languages/{name}" for name in ("zh-CN", "ja-JP", "ar-MA", "ko-KR", "ru-RU", "de-DE", "pt-BR", "id-ID", "nb-NO", "it-IT",
                                     "vi-VN", "pl-PL")]
BYTES_OF_A_LANGUAGE = 160_000
PATTERNS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
             r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
             r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    "deepseek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def translated_text(language, english):
    """Paragraphs that are not English ones left untranslated; one text a section, some 160 kB in all."""
    texts, size = [], 0
    for path in sorted((SOURCE / "data" / language).glob("*.txt")):
        blocks = path.read_text(encoding="utf-8").split("\n\n")
        text = "\n\n".join(block for block in blocks if language.endswith("en-US") or block not in english).encode()
        texts.append(text)
        size += len(text)
        if size >= BYTES_OF_A_LANGUAGE:
            break
    return texts


def handbook():
    """{language: texts}"""
    english = {block for path in (SOURCE / "data/handbook-en-US").glob("*.txt")
               for block in path.read_text(encoding="utf-8").split("\n\n")}
    return {language: translated_text(language, english) for language in LANGUAGES}


class Ours:
    def __init__(self, path):
        self.path = path

    def ask(self, kind, records, item):
        request = b"".join(struct.pack("<QQ", kind, len(record)) + record for record in records)
        done = subprocess.run([TOOL, self.path], input=request, capture_output=True, check=False)
        if done.returncode != 0:
            sys.exit(f"tokenize_tool failed: {done.stderr.decode()}")
        answers, at = [], 0
        for _ in records:
            (count,) = struct.unpack_from("<Q", done.stdout, at)
            answers.append(done.stdout[at + 8:at + 8 + item * count])
            at += 8 + item * count
        assert at == len(done.stdout)
        return answers

    def encode(self, texts, parse_special=False):
        return [list(struct.unpack(f"<{len(a) // 4}i", a)) for a in self.ask(int(parse_special), texts, 4)]

    def decode(self, lists):
        return self.ask(2, [struct.pack(f"<{len(ids)}i", *ids) for ids in lists], 1)


class Theirs:
    """The library decides valid text; a run of invalid bytes goes to its model as one word, or byte by byte."""

    def __init__(self, path):
        self.tokenizer = Tokenizer.from_file(str(path))
        self.is_byte_level = '"ByteLevel"' in json.dumps(json.loads(path.read_text())["pre_tokenizer"])

    def encode(self, text, parse_special=False):
        self.tokenizer.encode_special_tokens = not parse_special
        ids = []
        for run, is_valid in invalid_runs(text):
            if is_valid:
                ids += self.tokenizer.encode(run, add_special_tokens=False).ids
            elif self.is_byte_level:
                ids += [token.id for token in self.tokenizer.model.tokenize("".join(SPELLING[byte] for byte in run))]
            else:
                ids += [self.tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in run]
        return ids

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False)


def first_difference(name, text, found, expected):
    at = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
    print(f"FAIL {name}: {text[:200]!r}: differ from number {at} of {len(expected)}:")
    print(f"  ours   {found[max(at - 4, 0):at + 8]}\n  theirs {expected[max(at - 4, 0):at + 8]}")
    return False


def compare(name, path, texts, parse_special=False):
    """Ids of every text, then the text that its ids decode to."""
    ours, theirs = Ours(path), Theirs(path)
    expected = [theirs.encode(text, parse_special) for text in texts]
    for text, found, wanted in zip(texts, ours.encode(texts, parse_special), expected):
        if found != wanted:
            return first_difference(name, text, found, wanted)
    for text, ids, found in zip(texts, expected, ours.decode(expected)):
        wanted = theirs.decode(ids)
        # Where the library loses bytes to U+FFFD, ours are still there.
        shown = found.decode("utf-8", "replace")
        if shown != wanted and not ("\ufffd" in wanted and "\ufffd" in shown):
            return first_difference(f"{name}, decoded", text, shown, wanted)
    print(f"ok {name}: {len(texts)} texts, {sum(map(len, texts))} bytes, {sum(map(len, expected))} ids")
    return True


def round_trip(name, path, texts):
    ours = Ours(path)
    for text, back in zip(texts, ours.decode(ours.encode(texts))):
        if back != text:
            return first_difference(f"{name}, round trip", text, list(back), list(text))
    print(f"ok {name}: {len(texts)} texts come back byte for byte")
    return True


def learn(pre_tokenizer, texts, alphabet, vocabulary_size, specials):
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, show_progress=False, initial_alphabet=alphabet,
                                  special_tokens=specials, limit_alphabet=1500)
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def byte_level(vocabulary, merges, pre_tokenizer, normalizer=None, prefix=False, **options):
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, **options))
    tokenizer.normalizer = normalizer
    parts = [pre_tokenizer] if pre_tokenizer else []
    if parts:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts + [pre_tokenizers.ByteLevel(prefix, use_regex=False)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tokenizer


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level_shapes(texts):
    vocabulary, merges = learn(GPT2, texts, sorted(SPELLING.values()), 6000, [])
    vocabulary["Ġunmergeable"] = len(vocabulary)
    shapes = {
        "GPT-2": byte_level(vocabulary, merges, None),
        "RoBERTa": byte_level(vocabulary, merges, None, prefix=True),
        "Llama 3": byte_level(vocabulary, merges, LLAMA3_SPLIT, ignore_merges=True),
        "Qwen2": byte_level(vocabulary, merges, split(PATTERNS["qwen2"]), normalizers.NFC()),
        "DeepSeek-V3": byte_level(vocabulary, merges, pre_tokenizers.Sequence(
            [split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(PATTERNS["deepseek"])])),
        "o200k": byte_level(vocabulary, merges, split(PATTERNS["o200k"])),
        "cl100k": byte_level(vocabulary, merges, split(PATTERNS["cl100k"], "removed", True)),
        "NFKC and lower case": byte_level(vocabulary, merges, pre_tokenizers.Digits(False), normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(left=True, right=False)])),
        "NFD, words and punctuation": byte_level(vocabulary, merges, pre_tokenizers.Sequence(
            [split(r"[\w'-]+|\W", "contiguous"), pre_tokenizers.Punctuation("merged_with_previous")]), normalizers.NFD()),
        "NFKD": byte_level(vocabulary, merges, pre_tokenizers.Punctuation("contiguous"), normalizers.NFKD()),
    }
    # Added tokens with every setting; one that another contains, one that only its normal form shows.
    phi = byte_level(vocabulary, merges, None, normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]))
    phi.add_special_tokens([AddedToken("<|user|>", rstrip=True), AddedToken("<mask>", lstrip=True), AddedToken("<|u")])
    phi.add_tokens([AddedToken("AND", single_word=True), AddedToken("  ", normalized=False), AddedToken("e\u0301tat"),
                    AddedToken("Don", lstrip=True, rstrip=True, normalized=True), AddedToken("\n\n", normalized=False)])
    shapes["added tokens"] = phi
    return shapes


LLAMA3_SPLIT = json.loads(LLAMA3.__getstate__())["pretokenizers"][0]
LLAMA3_SPLIT = split(LLAMA3_SPLIT["pattern"]["Regex"])


def sentence_piece_shapes(texts):
    bytes_and_specials = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    mark = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    vocabulary, merges = learn(mark, texts, [], 6000, bytes_and_specials)

    def make(normalizer, pre_tokenizer, decoder, byte_fallback=True):
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True,
                                         byte_fallback=byte_fallback))
        tokenizer.normalizer = normalizer
        if pre_tokenizer:
            tokenizer.pre_tokenizer = pre_tokenizer
        tokenizer.decoder = decoder
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in bytes_and_specials[:3]])
        return tokenizer

    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    llama = decoders.Sequence(back + [decoders.Strip(" ", 1, 0)])
    shapes = {
        "Llama 2": make(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None, llama),
        "Mistral": make(None, pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False), llama),
        "Metaspace": make(normalizers.NFKC(), mark, decoders.Metaspace("▁", prepend_scheme="always")),
        "Metaspace, never": make(normalizers.Replace(Regex(r"\s{2,}"), " "), pre_tokenizers.Metaspace("▁", "never"),
                                 decoders.Metaspace("▁", prepend_scheme="never")),
        "Gemma": make(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), decoders.Sequence(back)),
        "unknown characters": make(normalizers.Strip(), pre_tokenizers.Whitespace(), decoders.Fuse(), byte_fallback=False),
        "white space": make(None, pre_tokenizers.WhitespaceSplit(), None, byte_fallback=False),
    }
    shapes["Llama 2"].post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    unfused = json.loads(shapes["unknown characters"].to_str())
    unfused["model"]["fuse_unk"] = False
    shapes["unknown characters apart"] = Tokenizer.from_str(json.dumps(unfused))
    return shapes


def smollm2():
    from gguf import GGUFReader

    fields = GGUFReader(MODEL).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = SMOLLM
    tokenizer.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"].contents()
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, types) if kind == 3])
    return tokenizer


MAIN = {"SmolLM2", "GPT-2", "Llama 3", "Qwen2", "Llama 2"}  # on all of the text
ALL_CHARACTERS = {"Qwen2", "NFKD"}
LOSSLESS = {"GPT-2", "Llama 3"}
FORGED = [b"<s>", b"a</s>b", b"<unk> <0x41>", b"<|user|>  \n x<mask>", b" AND and Band AND", b"x  y", "état E\u0301TAT".encode(),
          b"Don Donald do n", b"\n\n\n", b"<|u<|user|>", b"<|im_start|>user\n", b" unmergeable an unmergeable", b" ", b"",
          b"  <mask>  <|user|>  ", "▁ ▁▁".encode(), "İSTANBUL ΣΑΣ ẞ".encode()]


def check_shape(name, path, texts, characters):
    results = [compare(f"{name}, handbook", path, texts if name in MAIN else texts[::8]),
               compare(f"{name}, awkward", path, FORGED + awkward_texts(False, 400, 5)),
               compare(f"{name}, awkward, special parsed", path, FORGED + awkward_texts(False, 600, 6), parse_special=True),
               compare(f"{name}, every character", path, characters if name in ALL_CHARACTERS else characters[::10])]
    if "unknown" not in name and name != "white space":
        results.append(compare(f"{name}, invalid UTF-8", path, BROKEN + awkward_texts(True, 600, 7)))
    if name in LOSSLESS:
        results.append(round_trip(name, path, BROKEN + awkward_texts(True, 600, 8) + texts[::9]))
    return results


def main():
    if not MODEL.exists() or not (SOURCE / "data/languages").is_dir():
        print(f"{MODEL} or data/languages is missing: run tools/setup.sh test")
        return 1
    book = handbook()
    texts = [text for language in book.values() for text in language]
    print(f"{len(book)} languages, {len(texts)} texts, {sum(map(len, texts))} bytes")
    assert len(book) >= 10 and sum(map(len, texts)) >= 2_000_000
    sample = [text.decode()[:12_000] for language in book.values() for text in language[:3]]
    shapes = {"SmolLM2": smollm2(), **byte_level_shapes(sample), **sentence_piece_shapes(sample)}
    characters = every_character()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name, tokenizer in shapes.items():
            path = Path(folder) / f"{name}.json"
            tokenizer.save(str(path))
            results += check_shape(name, path, texts, characters)
        results.append(compare("GPT-2, long runs", Path(folder) / "GPT-2.json", long_runs()))
        results.append(compare("Llama 2, long runs", Path(folder) / "Llama 2.json", [run[:50_000] for run in long_runs()]))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
