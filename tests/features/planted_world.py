"""A world in which it is known which direction means what: a language model, its true dictionary as an SAE, and texts.

    build/venv/bin/python tests/features/planted_world.py FOLDER

    world.gguf       a Llama whose blocks add nothing, so the residual stream is the embedding at every hook point. The
                     embedding of a word is SCALE * (its concept's direction, if it has one, + two background directions)
                     + noise; the unembedding raises, behind a word with a concept, the words of that concept.
    dictionary/      the directions as an SAE in SAELens' layout (jumprelu), in shuffled order, among spare ones that no
                     word has.
    texts.jsonl      {"text", "topic", "coin", "section"} a line. A text of a topic has more words of the topic's
                     CONCEPTS_PER_TOPIC concepts; "coin" has nothing to do with anything.
    truth.json       see `make`.

Backgrounds are the same in all concepts, so a background direction says nothing about the topic. The same files come
out of every call on one machine.
"""
import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from make_tiny_host import byte_symbols  # noqa: E402

TOPICS = ["tides", "bread", "foxes", "trams", "gears", "maps"]
CONCEPTS_PER_TOPIC, BACKGROUND_PAIRS, SPARE = 3, 8, 30
D_MODEL, N_BLOCKS, SCALE, NOISE, UNEMBEDDING = 64, 2, 8.0, 0.05, 0.6
SECTIONS, WORDS_PER_TEXT, OWN_SHARE, ANY_SHARE = 40, 60, 0.3, 0.2
HOOK_POINT = "blocks.1.hook_resid_post"
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


