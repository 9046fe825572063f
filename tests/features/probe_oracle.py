"""`thresher probe` by hand: latents of `thresher encode`, pooled in numpy, judged by scipy."""
import json
import os
import sys
import unittest
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(os.environ["THRESHER_SOURCE_DIR"]) / "tests/cli"))
from program import TinyRunTest  # noqa: E402

N_LATENTS, N_TRAINING, TOPICS = 256, 24, 6


def pooled_by_hand(tokens, most_tokens, pooling):
    """One value a latent, of the first kept tokens."""
    kept = [token for token in tokens if token["dropped"] is None]
    kept = kept[:most_tokens] if most_tokens else kept
    dense = np.zeros((len(kept), N_LATENTS))
    for row, token in enumerate(kept):
        for entry in token["saes"]["topk"]["latents"]:
            dense[row, entry["latent"]] = entry["activation"]
    return dense.max(0) if pooling == "max" else dense.mean(0)


def auroc(scores, labels):
    return stats.mannwhitneyu(scores[labels], scores[~labels]).statistic / (labels.sum() * (~labels).sum())


def cohens_d(scores, labels):
    a, b = scores[labels], scores[~labels]
    pooled = ((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2)
    return (a.mean() - b.mean()) / np.sqrt(pooled)


class Probe(TinyRunTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        files = sorted((cls.workspace / "data/tiny").glob("*.txt"))[:48]
        cls.texts = [path.read_text()[: 200 + 17 * i] for i, path in enumerate(files)]
        cls.labels = np.array([i % TOPICS < 2 for i in range(48)])
        for name, numbers in (("training", range(N_TRAINING)), ("test", range(N_TRAINING, 48))):
            lines = [json.dumps({"text": cls.texts[i], "label": "x" if cls.labels[i] else "y"}) for i in numbers]
            (cls.workspace / f"{name}.jsonl").write_text("\n".join(lines))
        cls.tokens = []
        for text in cls.texts:
            (cls.workspace / "one.txt").write_text(text)
            result = cls.run_here(cls, "encode", "runs/tiny", "--sae", "topk", "--file", "one.txt", "--top", "256", "--json")
            cls.tokens.append(json.loads(result.stdout)["tokens"])

    def compare(self, most_tokens, pooling):
        result = self.run_here("probe", "runs/tiny", "--sae", "topk", "--texts", "training.jsonl", "--test",
                               "test=test.jsonl", "--tokens", most_tokens, "--pool", pooling, "--best", 20, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        report = json.loads(result.stdout)
        values = np.array([pooled_by_hand(tokens, most_tokens, pooling) for tokens in self.tokens])
        training, test = values[:N_TRAINING], values[N_TRAINING:]
        y, y_test = self.labels[:N_TRAINING], self.labels[N_TRAINING:]
        task = report["tasks"][0]
        self.assertEqual(task["name"], "x")
        aurocs = np.array([auroc(column, y) for column in training.T])
        p = np.array([stats.mannwhitneyu(column[y], column[~y], method="asymptotic").pvalue for column in training.T])
        adjusted = stats.false_discovery_control(np.nan_to_num(p, nan=1.0))
        self.assertEqual(task["discoveries_benjamini_hochberg"], int(((adjusted <= 0.05) & (aurocs > 0.5)).sum()))
        for rank, one in enumerate(task["latents"]):
            latent, on_test = one["latent"], one["tests"]["test"]
            # A pass of several texts rounds otherwise than one of a single text, which may turn a near tie.
            self.assertAlmostEqual(one["training_auroc"], np.sort(aurocs)[::-1][rank], delta=0.01)
            self.assertAlmostEqual(one["training_auroc"], aurocs[latent], delta=0.01)
            self.assertAlmostEqual(one["p"], p[latent], delta=0.01)
            self.assertAlmostEqual(one["training_cohens_d"], cohens_d(training[:, latent], y), delta=1e-3)
            self.assertAlmostEqual(on_test["auroc"], auroc(test[:, latent], y_test), delta=0.01)
            low, high = on_test["auroc_interval"]
            self.assertTrue(low <= on_test["auroc"] <= high)
        self.assertEqual(report["sets"][0]["documents"], N_TRAINING)
        self.assertEqual(task["documents"]["test"], {"positive": int(y_test.sum()), "negative": int((~y_test).sum())})

    def test_means_over_all_tokens_equal_those_by_hand(self):
        self.compare(0, "mean")

    def test_largest_values_over_the_first_tokens_equal_those_by_hand(self):
        self.compare(70, "max")


if __name__ == "__main__":
    unittest.main()
