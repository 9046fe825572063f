"""The feature store of a tiny run against brute force in numpy: the cache read with h5py, the SAE with safetensors."""
import json
import os
import sqlite3
import struct
import sys
import unittest
from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import load_file

SOURCE = Path(os.environ["THRESHER_SOURCE_DIR"])
sys.path[:0] = [str(SOURCE / "tests/cli"), str(SOURCE / "tests/host_model")]
import hf_twin  # noqa: E402
from program import TinyRunTest, run  # noqa: E402

HOOK = "activations/blocks.2.hook_resid_post"
CLOSE = {"rtol": 2e-4, "atol": 2e-4}


def cached_rows(folder):
    """(activations, context, position) of every row, and {context: token ids}."""
    parts, tokens = {HOOK: [], "context": [], "position": []}, {}
    for path in sorted((folder / "shards").glob("*.h5")):
        with h5py.File(path) as shard:
            for name, part in parts.items():
                part.append(shard[name][:].astype(np.float32 if name == HOOK else np.int64))
            first = int(shard.attrs["first_context"])
            for i, ids in enumerate(shard["contexts/token_ids"][:]):
                tokens[first + i] = ids
    return *(np.concatenate(part) for part in parts.values()), tokens


def encode(folder, x):
    weights = load_file(folder / "sae_weights.safetensors")
    config = json.loads((folder / "cfg.json").read_text())
    x = x - weights["b_dec"] if config["apply_b_dec_to_input"] else x
    acts = np.maximum(x @ weights["W_enc"] + weights["b_enc"], 0)
    if config["architecture"] == "topk":
        rest = np.argsort(-acts, axis=1, kind="stable")[:, config["k"]:]
        np.put_along_axis(acts, rest, 0, axis=1)
    return acts, weights["W_dec"]


