"""`thresher diagnose` on a tiny run: what it measures is what the evaluation measured."""
import json

import numpy
from program import *
from safetensors.numpy import load_file


class Diagnose(TinyRunTest):
    def diagnose(self, *arguments):
        result = self.run_here("diagnose", "runs/tiny", *arguments, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def test_damage_agrees_with_the_evaluation(self):
        found = self.diagnose("--tokens", 2048, "--draws", 2)
        evaluation = json.loads((self.workspace / "runs/tiny/evaluation.json").read_text())
        self.assertEqual(found["saes"].keys(), evaluation.keys())
        for name, figures in evaluation.items():
            damage = found["saes"][name]["damage"]
            self.assertEqual(damage["n_tokens"], figures["n_tokens"])
            self.assertEqual(damage["n_predictions"], figures["n_predictions"])
            self.assertAlmostEqual(damage["kl"], figures["kl_divergence"], places=5)
            self.assertAlmostEqual(damage["loss"], figures["ce_spliced"] - figures["ce_clean"], places=5)
            # About the mean of training rather than of the held-out text.
            self.assertAlmostEqual(damage["fvu"], figures["fvu"], delta=0.05 * figures["fvu"])
            self.assertEqual(len(damage["random_kl"]), 2)
            total = sum(one["n_tokens"] for one in damage["by_position"])
            self.assertEqual(total, damage["n_tokens"])
        names = [one["name"] for one in found["findings"]]
        self.assertIn("few_steps", names)
        order = [["severe", "warning", "note"].index(one["severity"]) for one in found["findings"]]
        self.assertEqual(order, sorted(order))

    def test_a_run_against_itself_is_stable(self):
        found = self.diagnose("--record-only", "--against", "runs/tiny")
        for one in found["saes"].values():
            self.assertNotIn("damage", one)
            self.assertAlmostEqual(one["stability"][0]["mean_best_cosine"], 1, places=4)
            self.assertEqual(one["stability"][0]["part_above"], 1)
        self.assertNotIn("unstable_latents", [one["name"] for one in found["findings"]])

    def test_another_seed_is_noted_on_the_pages_of_latents(self):
        self.make_run("--set", "run.name=other", "--set", "run.seed=77", "--set", "cache.dir=caches/other")
        for arguments in (("features", "build", "runs/tiny", "--tokens", 2048), ("diagnose", "runs/tiny", "--record-only",
                          "--against", "runs/other"), ("dashboard", "runs/tiny", "page.html", "--sae", "topk")):
            result = self.run_here(*arguments)
            self.assertEqual(result.returncode, 0, result.stderr)
        read = lambda run: load_file(self.workspace / f"runs/{run}/sae/topk/sae_weights.safetensors")["W_dec"].astype("float64")
        ours, theirs = (rows / numpy.linalg.norm(rows, axis=1, keepdims=True) for rows in (read("tiny"), read("other")))
        cosines = ours @ theirs.T
        for latent in (0, 5):
            shown = self.run_here("features", "show", "runs/tiny", latent, "--sae", "topk", "--json")
            (found,) = json.loads(shown.stdout)["stability"]
            self.assertEqual((found["other"], found["latent"]), ("runs/other", cosines[latent].argmax()))
            self.assertAlmostEqual(found["cosine"], cosines[latent].max(), places=5)
        self.assertIn("runs/other", (self.workspace / "page.html").read_text())

    def test_people_get_tables(self):
        result = self.run_here("diagnose", "runs/tiny", "--tokens", 512, "--top", 3)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("warning: few_steps\n    80 optimiser steps (said from 1000 on)", result.stdout)
        self.assertIn("| document", result.stdout)

    def test_where_there_is_no_run(self):
        self.assertEqual(self.run_here("diagnose", "runs/none").returncode, 78)
        self.assertEqual(self.run_here("diagnose", "runs/tiny", "--against", "runs/none", "--record-only").returncode, 78)


if __name__ == "__main__":
    unittest.main()
