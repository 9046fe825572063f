"""What a job does when one of its ranks dies, falls silent, comes apart from the others or was started differently.
--trials N injects each fault at N random calls and prints how long the jobs took to end."""
import argparse
import json
import random

from harness import *

TIMEOUT_SECONDS = 3


def environment(fault):
    return {"THRESHER_COMM_FAULT": fault, "OMPI_MCA_orte_abort_print_stack": "0"}


class Job:
    """`thresher train` under mpirun on a finished cache, with a fault in one rank."""

    def __init__(self, workspace, ranks, fault, stage="train"):
        self.place = "faulty" if stage == "train" else "harvested"
        shutil.rmtree(workspace / self.place / "runs", ignore_errors=True)
        self.run_dir = workspace / self.place / "runs/tiny"
        self.arguments = [*experiment(workspace, self.place), "--set", f"comm.timeout_seconds={TIMEOUT_SECONDS}"]
        begin = time.monotonic()
        self.result = thresher(stage, *self.arguments, ranks=ranks, env=environment(fault), check=False, timeout=90)
        self.seconds = time.monotonic() - begin
        self.end_ns = time.time_ns()
        self.errors = [line for line in self.result.stderr.splitlines() if line.startswith("error: ")]

    def seconds_since_last_call_of(self, rank):
        """From the last sign of a rank's work to the end of the job: how long its loss took to end it."""
        records = json.loads(thresher("flight", self.run_dir, "--json").stdout)
        last = records["ranks"][rank]["calls"][-1]
        return 1e-9 * (self.end_ns - (last["ended_ns"] or last["begun_ns"]))

    def status(self):
        return json.loads((self.run_dir / "status.json").read_text())


class LostRankTest(unittest.TestCase):
    trials = 1
    results = {}

    @classmethod
    def setUpClass(cls):
        cls.workspace = make_workspace("lost")
        thresher("harvest", *experiment(cls.workspace, "faulty"))
        shutil.copytree(cls.workspace / "faulty", cls.workspace / "whole")
        thresher("train", *experiment(cls.workspace, "whole"))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.workspace)

    def jobs(self, kind, rank_counts=(2, 4, 8)):
        """Jobs with the fault at a random call of a random rank."""
        rng = random.Random(kind)
        for _ in range(self.trials):
            ranks = rng.choice(rank_counts) if self.trials > 1 else 2
            victim, call = rng.randrange(ranks), rng.randrange(12, 400)
            yield ranks, victim, Job(self.workspace, ranks, f"{victim}:{call}:{kind}")

    def note(self, kind, job, victim):
        self.results.setdefault(kind, []).append(round(job.seconds_since_last_call_of(victim), 3))

    def expect_told(self, job, pattern):
        self.assertEqual(len(job.errors), 1, job.result.stderr[-3000:])
        self.assertRegex(job.errors[0], pattern)
        status = job.status()
        self.assertEqual((status["state"], status["exit_code"]), ("failed", 70), status)
        self.assertEqual("error: " + status["message"], job.errors[0])
        self.assertGreater(status["steps"], 0)

    def test_a_rank_that_dies_ends_the_job_with_one_line_about_it(self):
        for kind, end in (("kill", "ended without a word"), ("exit", "ended without a word")):
            for ranks, victim, job in self.jobs(kind):
                self.assertNotEqual(job.result.returncode, 0)
                self.expect_told(job, rf"error: rank {victim} of {ranks} \(host \S+, pid \d+\) {end}.* #\d+ ")
                self.note(kind, job, victim)

    def test_a_rank_that_crashes_says_so_itself(self):
        for ranks, victim, job in self.jobs("crash"):
            self.assertNotEqual(job.result.returncode, 0)
            told = [line for line in job.errors if line.endswith("crashed with SIGSEGV")]
            self.assertEqual(len(told), 1, job.result.stderr[-3000:])
            self.assertRegex(told[0], rf"error: rank {victim} of {ranks} \(host \S+, pid \d+\) crashed with SIGSEGV")
            self.assertRegex(job.status()["message"], rf"rank {victim} of {ranks} .* crashed \(Segmentation fault\)")
            self.note("crash", job, victim)

    def test_a_silent_rank_ends_the_job_after_the_deadline(self):
        for kind in ("stop", "spin"):
            for ranks, victim, job in self.jobs(kind):
                self.assertEqual(job.result.returncode, 70, job.result.stderr[-3000:])
                self.assertEqual(len(job.errors), 1, job.result.stderr[-3000:])
                self.assertRegex(
                    job.errors[0],
                    rf"error: rank \d of {ranks} \(host \S+, pid \d+\) waited \d+\.\d s in \w+ #\d+ \S.*; "
                    rf"rank {victim} did not arrive: rank {victim} of {ranks} \(host \S+, pid \d+\), last seen ")
                self.note(kind, job, victim)

    def test_a_rank_at_another_place_is_a_mismatch_and_not_a_timeout(self):
        for ranks, victim, job in self.jobs("other", (2,)):
            self.assertEqual(job.result.returncode, 70, job.result.stderr[-3000:])
            self.assertRegex("\n".join(job.errors), r"is in \w+ #(\d+) .*, but rank \d is in \w+ #\1 ")
            self.assertIn("another place", "\n".join(job.errors))
            self.note("other", job, victim)

    def test_a_harvest_ends_in_the_same_ways_and_continues(self):
        for kind, pattern in (("kill", "rank 1 of 2 .* ended without a word"), ("stop", "; rank 1 did not arrive")):
            job = Job(self.workspace, 2, f"1:16:{kind}", "harvest")
            self.assertEqual(len(job.errors), 1, job.result.stderr[-3000:])
            self.assertRegex(job.errors[0], pattern)
            status = job.status()
            self.assertEqual((status["state"], status["stage"], status["exit_code"]), ("failed", "harvest", 70), status)
            self.assertEqual("error: " + status["message"], job.errors[0])
        thresher("harvest", *job.arguments)
        self.assertEqual(digests(self.workspace / "harvested", CACHE_PATTERNS),
                         digests(self.workspace / "whole", CACHE_PATTERNS))

    def test_a_delay_shorter_than_the_deadline_costs_time_alone(self):
        job = Job(self.workspace, 2, "1:50:delay=1")
        self.assertEqual(job.result.returncode, 0, job.result.stderr[-3000:])
        self.assertEqual(promised(self.workspace / "faulty"), promised(self.workspace / "whole"))

    def test_the_same_command_continues_after_a_death(self):
        for ranks, victim, job in self.jobs("kill"):
            self.note("kill, then continued", job, victim)
            thresher("train", *job.arguments)
            self.assertEqual(promised(self.workspace / "faulty"), promised(self.workspace / "whole"))

    def test_the_flight_records_tell_where_each_rank_was(self):
        job = Job(self.workspace, 2, "1:100:kill")
        table = thresher("flight", job.run_dir).stdout
        self.assertRegex(table, r"\| 1 +\|.*running, or killed .* s after \w+ #99 ")
        self.assertRegex(table, r"\| 0 +\|.* in \w+ #100 ")
        self.assertIn("rank 1 is 1 call behind", table)
        records = json.loads(thresher("flight", job.run_dir, "--json").stdout)
        last = records["ranks"][0]["calls"][-1]
        self.assertEqual((last["sequence"], last["ended_ns"]), (100, 0))

    def test_ranks_of_different_experiments_do_not_start(self):
        one = [str(PROGRAM), "train", *experiment(self.workspace, "whole")]
        result = subprocess.run(["mpirun", "-n", "1", *one, ":", "-n", "1", *one, "--set", "train.learning_rate=0.002"],
                                capture_output=True, text=True, timeout=60)
        self.assertEqual(result.returncode, 78, result.stderr[-3000:])
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        self.assertEqual(len(errors), 1, result.stderr)
        self.assertRegex(errors[0], r"rank 1 differs from rank 0: experiment.train.learning_rate: \S+, 0.002")

    def test_nothing_stays_behind(self):
        before = set(os.listdir("/dev/shm"))
        job = Job(self.workspace, 2, "1:60:kill")
        left = subprocess.run(["pgrep", "-f", str(job.run_dir.parent)], capture_output=True, text=True).stdout.split()
        alive = [p for p in left if int(p) != os.getpid() and not is_zombie(p)]
        self.assertEqual(alive, [])
        self.assertEqual(set(os.listdir("/dev/shm")) - before, set())


