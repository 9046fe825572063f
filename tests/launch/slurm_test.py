"""The Slurm scripts on a real slurmctld with two emulated nodes: stopped, requeued, a node lost; the bytes of a local run."""
from launching import *

NODES = ["--nodes=2", "--ntasks-per-node=1", "--time=30"]
OPTIONS = ["--set", "train.checkpoint_every_tokens=20k", "--set", "comm.timeout_seconds=20"]


def why_not():
    if os.geteuid() != 0:
        return "slurmctld and slurmd are started as root"
    missing = [name for name in ("slurmctld", "slurmd", "munged", "srun") if shutil.which(name) is None]
    return f"{', '.join(missing)} not installed: tools/setup.sh test" if missing else None


class SlurmTest(LaunchTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cluster = cls.root / "slurm"
        cls.addClassCleanup(cls.take_down)
        exports = subprocess.run([LAUNCH / "ci/slurm-up.sh", cls.cluster], capture_output=True, text=True, timeout=60)
        if exports.returncode != 0:  # the machine's fault: ports taken, a container that forbids it
            print(f"SKIP: Slurm does not start here\n{exports.stderr}", flush=True)
            cls.doClassCleanups()
            os._exit(77)
        cls.slurm = dict(word.split("=", 1) for word in exports.stdout.split()[1:])
        cls.slurm["THRESHER_LAUNCH"] = str(LAUNCH)
        cls.reference = cls.undisturbed(*OPTIONS)
        cls.slurm.update(THRESHER_FAILPOINT="train.step:1+=pause20")  # long enough for what is done to the jobs

    @classmethod
    def take_down(cls):
        subprocess.run([LAUNCH / "ci/slurm-down.sh", cls.cluster], timeout=60)

    def tool(self, *command, cwd=None):
        return self.must(command, env=self.slurm, cwd=cwd).strip()

    def submit(self, folder, stage, *options):
        return self.tool("sbatch", "--parsable", *NODES, LAUNCH / f"slurm/{stage}.sbatch", EXPERIMENT, *options, cwd=folder)

    def state(self, job):
        """(PENDING, RUNNING, COMPLETED, ...; how often it was restarted; exit code)"""
        text = self.tool("scontrol", "show", "job", job)
        field = lambda name: re.search(rf"\b{name}=(\S+)", text).group(1)
        return field("JobState"), int(field("Restarts")), int(field("ExitCode").split(":")[0])

    def await_end(self, folder, job, seconds=150):
        def ended():
            state = self.state(job)
            return state if state[0] not in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED") else None
        try:
            return wait_until(ended, seconds, f"job {job} to end, {self.state(job)}")
        except AssertionError as error:
            logs = "".join(path.read_text()[-3000:] for path in folder.glob("thresher-*.log"))
            raise AssertionError(f"{error}\n{logs}") from None

    def logs(self, folder, stage):
        return "".join(path.read_text() for path in folder.glob(f"thresher-{stage}-*.log"))

    def harvested(self, name):
        """A workspace with the reference's cache."""
        folder = self.workspace(name)
        shutil.copytree(self.reference / "caches", folder / "caches")
        return folder

    def expect_the_bytes_of_the_local_run(self, folder, patterns=RUN):
        expected = digests(self.reference, patterns)
        self.assertGreater(len(expected), 4)
        self.assertEqual(digests(folder, patterns), expected)


class Requeued(SlurmTest):
    """What every change is tested with."""

    def test_a_pipeline_stopped_in_training_is_requeued_and_ends_with_the_bytes_of_a_local_run(self):
        folder = self.workspace("pipeline")
        words = self.tool(LAUNCH / "slurm/pipeline.sh", "--sbatch", " ".join(NODES), "--eval", "--nodes=1", EXPERIMENT,
                          *OPTIONS, cwd=folder).split()
        harvest, train, evaluate = words
        self.training(folder)
        self.tool("scancel", "-s", "USR1", train)
        wait_until(lambda: self.state(train)[0] == "PENDING", 30, "the job to be requeued")
        self.assertEqual((self.status(folder)["state"], self.status(folder)["exit_code"]), ("stopped", 75))
        self.assertEqual(self.state(evaluate)[0], "PENDING")
        self.assertEqual(self.await_end(folder, harvest), ("COMPLETED", 0, 0))
        self.assertEqual(self.await_end(folder, train), ("COMPLETED", 1, 0))
        self.assertEqual(self.await_end(folder, evaluate), ("COMPLETED", 0, 0))
        log = self.logs(folder, "train")
        self.assertIn("runs/tiny: stopped, train", log)
        self.assertIn("continues after step", log)  # in the same log, by --open-mode=append
        self.assertTrue((folder / "runs/tiny/evaluation.json").exists())
        self.expect_the_bytes_of_the_local_run(folder, CACHE + RUN)

    def test_a_lost_node_requeues_the_job_which_ends_with_the_bytes_of_a_local_run(self):
        folder = self.harvested("node-lost")
        job = self.submit(folder, "train", *OPTIONS)
        self.checkpoint(folder)
        self.must([LAUNCH / "ci/slurm-down.sh", self.cluster, "n2"])
        wait_until(lambda: self.state(job)[0] == "PENDING", 60, "the job to be requeued")
        wait_until(lambda: "down" in self.tool("sinfo", "-h", "-n", "n2", "-o", "%T"), 60, "n2 to be down")
        self.must([LAUNCH / "ci/slurm-down.sh", self.cluster, "n2", "up"])
        state, restarts, code = self.await_end(folder, job)
        self.assertEqual((state, code), ("COMPLETED", 0))
        self.assertGreaterEqual(restarts, 1)
        self.assertIn("continues after step", self.logs(folder, "train"))
        self.expect_the_bytes_of_the_local_run(folder)


class Ended(SlurmTest):
    """The other ends of a job."""

    def test_before_the_time_limit_the_job_saves_and_is_requeued(self):
        folder = self.harvested("limit")
        job = self.tool("sbatch", "--parsable", *NODES[:2], "--time=1", "--signal=USR1@45", LAUNCH / "slurm/train.sbatch", EXPERIMENT,
                        *OPTIONS, "--set", "train.total_tokens=100M", cwd=folder)
        try:
            wait_until(lambda: self.state(job)[1] == 1, 120, "the job to be requeued")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.state(job)}\n{self.logs(folder, 'train')[-3000:]}") from None
        self.assertEqual((self.status(folder)["state"], self.status(folder)["exit_code"]), ("stopped", 75))
        self.tool("scancel", job)
        self.assertIn("stopped by a signal (SIGUSR1)", self.logs(folder, "train"))

    def test_a_killed_rank_ends_the_step_and_the_job_is_requeued(self):
        folder = self.harvested("rank-lost")
        job = self.submit(folder, "train", *OPTIONS)
        self.training(folder)
        os.kill(max(processes_in(folder)), signal.SIGKILL)
        self.assertEqual(self.await_end(folder, job), ("COMPLETED", 1, 0))
        self.assertRegex(self.logs(folder, "train"), r"srun returned \d+, runs/tiny: \w+, train.*: 70")
        self.expect_the_bytes_of_the_local_run(folder)

    def test_a_configuration_error_ends_the_job_with_78_and_is_not_tried_again(self):
        folder = self.harvested("refused")
        job = self.submit(folder, "train", "--set", "train.lanes=1")  # for two ranks
        self.assertEqual(self.await_end(folder, job), ("FAILED", 0, 78))
        self.assertNotIn("requeueing", self.logs(folder, "train"))

    def test_a_cancelled_job_saves_and_stays_cancelled(self):
        folder = self.harvested("cancelled")
        job = self.submit(folder, "train", *OPTIONS)
        self.training(folder)
        self.tool("scancel", job)
        wait_until(lambda: not processes_in(folder), 30, "the ranks to end")
        state, restarts, _ = self.await_end(folder, job)
        self.assertEqual((state, restarts), ("CANCELLED", 0))
        self.assertNotIn("requeueing", self.logs(folder, "train"))


if __name__ == "__main__":
    reason = why_not()
    if reason:
        print(f"SKIP: {reason}")
        sys.exit(77)
    unittest.main(verbosity=2)
