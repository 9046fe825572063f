"""Somebody's own activations, without a host model: an array of 100,000 x 256 and an experiment of three lines become a
cache, an SAE and figures. The oracles are NumPy, h5py and sae-lens."""
import json

import h5py
import numpy as np
from sae_lens import SAE

from harness import *
from own_data import *

THREE_LINES = "schema: 1\nactivations: {paths: [acts.npy]}\nsae: {type: topk, k: 32}\n"
ROWS, WIDTH, FEATURES = 100_000, 256, 512
BLOCK = 256


class ThreeLinesTest(unittest.TestCase):
    """One run for all: what it leaves behind is looked at from several sides."""

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="thresher-own-"))
        cls.x = sparse_world(ROWS, WIDTH, FEATURES, mean_active=12)
        np.save(cls.folder / "acts.npy", cls.x)
        (cls.folder / "mine.yaml").write_text(THREE_LINES)
        begin = time.monotonic()
        cls.result = run_in(cls.folder, "run", "mine.yaml")
        cls.seconds = time.monotonic() - begin
        cls.run_dir, cls.cache = cls.folder / "runs/mine", cls.folder / "caches/mine"
        cls.figures = json.loads((cls.run_dir / "evaluation.json").read_text())["topk"]
        cls.context, cls.values, cls.shards = read_cache(cls.cache)
        cls.held_out = np.setdiff1d(np.arange(ROWS), cls.context)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def test_the_start_says_what_was_chosen_and_the_run_directory_holds_it(self):
        print(f"three lines took {self.seconds:.1f} s", file=sys.stderr)
        self.assertIn("train: chosen for a cache of", self.result.stderr)
        resolved = json.loads(run_in(self.folder, "config", "show", self.run_dir / "config.resolved.yaml", "--json").stdout)
        self.assertEqual((resolved["run"]["name"], resolved["cache"]["dir"], resolved["cache"]["dtype"]),
                         ("mine", "caches/mine", "float32"))
        self.assertEqual(resolved["cache"]["hook_points"], ["activations"])
        self.assertEqual((resolved["sae"][0]["name"], resolved["sae"][0]["hook_point"]), ("topk", "activations"))
        train = resolved["train"]
        steps = 10 * len(self.context) // 1024
        self.assertEqual([train[key] for key in ("total_tokens", "epochs", "batch_tokens", "warmup_tokens",
                                                 "decay_tokens")],
                         [steps * 1024, "auto", 1024, steps * 1024 // 20, steps * 1024 // 5])
        self.assertNotIn("corpus", resolved)

    def test_the_cache_holds_every_training_row_and_no_other(self):
        self.assertEqual(len(np.unique(self.context)), len(self.context))
        np.testing.assert_array_equal(self.values["activations"], self.x[self.context])
        blocks = np.unique(self.held_out // BLOCK)
        self.assertEqual(set(self.held_out), {row for block in blocks for row in range(block * BLOCK, (block + 1) * BLOCK)
                                              if row < ROWS}, "whole blocks are held out")
        self.assertTrue(0.02 < len(self.held_out) / ROWS < 0.08, len(self.held_out))
        manifest = json.loads((self.cache / "MANIFEST.json").read_text())
        self.assertEqual(manifest["rows"], len(self.context))
        self.assertEqual(manifest["dropped"], {"first": 0, "special": 0, "norm": 0, "held_out": len(self.held_out)})
        mean = np.array(manifest["statistics"]["activations"]["mean"])
        np.testing.assert_allclose(mean, self.x[self.context].astype(np.float64).mean(0), rtol=0, atol=1e-9)
        for shard in self.shards:
            self.assertTrue((shard["token_ids"] == -1).all())
            self.assertTrue((shard["position"] == 0).all())
            np.testing.assert_array_equal(shard["document"], shard["context"] // BLOCK)
        order = np.concatenate([shard["context"] for shard in self.shards])
        self.assertLess(np.mean(np.diff(order) == 1), 0.01, "rows are shuffled inside their unit")

    def test_the_cache_is_sound_and_can_be_looked_at(self):
        self.assertEqual(run_in(self.folder, "cache", "verify", "caches/mine").stdout, "caches/mine: sound\n")
        info = json.loads(run_in(self.folder, "cache", "info", "caches/mine", "--json").stdout)
        self.assertEqual((info["rows"], info["dropped"]["held_out"]), (len(self.context), len(self.held_out)))
        self.assertLess(info["shuffle"]["same_document"]["ratio"], 1.5)

    def test_figures_are_numpys_on_the_held_out_rows(self):
        sae = SAE.load_from_disk(self.run_dir / "sae/topk")
        self.assertEqual(sae.cfg.d_in, WIDTH)
        x = self.x[self.held_out]
        import torch
        with torch.no_grad():
            latents = sae.encode(torch.from_numpy(x)).numpy()
            recon = sae.decode(torch.from_numpy(latents)).numpy()
        wide, error = x.astype(np.float64), (x - recon).astype(np.float64)
        fvu = np.square(error).sum() / np.square(wide - wide.mean(0)).sum()
        self.assertEqual(self.figures["n_tokens"], len(x))
        self.assertEqual(self.figures["n_dropped"], 0)
        self.assertAlmostEqual(self.figures["fvu"], fvu, delta=1e-5 * fvu)
        self.assertAlmostEqual(self.figures["explained_variance"], 1 - fvu, delta=1e-5)
        self.assertAlmostEqual(self.figures["mse"], np.square(error).mean(), delta=1e-5 * np.square(error).mean())
        self.assertAlmostEqual(self.figures["l0"], (latents > 0).sum(1).mean(), delta=0.01)
        self.assertAlmostEqual(self.figures["l1"], np.abs(latents).sum(1).mean(), delta=1e-3 * self.figures["l1"])
        self.assertAlmostEqual(self.figures["dead_fraction"], (latents <= 0).all(0).mean(), delta=0.005)
        cosine = ((wide * recon).sum(1) / np.linalg.norm(wide, axis=1) / np.linalg.norm(recon, axis=1)).mean()
        self.assertAlmostEqual(self.figures["cosine_similarity"], cosine, delta=1e-5)
        histogram = self.figures["density_histogram"]
        self.assertEqual(sum(histogram["counts"]) + histogram["silent"], 4 * WIDTH)

    def test_the_sae_beats_the_baselines_that_stand_beside_it(self):
        baselines = self.figures["baselines"]
        self.assertEqual(set(baselines), {"pca", "untrained", "shuffled_decoder"})
        train = self.x[self.context].astype(np.float64)
        mean = train.mean(0)
        _, vectors = np.linalg.eigh(np.cov(train, rowvar=False))
        x = self.x[self.held_out].astype(np.float64)
        kept = (x - mean) @ vectors[:, -32:]
        pca = np.square(x - mean - kept @ vectors[:, -32:].T).sum() / np.square(x - x.mean(0)).sum()
        self.assertAlmostEqual(baselines["pca"]["fvu"], pca, delta=0.005)
        for name, figures in baselines.items():
            self.assertLess(self.figures["fvu"], 0.5 * figures["fvu"], name)

    def test_cross_entropy_is_null_with_a_reason(self):
        for figures in (self.figures, *self.figures["baselines"].values()):
            for name in ("ce_clean", "ce_spliced", "ce_zero_ablated", "ce_mean_ablated", "ce_recovered_zero",
                         "ce_recovered_mean", "kl_divergence"):
                self.assertIsNone(figures[name])
        self.assertIsNone(self.figures["n_predictions"])
        reason = "it needs a host model, and this run reads activations alone"
        self.assertEqual(self.figures["ce_not_measured"], reason)
        self.assertIn(f"cross-entropy is not measured: {reason}\n", self.result.stdout)
        self.assertNotIn("ce_clean", self.result.stdout)

    def test_the_report_page_shows_the_figures_and_the_reason(self):
        page = (self.run_dir / "report.html").read_text()
        self.assertIn("it needs a host model, and this run reads activations alone", page)
        self.assertIn(f"{self.figures['fvu']:.3f}"[:4], page)

    def test_encode_says_that_there_is_no_model_to_send_a_text_through(self):
        result = subprocess.run([PROGRAM, "encode", "runs/mine", "--text", "a"], cwd=self.folder, capture_output=True,
                                text=True)
        self.assertEqual(result.returncode, 78, result.stderr)
        self.assertIn("error: runs/mine: the run was trained on activations of its own\n", result.stderr)

    def test_eval_measures_the_finished_run_again(self):
        before = (self.cache / "sources.json").read_text()
        again = json.loads(run_in(self.folder, "eval", "runs/mine", "--json").stdout)
        self.assertEqual(again["candidates"]["topk"]["fvu"], self.figures["fvu"])
        self.assertEqual((self.cache / "sources.json").read_text(), before)
        curve = json.loads(run_in(self.folder, "eval", "runs/mine", "--curve", "--json").stdout)
        self.assertAlmostEqual(curve[-1]["fvu"], self.figures["fvu"], delta=1e-4)
        fewer = json.loads(run_in(self.folder, "eval", "runs/mine", "--json", "--set", "evaluation.tokens=1000").stdout)
        self.assertEqual(fewer["n_tokens"], 1000)


if __name__ == "__main__":
    unittest.main()
