"""What the tests of the program share: a workspace with a tiny host model, running the program."""
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

SOURCE = Path(os.environ["THRESHER_SOURCE_DIR"])
PROGRAM = Path(os.environ["THRESHER_BIN"]) / "thresher"
TINY = SOURCE / "configs/tiny.yaml"


def run(*arguments, ranks=None, cwd=None, timeout=120, stdin=None):
    """Runs the program (under mpirun when ranks is given) with LC_ALL=C; returns the completed process."""
    command = [str(PROGRAM), *map(str, arguments)]
    if ranks:
        command = ["mpirun", "-n", str(ranks), *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=cwd, input=stdin,
                          env={**os.environ, "LC_ALL": "C"})


def error_lines(result):
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


class ProgramTest(unittest.TestCase):
    """A test case with a workspace: tiny.gguf and text/ of make_tiny_host.py, made once."""

    @classmethod
    def setUpClass(cls):
        cls.workspace = Path(tempfile.mkdtemp(prefix="thresher-cli-"))
        subprocess.run([os.environ["THRESHER_PYTHON"], SOURCE / "tools/make_tiny_host.py",
                        cls.workspace / "models/tiny.gguf", cls.workspace / "data/tiny"],
                       check=True, capture_output=True)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.workspace)

    def run_here(self, *arguments, **options):
        """With the workspace as working directory, where configs/tiny.yaml finds its paths."""
        return run(*arguments, cwd=self.workspace, **options)

    def expect_error(self, result, code, first_line):
        self.assertEqual(error_lines(result), [f"error: {first_line}"], result.stderr)
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertEqual(result.stdout, "")


class TinyRunTest(ProgramTest):
    """The same with a short run of configs/tiny.yaml in runs/tiny."""

    SHORT = ["--set", "train.total_tokens=40960", "--set", "train.warmup_tokens=4096", "--set",
             "train.decay_tokens=8192", "--set", "train.checkpoint_every_tokens=10240", "--set",
             "sae.0.dead_window_tokens=20000", "--set", "evaluation.tokens=2048"]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.make_run()

    @classmethod
    def make_run(cls, *more):
        """Exit code 0, or the test fails; `more` come after SHORT."""
        result = run("run", TINY, *cls.SHORT, *more, cwd=cls.workspace)
        if result.returncode != 0:
            raise AssertionError(result.stderr)
        return result