def vocabulary(n_words):
    """Tokens, merges, and the words: two syllables each, with the space before them one token."""
    table = byte_symbols()
    space = table[ord(" ")]
    words = [SYLLABLES[(7 * i) % 70] + SYLLABLES[(i + i // 70) % 70] for i in range(n_words)]
    assert len(set(words)) == n_words
    merges = [(syllable[0], syllable[1]) for syllable in SYLLABLES]
    merges += [(word[:2], word[2:]) for word in words] + [(space, word) for word in words]
    tokens = ["<|endoftext|>"] + [table[byte] for byte in range(256)] + [a + b for a, b in merges]
    ids = {word: tokens.index(space + word) for word in words}
    return tokens, merges, words, ids


def write_model(path, tokens, merges, embedding, unembedding):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("planted world")
    writer.add_block_count(N_BLOCKS)
    writer.add_context_length(512)
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(D_MODEL // 2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (len(tokens) - 1))
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    tensors = {"token_embd.weight": embedding, "output.weight": unembedding, "output_norm.weight": np.ones(D_MODEL)}
    for block in range(N_BLOCKS):
        tensors |= {f"blk.{block}.{norm}_norm.weight": np.ones(D_MODEL) for norm in ("attn", "ffn")}
        tensors |= {f"blk.{block}.attn_{part}.weight": np.zeros((D_MODEL, D_MODEL)) for part in ("q", "k", "v", "output")}
        tensors |= {f"blk.{block}.ffn_{part}.weight": np.zeros((32, D_MODEL)) for part in ("gate", "up")}
        tensors[f"blk.{block}.ffn_down.weight"] = np.zeros((D_MODEL, 32))
    for name, values in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_dictionary(folder, directions):
    """Unit directions [latents, D_MODEL], orthogonal: a latent's activation is the projection where it exceeds a
    quarter of what the weakest planted direction has."""
    folder.mkdir(parents=True, exist_ok=True)
    n_latents = len(directions)
    config = {"dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True, "normalize_activations": "none",
              "reshape_activations": "none",
              "metadata": {"sae_lens_version": "6.48.0", "model_name": "planted-world", "hook_name": HOOK_POINT,
                           "context_size": 128},
              "d_in": D_MODEL, "d_sae": n_latents, "architecture": "jumprelu"}
    (folder / "cfg.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {"W_enc": directions.T, "b_enc": np.zeros(n_latents), "W_dec": directions, "b_dec": np.zeros(D_MODEL),
               "threshold": np.full(n_latents, 0.25 * 0.6 * SCALE)}
    save_file({name: np.ascontiguousarray(values, dtype=np.float32) for name, values in weights.items()},
              folder / "sae_weights.safetensors")


def make_texts(random, words):
    """`words[concept][pair]`, the last concept standing for none."""
    n_concepts = len(words) - 1
    for section in range(SECTIONS):
        for number, topic in enumerate(TOPICS):
            text = ""
            for _ in range(WORDS_PER_TEXT):
                draw = random.random()
                if draw < OWN_SHARE:
                    concept = number * CONCEPTS_PER_TOPIC + random.integers(CONCEPTS_PER_TOPIC)
                elif draw < OWN_SHARE + ANY_SHARE:
                    concept = random.integers(n_concepts)
                else:
                    concept = n_concepts
                text += " " + words[concept][random.integers(BACKGROUND_PAIRS)]
            yield {"text": text, "topic": topic, "coin": str(random.integers(2)), "section": f"s{section:02}"}


def make(folder, seed=5):
    """Writes the world and returns what truth.json holds: "hook_point"; "topics" {topic: [latents planted for it]};
    "backgrounds" [latents]; "spare" [latents that never fire]; "latents" {latent: [words that have it]};
    "word_ids" {word: token id of the word with the space before it}."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    n_concepts = len(TOPICS) * CONCEPTS_PER_TOPIC
    n_planted = n_concepts + 2 * BACKGROUND_PAIRS
    assert n_planted + SPARE <= D_MODEL
    directions = np.linalg.qr(random.standard_normal((D_MODEL, D_MODEL)))[0].T[: n_planted + SPARE]
    tokens, merges, flat_words, ids = vocabulary((n_concepts + 1) * BACKGROUND_PAIRS)
    words = [flat_words[i * BACKGROUND_PAIRS : (i + 1) * BACKGROUND_PAIRS] for i in range(n_concepts + 1)]

    embedding = SCALE * random.standard_normal((len(tokens), D_MODEL)) / np.sqrt(D_MODEL)
    unembedding = np.zeros((len(tokens), D_MODEL))
    words_of = {feature: [] for feature in range(n_planted + SPARE)}
    for concept, row in enumerate(words):
        for pair, word in enumerate(row):
            first = n_concepts + 2 * pair
            vector = 0.8 * directions[first] + 0.6 * directions[first + 1]
            features = [first, first + 1]
            if concept < n_concepts:
                vector = vector + directions[concept]
                features.append(concept)
                unembedding[ids[word]] = UNEMBEDDING * directions[concept]
            noise = NOISE * random.standard_normal(D_MODEL) / np.sqrt(D_MODEL)
            embedding[ids[word]] = SCALE * (vector + noise)
            for feature in features:
                words_of[feature].append(word)
    unembedding[[i for i in range(len(tokens)) if i not in ids.values()]] = -0.3 * directions[:n_concepts].sum(0)
    write_model(folder / "world.gguf", tokens, merges, embedding, unembedding)

    latent_of = random.permutation(n_planted + SPARE)  # of each feature
    shuffled = np.empty_like(directions)
    shuffled[latent_of] = directions
    write_dictionary(folder / "dictionary", shuffled)

    lines = [json.dumps(text) + "\n" for text in make_texts(random, words)]
    (folder / "texts.jsonl").write_text("".join(lines))
    latents = latent_of.tolist()
    truth = {
        "hook_point": HOOK_POINT,
        "topics": {topic: latents[i * CONCEPTS_PER_TOPIC : (i + 1) * CONCEPTS_PER_TOPIC]
                   for i, topic in enumerate(TOPICS)},
        "backgrounds": latents[n_concepts:n_planted],
        "spare": latents[n_planted:],
        "latents": {str(latents[feature]): found for feature, found in words_of.items()},
        "word_ids": ids,
    }
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    return truth


if __name__ == "__main__":
    make(sys.argv[1])
