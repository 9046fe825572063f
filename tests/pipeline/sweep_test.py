"""A sweep of six SAEs reads the cache once and leaves for each the bytes of its solo run, on one rank and on two."""
import json

import yaml

from harness import *

SWEEP = [{"type": "topk", "k": [4, 8], "learning_rate": {"from": 1e-3, "to": 4e-3, "steps": 2, "scale": "log"},
          "dead_window_tokens": 20000},
         {"type": "relu_l1", "form": "bricken", "l1_coefficient": [0.5, 100], "dead_window_tokens": 5000,
          "resample_every_tokens": 10000, "learning_rate": 0.03, "ema_decay": 0.9, "decay_shape": "cosine"}]
NAMES = ["topk-k4-lr0.001", "topk-k4-lr0.004", "topk-k8-lr0.001", "topk-k8-lr0.004",
         "relu_l1-lambda0.5", "relu_l1-lambda100"]


class SweepTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = make_workspace("sweep")
        thresher("harvest", *experiment(cls.workspace, "here"))
        for entry in SWEEP:
            entry["hook_point"] = "blocks.2.hook_resid_post"
        cls.experiment = cls.resolve(SWEEP)
        thresher("train", cls.write("sweep", cls.experiment))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.workspace)

    @classmethod
    def resolve(cls, saes):
        """configs/tiny.yaml with these SAEs, as `config show` resolves it."""
        base = yaml.safe_load(thresher("config", "show", *experiment(cls.workspace, "here")).stdout)
        base["train"].update(total_tokens=60000, warmup_tokens=6000, decay_tokens=12000)
        path = cls.write("unresolved", {**base, "sae": saes})
        return yaml.safe_load(thresher("config", "show", path).stdout)

    @classmethod
    def write(cls, name, content):
        content = {**content, "run": {**content["run"], "name": name}}
        path = cls.workspace / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    def run_dir(self, name):
        return self.workspace / "here/runs" / name

    def cache_bytes(self, name):
        lines = (self.run_dir(name) / "timing.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines if "cache_bytes" in line][-1]["cache_bytes"]

    def test_the_expansion_is_shown_and_kept(self):
        self.assertEqual([sae["name"] for sae in self.experiment["sae"]], NAMES)
        kept = yaml.safe_load((self.run_dir("sweep") / "config.resolved.yaml").read_text())
        self.assertEqual(kept["sae"], self.experiment["sae"])
        self.assertEqual([sae["learning_rate"] for sae in kept["sae"][:4]], [1e-3, 4e-3, 1e-3, 4e-3])

    def test_each_sae_equals_its_solo_run_and_the_cache_is_read_once(self):
        sweep_metrics = (self.run_dir("sweep") / "metrics.jsonl").read_text().splitlines()
        self.assertTrue(any(json.loads(line).get("resampled_latents") for line in sweep_metrics), "nothing resampled")
        bytes_of_sweep = self.cache_bytes("sweep")
        self.assertGreater(bytes_of_sweep, 60000 * 64 * 2)  # rows of the run in bfloat16
        for index, sae in enumerate(self.experiment["sae"]):
            name = sae["name"]
            path = self.write(f"solo{index}", {**self.experiment, "sae": [sae]})
            thresher("train", path)
            for file in ("cfg.json", "sae_weights.safetensors"):
                self.assertEqual((self.run_dir(f"solo{index}") / "sae" / name / file).read_bytes(),
                                 (self.run_dir("sweep") / "sae" / name / file).read_bytes(), f"{name}/{file}")
            own = [line for line in sweep_metrics if json.loads(line)["sae"] == name]
            self.assertEqual((self.run_dir(f"solo{index}") / "metrics.jsonl").read_text().splitlines(), own)
            self.assertEqual(self.cache_bytes(f"solo{index}"), bytes_of_sweep)

    def test_two_ranks_leave_the_same_saes(self):
        thresher("train", self.write("ranks", self.experiment), ranks=2)
        self.assertEqual(digests(self.run_dir("ranks"), ["sae/*/*", "metrics.jsonl"]),
                         digests(self.run_dir("sweep"), ["sae/*/*", "metrics.jsonl"]))

    def test_a_finished_sweep_is_evaluated_by_name(self):
        thresher("eval", self.run_dir("sweep"))
        figures = json.loads((self.run_dir("sweep") / "evaluation.json").read_text())
        self.assertEqual(list(figures), NAMES)
        self.assertLess(figures["topk-k8-lr0.004"]["fvu"], 0.9)


if __name__ == "__main__":
    unittest.main()