def without_checkpoints(place):
    """A stop leaves a checkpoint where it came."""
    return {path: digest for path, digest in promised(place).items() if "/ckpt/" not in path}


def is_zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class StopLimitTest(unittest.TestCase):
    def test_a_limit_of_time_saves_and_exits_75(self):
        workspace = make_workspace("limit")
        try:
            thresher("run", *experiment(workspace, "whole"))
            limit = ["--set", "train.max_runtime_minutes=0.02"]
            stops = 0
            while True:
                result = thresher("run", *experiment(workspace, "limited"), *limit, ranks=2, check=False,
                                  env={"THRESHER_FAILPOINT": "train.step:1+=pause5"} if limit else {})
                if result.returncode == 0:
                    break
                self.assertEqual(result.returncode, 75, result.stderr[-3000:])
                self.assertIn("stopped by the limit of 0.02 minutes", result.stderr)
                stops += 1
                limit = [] if stops == 3 else limit
            self.assertGreater(stops, 0)
            self.assertEqual(without_checkpoints(workspace / "limited"), without_checkpoints(workspace / "whole"))
        finally:
            shutil.rmtree(workspace)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--out", help="a file for the figures, JSON")
    options, rest = parser.parse_known_args()
    LostRankTest.trials = options.trials
    program = unittest.main(argv=[sys.argv[0], *rest], exit=False)
    for kind, seconds in LostRankTest.results.items():
        print(f"{kind}: {len(seconds)} jobs, from the rank's last call to the job's end {min(seconds):.1f} to "
              f"{max(seconds):.1f} s", file=sys.stderr)
    if options.out:
        Path(options.out).write_text(json.dumps(
            {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "timeout_seconds": TIMEOUT_SECONDS,
             "jobs": sum(len(s) for s in LostRankTest.results.values()), "passed": program.result.wasSuccessful(),
             "seconds_from_last_call_to_end": {k: {"jobs": len(s), "min": min(s), "median": sorted(s)[len(s) // 2],
                                                   "max": max(s)} for k, s in LostRankTest.results.items()}},
            indent=2) + "\n")
    sys.exit(not program.result.wasSuccessful())
