#!/usr/bin/env python3
"""Makes a tiny Llama model (GGUF) and a text corpus for it, so that a whole pipeline runs without any download.

    build/venv/bin/python tools/make_tiny_host.py OUT.gguf OUT_TEXT_DIR

The text is about 200 KB of generated English-like sentences on a few topics, 80 documents in one file each. The
tokenizer is byte-level BPE with 200 merges trained on that text. The model is not trained by descent: its embedding is
a factorisation of the text's bigrams, its unembedding is fitted to predict the next token from it, and its blocks are
random but small beside the residual stream. So it predicts clearly better than chance, its activations fall into
clusters with a mean away from zero, and "#", which starts each document and turns up within some, is a token of outlier
norm. Weights use every block type that Thresher reads. The same files come out of every call on one machine.
Needs numpy and gguf.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy: the same bits, and faster for matrices this small

import gguf  # noqa: E402
import numpy as np  # noqa: E402
from gguf import GGMLQuantizationType as Type  # noqa: E402

N_BLOCKS, D_MODEL, N_HEADS, N_KV_HEADS, D_MLP, MAX_CONTEXT = 4, 64, 4, 2, 160, 512
N_MERGES, N_DOCUMENTS, SENTENCES_PER_DOCUMENT = 200, 80, 55
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
OUTLIER_TOKEN, OUTLIER_FACTOR = "#", 60.0

TOPICS = {
    "sea": "sailor captain harbour island storm sail lighthouse whale compass tide",
    "kitchen": "cook baker oven kettle bread pepper onion soup spoon flour",
    "forest": "hunter fox oak river path moss owl lantern wolf berry",
    "city": "driver clerk tram bridge market tower office window street bell",
    "machine": "engineer robot gear engine piston cable valve lever sensor battery",
    "school": "teacher pupil lesson library pencil essay map riddle chapter answer",
}
ADJECTIVES = "old quiet bright heavy small broken golden clever distant gentle hungry patient".split()
VERBS = "watched carried followed repaired counted painted forgot found lifted hid opened measured".split()
PLACES = "near behind under beside above inside beyond".split()
TIMES = ["In the morning", "At noon", "Late at night", "Once more", "Before the rain", "After a while"]


class Chooser:
    """A stream of choices that is the same on every machine and in every version of Python and numpy."""

    def __init__(self, seed):
        self.state = seed

    def below(self, limit):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return (self.state >> 33) % limit

    def pick(self, items):
        return items[self.below(len(items))]


def sentence(chooser, nouns):
    subject, thing, other = chooser.pick(nouns), chooser.pick(nouns), chooser.pick(nouns)
    adjective, verb = chooser.pick(ADJECTIVES), chooser.pick(VERBS)
    form = chooser.below(5)
    if form == 0:
        return f"The {adjective} {subject} {verb} the {thing}."
    if form == 1:
        return f"{chooser.pick(TIMES)} the {subject} {verb} a {adjective} {thing} {chooser.pick(PLACES)} the {other}."
    if form == 2:
        return f"There were {chooser.below(90) + 10} {thing}s {chooser.pick(PLACES)} the {adjective} {other}."
    if form == 3:
        return f"Who {verb} the {thing}? It was the {subject}, said the {other}."
    if chooser.below(6) == 0:
        return f"Note #{chooser.below(9) + 1}: the {subject} {verb} the {thing}."
    return f"No {subject} ever {verb} a {thing} {chooser.pick(PLACES)} the {other}, nor the {adjective} one."


def make_documents():
    chooser = Chooser(7)
    documents = []
    topics = sorted(TOPICS)
    for number in range(N_DOCUMENTS):
        nouns = TOPICS[topics[number % len(topics)]].split()
        parts = [f"# {chooser.pick(ADJECTIVES)} {chooser.pick(nouns)} {number + 1}\n\n"]
        for index in range(SENTENCES_PER_DOCUMENT):
            parts.append(sentence(chooser, nouns) + ("\n\n" if index % 7 == 6 else " "))
        documents.append("".join(parts).rstrip() + "\n")
    return documents


def byte_symbols():
    """The printable character that stands for each byte in byte-level BPE (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        if byte not in symbols:
            symbols[byte] = chr(256 + len(symbols) - len(plain))
    return symbols


def pieces_of(text):
    """Words with the space before them, single digits, runs of punctuation, runs of white space: close to what the
    tokenizer will do, which is all that learning merges needs."""
    piece, kind = "", ""
    for character in text:
        if character.isalpha():
            new = "letter"
        elif character.isdigit():
            new = "digit"
        else:
            new = "space" if character.isspace() else "mark"
        joins = (new == kind and new != "digit") or (piece == " " and new in ("letter", "mark"))
        if piece and not joins:
            yield piece
            piece = ""
        piece += character
        kind = new
    if piece:
        yield piece


def merge_pair(symbols, pair):
    out, index = [], 0
    while index < len(symbols):
        if tuple(symbols[index : index + 2]) == pair:
            out.append(pair[0] + pair[1])
            index += 2
        else:
            out.append(symbols[index])
            index += 1
    return out


def train_bpe(documents, table):
    counts = Counter(piece for text in documents for piece in pieces_of(text))
    words = {piece: [table[byte] for byte in piece.encode()] for piece in counts}
    merges = []
    for _ in range(N_MERGES):
        pairs = Counter()
        for piece, symbols in words.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += counts[piece]
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = {piece: merge_pair(symbols, best) for piece, symbols in words.items()}
    return merges, words


def bigram_counts(documents, words, ids):
    counts = np.zeros((len(ids), len(ids)))
    for text in documents:
        stream = [ids[symbol] for piece in pieces_of(text) for symbol in words[piece]]
        np.add.at(counts, (stream[:-1], stream[1:]), 1)
    return counts


def factorise(counts, random):
    """An embedding whose directions are the main ways in which next tokens depend on this one."""
    smoothed = counts + 0.05 * counts.sum(0) / counts.sum() + 1e-6
    conditional = np.log(smoothed / smoothed.sum(1, keepdims=True))
    centred = conditional - conditional.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(left[np.abs(left).argmax(0), np.arange(left.shape[1])])
    embedding = (left * signs * np.sqrt(singular))[:, :D_MODEL]
    embedding += 0.05 * embedding.std() * random.standard_normal(embedding.shape)
    mean = 0.5 * np.sqrt((embedding**2).mean()) * random.standard_normal(D_MODEL)
    return embedding / np.linalg.norm(embedding, axis=1, keepdims=True) * np.sqrt(D_MODEL) + mean


def fit_unembedding(embedding, counts, steps=120):
    """Softmax regression of the next token on the normalised embedding, by Adam over all bigrams at once."""
    seen = counts.sum(1) > 0
    counts = counts[seen].astype(np.float32)
    inputs = (embedding / np.sqrt((embedding**2).mean(1, keepdims=True)))[seen].astype(np.float32)
    weights = np.zeros(embedding.shape, dtype=np.float32)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, steps + 1):
        logits = inputs @ weights.T
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        probabilities = exponentials / exponentials.sum(1, keepdims=True)
        errors = (probabilities * counts.sum(1, keepdims=True) - counts) / counts.sum()
        gradient = errors.T @ inputs
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        weights -= 0.05 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-12)
    return weights