class Store(TinyRunTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.built = cls.build()
        cls.x, cls.context, cls.position, cls.tokens = cached_rows(cls.workspace / "caches/tiny")
        cls.acts, cls.decoders, cls.peaks = {}, {}, {}
        for name in ("topk", "relu_l1"):
            acts, cls.decoders[name] = encode(cls.workspace / "runs/tiny/sae" / name, cls.x)
            cls.acts[name] = acts
            peaks = np.zeros((len(cls.tokens), acts.shape[1]), np.float32)
            np.maximum.at(peaks, cls.context, acts)
            cls.peaks[name] = peaks

    @classmethod
    def build(cls, *arguments, ranks=None):
        result = run("features", "build", "runs/tiny", "--json", *arguments, ranks=ranks, cwd=cls.workspace)
        if result.returncode != 0:
            raise AssertionError(result.stderr)
        return json.loads(result.stdout)

    def stores(self):
        for name in ("topk", "relu_l1"):
            with self.subTest(name):
                database = sqlite3.connect(self.workspace / f"runs/tiny/features/{name}.sqlite")
                yield name, database
                database.close()

    def show(self, latent, sae="topk"):
        result = self.run_here("features", "show", "runs/tiny", latent, "--sae", sae, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def test_says_what_it_was_made_from(self):
        self.assertEqual(self.built["n_tokens"], len(self.x))
        for name, database in self.stores():
            facts = json.loads(database.execute("SELECT json FROM facts").fetchone()[0])
            self.assertEqual((facts["sae"], facts["n_latents"], facts["n_tokens"], facts["n_contexts"]),
                             (name, self.acts[name].shape[1], len(self.x), len(self.tokens)))
            cache = json.loads((self.workspace / "caches/tiny/cache.json").read_text())
            self.assertEqual(facts["text"], {"from": "cache", "dtype": "bfloat16", "corpus": cache["corpus"]})

    def test_density_mean_maximum_and_histogram(self):
        for name, database in self.stores():
            acts = self.acts[name]
            rows = database.execute("SELECT n_fired, mean, maximum, histogram FROM latents ORDER BY id").fetchall()
            fired = (acts > 0).sum(axis=0)
            self.assertLess(np.abs(np.array([row[0] for row in rows]) - fired).max(), 3)  # of the last bit
            self.assertGreater(fired.max(), 100)
            mean = acts.astype(np.float64).sum(axis=0) / np.maximum(fired, 1)
            often = fired > 50
            np.testing.assert_allclose(np.array([row[1] for row in rows])[often], mean[often], rtol=1e-2)
            np.testing.assert_allclose([row[2] for row in rows], acts.max(axis=0), **CLOSE)
            for latent in np.nonzero(often)[0][:40]:
                bins = json.loads(rows[latent][3])
                self.assertEqual(sum(count for _, count in bins), rows[latent][0])
                edges = 2.0 ** (np.arange(129) / 4 - 12)
                values = acts[:, latent][acts[:, latent] > 0]
                expected = np.histogram(np.clip(values, edges[0], edges[-2]), edges)[0]  # the ends hold the rest
                found = np.zeros(128, int)
                for place, count in bins:
                    found[place] = count
                self.assertLess(np.abs(found - expected).sum(), max(5, 0.005 * len(values)))

    def test_top_contexts_equal_a_brute_force_pass(self):
        for name, database in self.stores():
            peaks = self.peaks[name]
            n_compared = 0
            for latent in range(peaks.shape[1]):
                rows = database.execute("SELECT activation, context, position FROM examples WHERE latent = ? "
                                        "AND kind = 0 ORDER BY place", (latent,)).fetchall()
                expected = np.sort(peaks[:, latent][peaks[:, latent] > 1e-3])[::-1][:20]
                self.assertGreaterEqual(len(rows), len(expected))
                found = np.array([row[0] for row in rows[:len(expected)]])
                np.testing.assert_allclose(found, expected, **CLOSE)
                for activation, context, position in rows[:len(expected)]:
                    np.testing.assert_allclose(activation, peaks[context, latent], **CLOSE)
                    at = (self.context == context) & (self.position == position)
                    np.testing.assert_allclose(activation, self.acts[name][at, latent][0], **CLOSE)
                    n_compared += 1
                self.assertEqual(len({row[1] for row in rows}), len(rows), "a context twice")
                order = [(-activation, context, position) for activation, context, position in rows]
                self.assertEqual(order, sorted(order))
            self.assertGreater(n_compared, 1000)

    def test_windows_hold_the_text_and_its_activations(self):
        fired = (self.acts["topk"] > 0).sum(axis=0)
        for latent in np.argsort(-fired)[[0, 5, 60]]:
            for example in self.show(latent)["examples"]:
                begin, end = example["start"], example["start"] + len(example["tokens"])
                self.assertTrue(begin <= example["position"] < end)
                expected = np.zeros(end - begin, np.float32)
                here = (self.context == example["context"]) & (self.position >= begin) & (self.position < end)
                expected[self.position[here] - begin] = self.acts["topk"][here, latent]
                np.testing.assert_allclose(example["activations"], expected, **CLOSE)
                if example["kind"] == "silent":
                    self.assertEqual(max(example["activations"]), 0)
        database = sqlite3.connect(self.workspace / "runs/tiny/features/topk.sqlite")
        for context, ids in database.execute("SELECT id, token_ids FROM contexts"):
            np.testing.assert_array_equal(struct.unpack(f"<{len(ids) // 4}i", ids), self.tokens[context])
        database.close()

    def test_a_latent_that_fires_elsewhere_in_a_context_has_silent_windows_there(self):
        for name, database in self.stores():
            fires, beside = self.acts[name] > 0, 0
            for latent, context, start, n in database.execute("SELECT latent, context, start, n_tokens FROM examples WHERE kind = 2"):
                inside = (self.context == context) & (self.position >= start) & (self.position < start + n)
                self.assertFalse(fires[inside, latent].any())
                beside += bool(self.peaks[name][context, latent] > 0)
            self.assertGreater(beside, 0)

    def test_quantile_groups_are_equal_parts_of_a_sample(self):
        for name, database in self.stores():
            for latent in range(0, self.acts[name].shape[1], 7):
                rows = database.execute("SELECT quantile, activation, context FROM examples WHERE latent = ? "
                                        "AND kind = 1 ORDER BY place", (latent,)).fetchall()
                n_firing = (self.peaks[name][:, latent] > 1e-3).sum()
                self.assertGreaterEqual(len(rows), min(25, n_firing))
                self.assertLessEqual(len(rows), 25)
                self.assertEqual([row[1] for row in rows], sorted((row[1] for row in rows), reverse=True))
                groups = [row[0] for row in rows]
                self.assertEqual(groups, sorted(groups, reverse=True))
                if len(rows) == 25:
                    self.assertEqual([groups.count(group) for group in range(5)], [5] * 5)
                for _, activation, context in rows:
                    np.testing.assert_allclose(activation, self.peaks[name][context, latent], **CLOSE)

    def test_co_firing_is_counted_over_all_tokens(self):
        for name, database in self.stores():
            fires = (self.acts[name] > 0).astype(np.float64)
            both = fires.T @ fires
            alone = np.diag(both)
            for latent in np.argsort(-alone)[:30]:
                jaccard = both[latent] / np.maximum(alone[latent] + alone - both[latent], 1)
                jaccard[latent] = 0
                partners = json.loads(database.execute("SELECT co_firing FROM latents WHERE id = ?",
                                                       (int(latent),)).fetchone()[0])
                np.testing.assert_allclose([partner[2] for partner in partners], np.sort(jaccard)[::-1][:10], atol=2e-3)
                for other, n_both, _, pmi in partners:
                    self.assertLess(abs(n_both - both[latent, other]), 4)
                    expected = np.log(both[latent, other] * len(self.x) / (alone[latent] * alone[other]))
                    self.assertAlmostEqual(pmi, expected, delta=0.05)

    def test_neighbours_and_logit_effects(self):
        twin = hf_twin.load_twin(self.workspace / "models/tiny.gguf")
        unembedding = (twin.lm_head.weight * twin.model.norm.weight).detach().numpy()
        for name, database in self.stores():
            decoder = self.decoders[name]
            unit = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
            cosines, effects = unit @ unit.T, decoder @ unembedding.T
            np.fill_diagonal(cosines, -9)
            for latent, *lists in database.execute("SELECT id, neighbours, promoted, suppressed FROM latents"):
                neighbours, promoted, suppressed = map(json.loads, lists)
                for found, values, sign in ((neighbours, cosines[latent], 1), (promoted, effects[latent], 1),
                                            (suppressed, effects[latent], -1)):
                    np.testing.assert_allclose([figure for _, figure in found],
                                               sign * np.sort(sign * values)[::-1][:10], atol=1e-4)
                    for number, figure in found:
                        self.assertAlmostEqual(figure, values[number], delta=1e-4)

    def test_any_number_of_ranks_makes_the_same_file(self):
        self.build("--out", "two.sqlite", "--sae", "topk", ranks=2)
        self.build("--out", "three.sqlite", "--sae", "topk", ranks=3)
        expected = (self.workspace / "runs/tiny/features/topk.sqlite").read_bytes()
        self.assertEqual((self.workspace / "two.sqlite").read_bytes(), expected)
        self.assertEqual((self.workspace / "three.sqlite").read_bytes(), expected)

    def test_the_host_model_gives_what_the_cache_holds(self):
        self.build("--out", "fresh.sqlite", "--sae", "topk", "--from", "training")
        self.build("--out", "fresh2.sqlite", "--sae", "topk", "--from", "training", ranks=2)
        fresh = (self.workspace / "fresh.sqlite").read_bytes()
        self.assertEqual((self.workspace / "fresh2.sqlite").read_bytes(), fresh)
        figures = []
        for path in ("runs/tiny/features/topk.sqlite", "fresh.sqlite"):
            database = sqlite3.connect(self.workspace / path)
            figures.append(np.array(database.execute("SELECT density, maximum FROM latents ORDER BY id").fetchall()))
            database.close()
        np.testing.assert_allclose(figures[1][:, 0], figures[0][:, 0], atol=2e-3)  # bfloat16 changes who is in the top k
        np.testing.assert_allclose(figures[1][:, 1], figures[0][:, 1], rtol=0.05, atol=0.05)

    def test_held_out_text_and_text_of_ones_own(self):
        built = self.build("--out", "held.sqlite", "--sae", "topk", "--from", "held-out", "--tokens", "640")
        self.assertEqual(built["n_contexts"], 10)
        (self.workspace / "own.txt").write_text("The old sailor watched the harbour. " * 60)
        result = self.run_here("features", "build", "runs/tiny/sae/topk", "--host-model", "models/tiny.gguf", "--text",
                               "own.txt", "--out", "own.sqlite")
        self.assertEqual(result.returncode, 0, result.stderr)
        result = self.run_here("features", "search", "own.sqlite", "harb", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertGreater(len(json.loads(result.stdout)["latents"]), 0)

    def test_a_token_on_which_a_latent_fires_finds_it(self):
        strongest = max(range(256), key=lambda latent: self.peaks["topk"][:, latent].max())
        words = [token.strip() for token in self.show(strongest)["tokens"]]
        words = [word for word in words if word.isalpha() and word.isascii()]
        if words:
            result = self.run_here("features", "search", "runs/tiny", words[0], "--sae", "topk", "--json", "--limit", "256")
            self.assertIn(strongest, [one["latent"] for one in json.loads(result.stdout)["latents"]])

    def test_errors(self):
        def error(code, first_line, *arguments):
            self.expect_error(self.run_here("features", *arguments), code, first_line)

        error(64, "latent 256: there is no such latent", "show", "runs/tiny", "256", "--sae", "topk")
        error(78, "runs/tiny: 2 SAEs have a feature store, and none was chosen", "show", "runs/tiny", "0")
        error(78, "runs: there is no feature store", "show", "runs", "0")
        error(78, "runs/tiny/features/none.sqlite: there is no feature store", "show", "runs/tiny", "0", "--sae", "none")
        error(64, "--out names one file for 2 SAEs", "build", "runs/tiny", "--out", "x.sqlite")
        error(64, "search: there is no word", "search", "runs/tiny", " ", "--sae", "topk")
        (self.workspace / "broken.sqlite").write_bytes(b"SQLite format 3\0" + bytes(4000))
        error(65, "broken.sqlite: file is not a database", "show", "broken.sqlite", "0")

    def test_nothing_is_left_beside_the_stores(self):
        names = sorted(path.name for path in (self.workspace / "runs/tiny/features").iterdir())
        self.assertEqual(names, ["relu_l1.sqlite", "topk.sqlite"])


if __name__ == "__main__":
    unittest.main()
