"""launch/local.sh: signals save, a second one ends at once, the exit code is RUN/status.json's, restarts, the same experiment
file as under Slurm."""
from launching import *

SOME = ["--set", "train.total_tokens=600k"]
LONG = ["--set", "train.total_tokens=100M"]  # never ends by itself
LOCAL = LAUNCH / "local.sh"


class Local(LaunchTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.reference = cls.undisturbed(*SOME)

    def harvested(self, name):
        folder = self.workspace(name)
        shutil.copytree(self.reference / "caches", folder / "caches")
        return folder

    def end(self, process, code):
        errors = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, code, errors[-3000:])
        return errors

    def test_ctrl_c_saves_and_the_same_command_ends_with_the_bytes_of_an_undisturbed_run(self):
        for ranks, stop in ((1, signal.SIGHUP), (2, signal.SIGINT), (2, signal.SIGTERM)):
            with self.subTest(ranks=ranks, stop=stop.name):
                folder = self.harvested(f"stopped-{ranks}-{stop.name}")
                command = [LOCAL, "-n", ranks, "train", EXPERIMENT, *SOME]
                process = self.start(command, env=SLOW, cwd=folder, start_new_session=True)
                self.training(folder)
                # As a terminal does: to every process of the group.
                os.killpg(process.pid, stop)
                errors = self.end(process, 75)
                self.assertEqual(errors.count("stopped: runs/tiny: stopped by a signal (SIGUSR1) after step"), 1, errors)
                status = self.status(folder)
                self.assertEqual((status["state"], status["exit_code"]), ("stopped", 75))
                self.assertGreater(status["step"], 0)
                self.must(command, cwd=folder)
                self.assertEqual(digests(folder, RUN), digests(self.reference, RUN))

    def test_no_rank_leaves_a_stopped_job_before_rank_0_has_told_its_end(self):
        folder = self.harvested("told")
        train = [PROGRAM, "train", EXPERIMENT, *LONG]
        self.assertEqual(self.ran([*train, "--set", "train.max_runtime_minutes=0.02"], cwd=folder).returncode, 75)
        stopped = self.status(folder)
        # Between the resume and the first step there is nothing to save, and the job's end is told by rank 0 alone.
        late = ["env", "THRESHER_FAILPOINT=read.open:1=pause3000", *train]
        slow = ["env", "THRESHER_FAILPOINT=train.stopped:1=pause2000", *train]
        process = self.start(["mpirun", "-n", "1", *slow, ":", "-n", "1", *late], cwd=folder)
        wait_until(lambda: len([pid for pid in processes_in(folder) if catches(pid, signal.SIGUSR1)]) == 2, 60, "both ranks")
        process.send_signal(signal.SIGUSR1)
        self.end(process, 75)
        status = self.status(folder)
        self.assertEqual((status["state"], status.get("exit_code"), status["ranks"]), ("stopped", 75, 2))
        self.assertEqual(status["step"], stopped["step"])

    def test_a_signal_before_the_ranks_began_is_a_stop(self):
        folder = self.harvested("early")
        program = folder / "late"
        program.write_text(f'#!/bin/sh\n[ "$1" = status ] || {{ touch {folder}/begun; exec sleep 60; }}\nexec {PROGRAM} "$@"\n')
        program.chmod(0o755)
        for ranks in (1, 2):
            with self.subTest(ranks=ranks):
                (folder / "begun").unlink(missing_ok=True)
                process = self.start([LOCAL, "-n", ranks, "train", EXPERIMENT, *SOME], env={"THRESHER": str(program)}, cwd=folder)
                wait_until((folder / "begun").exists, 60, "the ranks to be started")
                time.sleep(0.5)
                process.send_signal(signal.SIGINT)
                self.end(process, 75)
                self.assertFalse((folder / "runs").exists())

    def test_a_second_signal_ends_the_ranks_at_once(self):
        for ranks in (1, 2):
            with self.subTest(ranks=ranks):
                folder = self.harvested(f"twice-{ranks}")
                process = self.start([LOCAL, "-n", ranks, "--restarts", "3", "train", EXPERIMENT, *LONG], cwd=folder,
                                     start_new_session=True)
                self.training(folder)
                # A rank that stands still cannot save: the first signal alone would not end the job.
                for pid in processes_in(folder):
                    os.kill(pid, signal.SIGSTOP)
                process.send_signal(signal.SIGINT)
                time.sleep(0.3)
                process.send_signal(signal.SIGINT)
                time.sleep(0.3)
                for pid in processes_in(folder):
                    os.kill(pid, signal.SIGCONT)
                errors = process.communicate(timeout=60)[1]
                self.assertNotIn("restart 1", errors)
                self.assertNotEqual(process.returncode, 0)
                self.expect_nobody_in(folder)

    def test_a_lost_rank_is_70_and_restarts_continue(self):
        folder = self.harvested("lost")
        process = self.start([LOCAL, "-n", "2", "train", EXPERIMENT, *SOME], env=SLOW, cwd=folder)
        self.training(folder)
        os.kill(max(processes_in(folder)), signal.SIGKILL)
        self.end(process, 70)
        self.expect_nobody_in(folder)
        process = self.start([LOCAL, "-n", "2", "--restarts", "1", "train", EXPERIMENT, *SOME], env=SLOW,
                             cwd=folder)
        wait_until(lambda: len(processes_in(folder)) == 2 and self.status(folder)["state"] == "running", 60, "two ranks")
        os.kill(max(processes_in(folder)), signal.SIGKILL)
        self.assertIn("restart 1 of 1", self.end(process, 0))
        self.assertEqual(digests(folder, RUN), digests(self.reference, RUN))

    def test_ranks_do_not_outlive_a_killed_script(self):
        folder = self.harvested("orphans")
        process = self.start([LOCAL, "-n", "2", "train", EXPERIMENT, *LONG], cwd=folder)
        self.training(folder)
        process.kill()
        self.expect_nobody_in(folder)

    def test_errors_keep_their_exit_code_with_one_and_two_ranks(self):
        folder = self.workspace("errors")
        for ranks in (1, 2):
            result = self.ran([LOCAL, "-n", ranks, "train", EXPERIMENT, "--set", "train.lanes=6"], cwd=folder)
            self.assertEqual(result.returncode, 78, result.stderr)
        result = self.ran([LOCAL, "-n", "1", "train", EXPERIMENT], cwd=folder)  # no cache yet
        self.assertNotIn(result.returncode, (0, 70, 75), result.stderr)
        for arguments in ([], ["train"], ["-n", "x", "train", EXPERIMENT, *SOME], ["--nodes"]):
            self.assertEqual(self.ran([LOCAL, *arguments], cwd=folder).returncode, 64, arguments)
        self.assertIn("Ctrl-C saves", self.ran([LOCAL, "--help"]).stdout)

    def test_punished_runs_end_with_the_bytes_of_an_undisturbed_run(self):
        folder = self.harvested("punished")
        punish = self.start([LAUNCH / "ci/punish.sh", "--match", str(EXPERIMENT), "--mtbf", "1", "--failures", "3", "--signals",
                             "KILL", "--seed", "5"], cwd=folder)
        self.assertIn("of 9", self.ran([LOCAL, "-n", "2", "--restarts", "9", "train", EXPERIMENT, *SOME], env=SLOW,
                                       cwd=folder).stderr)
        punish.kill()
        self.must([LOCAL, "-n", "2", "train", EXPERIMENT, *SOME], cwd=folder)
        self.assertEqual(digests(folder, RUN), digests(self.reference, RUN))

    def test_status_tells_how_far_a_run_is(self):
        folder = self.harvested("status")
        status = lambda *more: self.must([PROGRAM, "status", EXPERIMENT, *more], cwd=folder).strip()
        self.assertEqual((status(), status("--code")), ("runs/tiny: none", "none"))
        process = self.start([PROGRAM, "train", EXPERIMENT, *LONG], cwd=folder)
        self.training(folder)
        self.assertEqual(status("--code"), "running")
        process.kill()
        process.wait()
        self.assertRegex(status(), r"^runs/tiny: lost, train, step 0 of \d+|^runs/tiny: lost, train")
        self.assertEqual(status("--code"), "70")
        self.assertEqual(self.must([PROGRAM, "status", self.reference / "runs/tiny", "--code"]).strip(), "0")
        self.assertEqual(json.loads(status("--json", "--set", "run.name=other")), {"state": "none", "run_dir": "runs/other"})


if __name__ == "__main__":
    unittest.main(verbosity=2)