def add_weight(writer, name, values, kind):
    values = np.ascontiguousarray(values, dtype=np.float32)
    if kind == Type.F16:
        writer.add_tensor(name, values.astype(np.float16))
    elif kind == Type.F32:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def add_blocks(writer, random):
    d_head = D_MODEL // N_HEADS
    # Outputs are scaled so that each block moves the residual stream by about a tenth of its length.
    shapes = {
        "attn_q": (N_HEADS * d_head, D_MODEL, 2.0, Type.Q8_0),
        "attn_k": (N_KV_HEADS * d_head, D_MODEL, 2.0, Type.Q4_1),
        "attn_v": (N_KV_HEADS * d_head, D_MODEL, 1.0, Type.Q4_1),
        "attn_output": (D_MODEL, N_HEADS * d_head, 0.15, Type.Q4_1),
        "ffn_gate": (D_MLP, D_MODEL, 1.0, Type.Q4_1),
        "ffn_up": (D_MLP, D_MODEL, 1.0, Type.BF16),
        "ffn_down": (D_MODEL, D_MLP, 0.15, Type.F16),
    }
    for block in range(N_BLOCKS):
        for part in ("attn_norm", "ffn_norm"):
            gains = np.exp(0.1 * random.standard_normal(D_MODEL))
            add_weight(writer, f"blk.{block}.{part}.weight", gains, Type.F32)
        for part, (rows, columns, scale, kind) in shapes.items():
            values = scale / np.sqrt(columns) * random.standard_normal((rows, columns))
            add_weight(writer, f"blk.{block}.{part}.weight", values, kind)


def write_model(path, tokens, merges, embedding, unembedding, random):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny host of make_tiny_host.py")
    writer.add_block_count(N_BLOCKS)
    writer.add_context_length(MAX_CONTEXT)
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(D_MODEL // N_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    control = [gguf.TokenType.CONTROL] * len(SPECIAL_TOKENS)
    writer.add_token_types(control + [gguf.TokenType.NORMAL] * (len(tokens) - len(control)))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    gains = np.exp(0.1 * random.standard_normal(D_MODEL))
    add_weight(writer, "token_embd.weight", embedding, Type.Q8_0)
    add_weight(writer, "output.weight", unembedding / gains, Type.F16)
    add_weight(writer, "output_norm.weight", gains, Type.F32)
    add_blocks(writer, random)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description="Makes a tiny Llama model and text for it.")
    parser.add_argument("model", type=Path, help="GGUF file to write")
    parser.add_argument("text", type=Path, help="folder for the text files")
    arguments = parser.parse_args()
    arguments.model.parent.mkdir(parents=True, exist_ok=True)
    arguments.text.mkdir(parents=True, exist_ok=True)

    documents = make_documents()
    for number, text in enumerate(documents):
        (arguments.text / f"document-{number:03}.txt").write_text(text, encoding="utf-8", newline="\n")

    table = byte_symbols()
    merges, words = train_bpe(documents, table)
    tokens = SPECIAL_TOKENS + [table[byte] for byte in range(256)] + [a + b for a, b in merges]
    ids = {token: number for number, token in enumerate(tokens)}
    random = np.random.default_rng(11)
    counts = bigram_counts(documents, words, ids)
    embedding = factorise(counts, random)
    unembedding = fit_unembedding(embedding, counts)
    embedding[ids[OUTLIER_TOKEN]] *= OUTLIER_FACTOR
    write_model(arguments.model, tokens, merges, embedding, unembedding, random)

    text_bytes = sum(len(text.encode()) for text in documents)
    print(
        f"{arguments.model}: {N_BLOCKS} blocks, d_model {D_MODEL}, {len(tokens)} tokens; "
        f"{arguments.text}: {len(documents)} documents, {text_bytes} bytes",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
