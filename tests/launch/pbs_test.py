"""The PBS scripts with a node file and stubs of qsub, qrerun and qstat: ranks on the nodes, stopped before the limit, put
back or submitted anew."""
from launching import *

STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "$STUB_LOG"
{body}
"""
OPTIONS = "--set train.checkpoint_every_tokens=20k"


class Pbs(LaunchTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.reference = cls.undisturbed(*OPTIONS.split())

    def job(self, name, stage, limit="24:00:00", qrerun="exit 0", options=OPTIONS, **more):
        """(folder, environment, command) of a job on a host with two slots."""
        folder = self.workspace(name)
        stubs = folder / "stubs"
        stubs.mkdir()
        for program, body in (("qsub", "echo 8.pbs"), ("qrerun", qrerun),
                              ("qstat", f"echo '    Resource_List.walltime = {limit}'" if limit else "exit 1")):
            (stubs / program).write_text(STUB.format(body=body))
            (stubs / program).chmod(0o755)
        nodes = folder / "nodes"
        nodes.write_text("localhost\nlocalhost\n")
        environment = {"PATH": f"{stubs}:{os.environ['PATH']}", "STUB_LOG": str(folder / "stub.log"), "PBS_NODEFILE": str(nodes),
                       "PBS_JOBID": "7.pbs", "PBS_O_WORKDIR": str(folder), "THRESHER_LAUNCH": str(LAUNCH),
                       "EXPERIMENT": str(EXPERIMENT), "OPTIONS": options, **more}
        return folder, environment, [LAUNCH / f"pbs/{stage}.pbs"]

    def called(self, folder, programs=("qsub", "qrerun")):
        log = folder / "stub.log"
        return [line for line in log.read_text().splitlines() if line.split()[0] in programs] if log.exists() else []

    def test_harvest_and_training_on_the_nodes_of_the_job_give_the_bytes_of_a_local_run(self):
        folder, environment, command = self.job("whole", "harvest")
        self.must(command, env=environment, cwd="/")
        result = self.ran([LAUNCH / "pbs/train.pbs"], env=environment, cwd="/")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("attempt 1, 2 ranks, stopping after 86100 s", result.stderr)
        self.assertEqual(self.status(folder)["ranks"], 2)
        self.assertEqual(digests(folder, CACHE + RUN), digests(self.reference, CACHE + RUN))
        self.assertEqual(self.called(folder), [])

    def test_before_the_limit_the_ranks_save_and_the_job_is_put_back(self):
        folder, environment, command = self.job("limit", "train", limit="00:05:06",
                                                options=OPTIONS + " --set train.total_tokens=100M")
        shutil.copytree(self.reference / "caches", folder / "caches")
        result = self.ran(command, env=environment)
        self.assertEqual(result.returncode, 75, result.stderr)
        self.assertEqual(self.status(folder)["exit_code"], 75)
        self.assertEqual(self.called(folder), ["qrerun 7.pbs"])

    def test_a_user_who_may_not_rerun_submits_anew_and_not_for_ever(self):
        folder, environment, command = self.job("anew", "train", limit="00:05:06", qrerun="exit 159",
                                                options=OPTIONS + " --set train.total_tokens=100M", THRESHER_ATTEMPT="4")
        shutil.copytree(self.reference / "caches", folder / "caches")
        result = self.ran(command, env=environment)
        self.assertEqual(result.returncode, 75, result.stderr)
        self.assertEqual(self.called(folder),
                         ["qrerun 7.pbs", f"qsub -v EXPERIMENT={EXPERIMENT},OPTIONS={environment['OPTIONS']},THRESHER_ATTEMPT=5 "
                                          f"{LAUNCH}/pbs/train.pbs"])
        result = self.ran(command, env={**environment, "THRESHER_ATTEMPT": "20"})
        self.assertEqual(result.returncode, 75, result.stderr)
        self.assertIn("THRESHER_MAX_RESTARTS=20", result.stderr)
        self.assertEqual(len(self.called(folder)), 2)

    def test_a_configuration_error_is_not_tried_again(self):
        folder, environment, command = self.job("refused", "train", limit="", options="--set train.lanes=1")
        shutil.copytree(self.reference / "caches", folder / "caches")
        result = self.ran(command, env=environment)
        self.assertEqual(result.returncode, 78, result.stderr)
        self.assertEqual(self.called(folder), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
