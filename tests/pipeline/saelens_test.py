"""What a finished run leaves is opened by sae-lens' own loader, and reconstructs 1,000 vectors of the run's own cache as
ours does. THRESHER_PIPELINE_RUN=RUN:CACHE tests an existing run instead of a tiny one made here."""
import h5py
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from sae_lens import SAE

from harness import *

N_VECTORS = 1000
MAX_RELATIVE_ERROR = 1e-5
TIE = 1e-5
MAX_TIES = 0.01


def cached_vectors(cache, hook_point):
    """The first rows of the first shard, as any h5py user reads them."""
    with h5py.File(sorted((cache / "shards").glob("*.h5"))[0]) as shard:
        return np.asarray(shard["activations"][hook_point][:N_VECTORS], dtype=np.float32)


class SaeLensTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        existing = os.environ.get("THRESHER_PIPELINE_RUN")
        cls.workspace = make_workspace("saelens")
        if existing:
            run, cache = map(Path, existing.split(":"))
        else:
            thresher("run", *experiment(cls.workspace, "run"))
            run, cache = next((cls.workspace / "run/runs").iterdir()), cls.workspace / "run/cache"
        cls.saes = sorted((run / "sae").iterdir())
        cls.cache = cache

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.workspace)

    def test_every_sae_of_the_run_loads_and_reconstructs_alike(self):
        self.assertGreaterEqual(len(self.saes), 1)
        for folder in self.saes:
            with self.subTest(folder.name):
                theirs = SAE.load_from_disk(folder)
                self.assertEqual(theirs.cfg.normalize_activations, "none")
                x = cached_vectors(self.cache, theirs.cfg.metadata.hook_name)
                self.assertEqual(x.shape, (N_VECTORS, theirs.cfg.d_in))
                save_file({"x": x}, self.workspace / "x.safetensors")
                subprocess.run([PROGRAM.parent / "reconstruct_rows", folder, self.workspace / "x.safetensors",
                                self.workspace / "recon.safetensors"], check=True)
                ours = load_file(self.workspace / "recon.safetensors")["recon"]
                with torch.no_grad():
                    rows = torch.from_numpy(x)
                    recon = theirs(rows).numpy()
                    pre_acts = theirs.process_sae_in(rows) @ theirs.W_enc + theirs.b_enc
                error = np.linalg.norm(recon - ours, axis=1) / np.linalg.norm(recon, axis=1)
                tied = np.zeros(N_VECTORS, dtype=bool)
                if theirs.cfg.architecture() == "topk":
                    top = torch.topk(pre_acts, theirs.cfg.k + 1, dim=1).values
                    tied = (top[:, -2] - top[:, -1] < TIE).numpy()
                if theirs.cfg.architecture() == "jumprelu":
                    tied = ((pre_acts - theirs.threshold).abs() < TIE).any(1).detach().numpy()
                print(f"{folder.name}: largest relative error {error[~tied].max():.1e}, {tied.sum()} near ties",
                      file=sys.stderr)
                self.assertLessEqual(tied.mean(), MAX_TIES)
                self.assertLessEqual(error[~tied].max(), MAX_RELATIVE_ERROR)
                fvu = np.square(x - recon).sum() / np.square(x - x.mean(0)).sum()
                self.assertLess(fvu, 0.9, "a comparison that a constant output would pass proves nothing")


if __name__ == "__main__":
    unittest.main()
