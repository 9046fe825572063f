"""The same experiment on 1, 2 and 4 ranks, as threads and under mpirun, gives the same bytes."""
from harness import *


class RanksTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = make_workspace("ranks")
        thresher("run", *experiment(cls.workspace, "one"))
        cls.reference = promised(cls.workspace / "one")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.workspace)

    def expect_same(self, place):
        self.assertEqual(promised(self.workspace / place), self.reference)
        one = next((self.workspace / "one/runs").glob("*/evaluation.json")).read_text()
        other = next((self.workspace / place / "runs").glob("*/evaluation.json")).read_text()
        self.assertEqual(strip_speeds(other), strip_speeds(one))

    def test_the_reference_holds_every_promised_file(self):
        names = set(self.reference)
        self.assertIn("cache/MANIFEST.json", names)
        self.assertGreaterEqual(sum(n.startswith("cache/shards/") for n in names), 4)
        self.assertTrue(any(n.endswith("/metrics.jsonl") for n in names))
        for sae in ("topk", "relu_l1"):
            self.assertTrue(any(f"/sae/{sae}/sae_weights.safetensors" in n for n in names), names)

    def test_two_ranks_as_threads(self):
        thresher("run", *experiment(self.workspace, "threads2"), "--set", "comm.backend=threads", "--set", "comm.ranks=2")
        self.expect_same("threads2")

    def test_four_ranks_as_threads(self):
        thresher("run", *experiment(self.workspace, "threads4"), "--set", "comm.backend=threads", "--set", "comm.ranks=4")
        self.expect_same("threads4")

    def test_one_rank_under_mpirun(self):
        thresher("run", *experiment(self.workspace, "mpi1"), ranks=1)
        self.expect_same("mpi1")

    def test_two_ranks_under_mpirun(self):
        thresher("run", *experiment(self.workspace, "mpi2"), ranks=2)
        self.expect_same("mpi2")

    def test_three_ranks_may_harvest_what_two_train_on(self):
        thresher("harvest", *experiment(self.workspace, "mixed"), ranks=3)
        thresher("run", *experiment(self.workspace, "mixed"), ranks=2)
        self.expect_same("mixed")


def strip_speeds(text):
    import json
    def strip(value):
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if "second" not in k}
        return [strip(v) for v in value] if isinstance(value, list) else value
    return strip(json.loads(text))


if __name__ == "__main__":
    unittest.main()
