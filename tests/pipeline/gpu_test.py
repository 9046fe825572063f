"""The whole job with run.device: cuda beside the same job on the CPU; alone, and as two NCCL ranks on one GPU."""
import json

from harness import *


def has_gpu():
    checks = json.loads(thresher("doctor", "--json", check=False).stdout)["checks"]
    return any(check["name"] == "gpu 0" for check in checks)


class GpuTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = make_workspace("gpu")
        text = (SOURCE / "configs/tiny.yaml").read_text()
        first, second = text.index("  - hook_point: blocks.2.hook_resid_post\n    type: relu_l1"), text.index("train:")
        cls.experiment_file = cls.workspace / "tiny.yaml"
        cls.experiment_file.write_text(text[:first] + text[second:])
        cls.run_experiment("cpu", "cpu")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.workspace)

    @classmethod
    def arguments(cls, place, device):
        return [str(cls.experiment_file), *experiment(cls.workspace, place)[1:], "--set", f"run.device={device}"]

    @classmethod
    def run_experiment(cls, place, device, *more, **options):
        return thresher("run", *cls.arguments(place, device), *more, **options)

    def figures(self, place):
        return json.loads((self.workspace / place / "runs/tiny/evaluation.json").read_text())["topk"]

    def expect_near(self, place):
        ours, theirs = self.figures(place), self.figures("cpu")
        for name, tolerance in (("fvu", 0.05), ("ce_clean", 1e-3), ("ce_spliced", 0.02), ("ce_zero_ablated", 1e-3)):
            self.assertAlmostEqual(ours[name] / theirs[name], 1, delta=tolerance, msg=name)
        self.assertEqual(ours["n_tokens"], theirs["n_tokens"])

    def test_the_whole_job(self):
        self.run_experiment("cuda", "cuda")
        self.expect_near("cuda")
        identity = json.loads((self.workspace / "cuda/cache/cache.json").read_text())
        self.assertEqual(identity["host_model"]["device"], "cuda")
        run_dir = self.workspace / "cuda/runs/tiny"
        curve = json.loads(thresher("eval", run_dir, "--curve", "--json").stdout)
        self.assertLess(curve[-1]["fvu"], curve[0]["fvu"])
        encoded = json.loads(thresher("encode", run_dir, "--text", "a few words", "--json").stdout)
        self.assertEqual(encoded["saes"], ["topk"])
        self.assertEqual(json.loads(thresher("bench", "harvest", *self.arguments("cuda", "cuda")).stdout)["device"], "cuda")

    def test_in_float32(self):
        self.run_experiment("float32", "cuda", "--set", "train.operand_dtype=float32")
        self.expect_near("float32")

    def test_trains_on_a_cache_of_the_cpu(self):
        self.run_experiment("mixed", "cuda", "--set", f"cache.dir={self.workspace / 'cpu/cache'}")
        self.expect_near("mixed")

    def test_the_other_device_does_not_continue_a_run(self):
        result = self.run_experiment("cpu", "cuda", check=False)
        self.assertEqual(result.returncode, 78, result.stderr)
        self.assertIn('run.device: "cpu", "cuda"', result.stderr)

    def test_stops_and_continues(self):
        killed = self.run_experiment("resumed", "cuda", env={"THRESHER_FAILPOINT": "checkpoint.committed:2"}, check=False)
        self.assertNotEqual(killed.returncode, 0)
        result = self.run_experiment("resumed", "cuda")
        self.assertIn("continues after step", result.stderr)
        self.expect_near("resumed")

    def test_two_nccl_ranks_on_one_gpu(self):
        script = ('NCCL_HOSTID=rank-$OMPI_COMM_WORLD_RANK exec "$0" "$@"')
        command = ["mpirun", "-n", "2", "sh", "-c", script, str(PROGRAM), "run", *self.arguments("two", "cuda"),
                   "--set", "comm.backend=nccl"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=600)
        self.assertEqual(result.returncode, 0, result.stderr[-4000:])
        self.assertIn("2 ranks (nccl)", result.stderr)
        self.expect_near("two")


if __name__ == "__main__":
    if not has_gpu():
        print("SKIP: no GPU that this program can use")
        sys.exit(77)
    unittest.main()
