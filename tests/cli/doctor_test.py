"""`thresher doctor` says what it found, fails where a run would, and leaves nothing behind."""
import json

from program import *

STATUSES = {"ok", "warn", "fail"}


class Doctor(ProgramTest):
    def checks(self, *arguments, code=0, **options):
        result = self.run_here("doctor", *arguments, "--json", **options)
        self.assertEqual(result.returncode, code, result.stderr)
        checks = json.loads(result.stdout)["checks"]
        for check in checks:
            self.assertIn(check["status"], STATUSES)
            self.assertTrue(check["value"], check)
            self.assertEqual(check["advice"] == "", check["status"] == "ok", check)
        return {check["name"]: check for check in checks}

    def test_names_versions_machine_and_file_system(self):
        before = sorted(self.workspace.iterdir())
        checks = self.checks()
        self.assertIn("torch 2.11.0", checks["versions"]["value"])
        self.assertIn("hdf5 1.", checks["versions"]["value"])
        self.assertRegex(checks["mpi library"]["value"], r"^compiled Open MPI v4\.(\S+), loaded Open MPI v4\.\1 from /\S+libmpi\.so")
        self.assertRegex(checks["hdf5 library"]["value"], r"^compiled (1\.\S+), loaded \1 from /\S+libhdf5")
        self.assertIn("libtorch_cpu.so", checks["torch library"]["value"])
        self.assertRegex(checks["/dev/shm"]["value"], r"free of \S+ [KMGT]iB$")
        self.assertIn("cores usable", checks["cpu"]["value"])
        self.assertIn("available" if "available" in checks["memory"]["value"] else "control group",
                      checks["memory"]["value"])
        self.assertEqual(checks["working directory: renaming without replacing"]["status"], "ok")
        self.assertEqual(checks["working directory: locks"]["status"], "ok")
        self.assertEqual((checks["mpi"]["status"], checks["mpirun"]["status"]), ("ok", "ok"))
        self.assertEqual(sorted(self.workspace.iterdir()), before)

    def test_an_experiment_whose_files_are_there_is_well(self):
        checks = self.checks(TINY)
        self.assertEqual(checks["host_model.weights"]["status"], "ok")
        self.assertIn("to be harvested", checks["cache"]["value"])
        self.assertEqual(checks["cache.dir: locks"]["status"], "ok")
        self.assertFalse((self.workspace / "caches").exists())

    def test_compares_what_an_experiment_takes_with_what_there_is(self):
        needs = lambda checks: {name: check for name, check in checks.items() if name.startswith("need")}
        for ranks, words in ((None, "1 rank on this host"), (2, "2 ranks on this host")):
            found = needs(self.checks(TINY, ranks=ranks))
            self.assertEqual(list(found), ["need: harvest", "need: training"])
            for check in found.values():
                self.assertEqual(check["status"], "ok")
                self.assertRegex(check["value"], r"^about \S+ [KMG]iB of memory")
                self.assertIn(words, check["value"])
        # 64 x 64M latents: 4 x 4 bytes x 2 x 64 x 64M = 128 GiB and three times that on disk.
        found = needs(self.checks(TINY, "--set", "sae.0.expansion_factor=1000000", code=78))
        self.assertEqual(found["need: harvest"]["status"], "ok")
        self.assertEqual(found["need: training"]["status"], "fail")

    def test_a_harvested_experiment_needs_no_harvest(self):
        caches = ("--set", "cache.dir=caches/doctor")
        self.assertEqual(self.run_here("harvest", TINY, *caches).returncode, 0)
        names = [name for name in self.checks(TINY, *caches) if name.startswith("need")]
        self.assertEqual(names, ["need: training"])
        shutil.rmtree(self.workspace / "caches")
        shutil.rmtree(self.workspace / "runs")

    def test_missing_files_and_broken_experiments_fail(self):
        checks = self.checks(TINY, "--set", "host_model.weights=models/none.gguf", code=78)
        self.assertEqual(checks["host_model.weights"]["value"], "models/none.gguf does not exist")
        checks = self.checks(TINY, "--set", "train.lanes=6", code=78)
        self.assertIn("train.lanes = 6 is not a power of two", checks["experiment"]["value"])
        result = self.run_here("doctor", TINY, "--set", "train.lanes=6")
        self.assertEqual(error_lines(result)[0].split(" of ")[0], "error: doctor: 1")

    def test_a_folder_that_cannot_be_written_fails(self):
        checks = self.checks(TINY, "--set", "run.dir=/proc/none", code=78)
        self.assertEqual(checks["run.dir: writing"]["status"], "fail")

    def test_speaks_of_ranks_under_mpirun(self):
        checks = self.checks(ranks=2)
        self.assertRegex(checks["mpi"]["value"], r"^2 ranks, 2 of them on this host; Open MPI v4")

    def test_names_the_thread_environment(self):
        os.environ["OMP_PROC_BIND"] = "true\x1b[1m"
        try:
            checks = self.checks()
            self.assertEqual(checks["thread environment"]["status"], "warn")
            self.assertIn(r"OMP_PROC_BIND=true\x1b[1m", checks["thread environment"]["value"])
        finally:
            del os.environ["OMP_PROC_BIND"]


if __name__ == "__main__":
    unittest.main()
