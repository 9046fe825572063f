"""The three recipes of JumpReLU on a tiny host model: they learn, their bytes depend neither on ranks nor on being stopped,
and sae-lens' own loader computes what we do."""
import json

import h5py
import numpy as np
import torch
from sae_lens import SAE
from safetensors.numpy import load_file, save_file

from harness import *

HOOK_POINT = "blocks.2.hook_resid_post"
SAES = [{"hook_point": HOOK_POINT, "type": "jumprelu", "recipe": "gdm", "sparsity_coefficient": 0.003},
        {"hook_point": HOOK_POINT, "type": "jumprelu", "recipe": "target_l0", "target_l0": 12},
        {"hook_point": HOOK_POINT, "type": "jumprelu", "recipe": "anthropic", "sparsity_coefficient": 2},
        {"hook_point": HOOK_POINT, "type": "jumprelu", "recipe": "anthropic", "initial_log_threshold": 0.1,
         "sparsity_coefficient": 2},
        {"hook_point": HOOK_POINT, "type": "jumprelu", "recipe": "gdm", "threshold_learning_rate_factor": 0}]
NAMES = ["gdm", "target", "anthropic", "anthropic-log"]
FIXED = "fixed-thresholds"
FIRST_THRESHOLDS = [0.001, 0.001, 0.1, 1.10517]
N_VECTORS = 500


class JumpReluTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = make_workspace("jumprelu")
        thresher("run", *cls.experiment("one"))
        cls.run_dir = cls.workspace / "one/runs/tiny"
        cls.lines = [json.loads(line) for line in (cls.run_dir / "metrics.jsonl").read_text().splitlines()]

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.workspace)

    @classmethod
    def experiment(cls, place):
        saes = [{**sae, "name": name, "expansion_factor": 4} for sae, name in zip(SAES, [*NAMES, FIXED])]
        return [*experiment(cls.workspace, place), "--set", f"sae={json.dumps(saes)}"]

    def lines_of(self, name):
        return [line for line in self.lines if line["sae"] == name]

    def test_every_recipe_learns_and_logs_its_thresholds(self):
        measured = json.loads((self.run_dir / "evaluation.json").read_text())
        for name, threshold in zip(NAMES, FIRST_THRESHOLDS):
            lines = self.lines_of(name)
            print(name, {key: lines[-1][key] for key in ("l0", "batch_fvu", "dead_latents", "threshold_mean")},
                  {key: measured[name][key] for key in ("fvu", "l0", "ce_recovered_mean")}, file=sys.stderr)
            for key in ("threshold_mean", "threshold_min", "threshold_max"):
                self.assertAlmostEqual(lines[0][key], threshold, delta=1e-5 * threshold + 1e-9)
            self.assertLess(lines[-1]["threshold_min"], lines[-1]["threshold_max"], "they are learnt one by one")
            self.assertLess(measured[name]["fvu"], 0.6)
            self.assertLess(measured[name]["l0"], 0.6 * lines[0]["l0"] + 1)
            # What ships is what was trained.
            self.assertAlmostEqual(measured[name]["l0"] / lines[-1]["l0"], 1, delta=0.25)
        self.assertAlmostEqual(self.lines_of("target")[-1]["l0"], 12, delta=4)

    def test_thresholds_have_a_learning_rate_of_their_own(self):
        last = self.lines_of(FIXED)[-1]
        self.assertEqual(last["threshold_min"], last["threshold_max"])
        self.assertAlmostEqual(last["threshold_mean"], 0.001, delta=1e-8)
        self.assertLess(last["batch_fvu"], 0.6)

    def test_two_ranks_give_the_same_bytes(self):
        thresher("run", *self.experiment("two"), "--set", "comm.backend=threads", "--set", "comm.ranks=2")
        self.assertEqual(promised(self.workspace / "two"), promised(self.workspace / "one"))

    def test_a_stopped_run_continues_to_the_same_bytes(self):
        arguments = self.experiment("stopped")
        process = subprocess.Popen([str(PROGRAM), "run", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        metrics = self.workspace / "stopped/runs"
        deadline = time.monotonic() + 240
        while not any(p.read_bytes().count(b"\n") > 100 for p in metrics.glob("*/metrics.jsonl")):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        _, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 75, errors.decode()[-3000:])
        thresher("run", *arguments)
        stopped, whole = promised(self.workspace / "stopped"), promised(self.workspace / "one")
        # The stop's own checkpoint may stand beside those of every run.
        self.assertEqual({name: stopped.get(name) for name in whole}, whole)

    def test_sae_lens_loads_them_and_computes_the_same(self):
        shard = sorted((self.workspace / "one/cache/shards").glob("*.h5"))[0]
        with h5py.File(shard) as file:
            x = np.asarray(file["activations"][HOOK_POINT][:N_VECTORS], dtype=np.float32)
        save_file({"x": x}, self.workspace / "x.safetensors")
        for name in NAMES:
            folder = self.run_dir / "sae" / name
            theirs = SAE.load_from_disk(folder)
            self.assertEqual(theirs.cfg.architecture(), "jumprelu")
            subprocess.run([PROGRAM.parent / "reconstruct_rows", folder, self.workspace / "x.safetensors",
                            self.workspace / "recon.safetensors"], check=True)
            ours = load_file(self.workspace / "recon.safetensors")["recon"]
            with torch.no_grad():
                rows = torch.from_numpy(x)
                recon = theirs(rows).numpy()
                pre_acts = theirs.process_sae_in(rows) @ theirs.W_enc + theirs.b_enc
                scale = pre_acts.abs().mean()
                near = ((pre_acts - theirs.threshold).abs() < 1e-6 * scale).any(1).numpy()
            self.assertLess(near.mean(), 0.05, name)
            error = np.linalg.norm(recon - ours, axis=1) / np.linalg.norm(recon, axis=1)
            self.assertLess(error[~near].max(), 1e-5, name)


if __name__ == "__main__":
    unittest.main()
