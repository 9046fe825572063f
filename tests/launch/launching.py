"""What the tests of the launch scripts share: a workspace, running a script, waiting, comparing results."""
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

SOURCE = Path(os.environ["THRESHER_SOURCE_DIR"])
PROGRAM = Path(os.environ["THRESHER_BIN"]) / "thresher"
LAUNCH = SOURCE / "launch"
EXPERIMENT = SOURCE / "configs/tiny.yaml"

# For jobs that are hit in the middle: however fast the machine, there is a middle.
SLOW = {"THRESHER_FAILPOINT": "train.step:1+=pause5"}

# What has the same bytes for every number of ranks, launcher, kill and resume.
CACHE = ["caches/*/shards/*", "caches/*/MANIFEST.json"]
RUN = ["runs/*/sae/*/*", "runs/*/metrics.jsonl", "runs/*/ckpt/*/*.safetensors"]


def digests(folder, patterns):
    """{relative path: sha256} of the files that match."""
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()}


def wait_until(condition, seconds, what):
    """Polls until `condition` returns something true, which is returned; it is a failure if that takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s: {what}")


def processes_in(folder):
    """{pid: command line} of the live thresher processes that work in a folder."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() != "thresher" or os.readlink(process / "cwd") != str(folder):
                continue
            if (process / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass
    return found


def catches(pid, number):
    """Whether a process has a handler for a signal."""
    try:
        caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


class LaunchTest(unittest.TestCase):
    """A case with workspaces in which configs/tiny.yaml finds its paths."""

    @classmethod
    def setUpClass(cls):
        cls.root = Path(tempfile.mkdtemp(prefix="thresher-launch-")).resolve()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.inputs = cls.workspace("inputs", link=False)
        subprocess.run([os.environ["THRESHER_PYTHON"], SOURCE / "tools/make_tiny_host.py",
                        cls.inputs / "models/tiny.gguf", cls.inputs / "data/tiny"], check=True, capture_output=True)

    @classmethod
    def workspace(cls, name, link=True):
        """An own folder for caches/ and runs/ beside the one model and text."""
        folder = cls.root / name
        folder.mkdir()
        if link:
            for part in ("models", "data"):
                (folder / part).symlink_to(cls.inputs / part)
        return folder

    @classmethod
    def undisturbed(cls, *options):
        """A workspace with a cache and a run by launch/local.sh, one rank, never disturbed."""
        folder = cls.workspace("undisturbed")
        for stage in ("harvest", "train"):
            cls.must([LAUNCH / "local.sh", "-n", "1", stage, EXPERIMENT, *options], cwd=folder)
        return folder

    @staticmethod
    def environment(**more):
        return {**os.environ, "THRESHER": str(PROGRAM), "LC_ALL": "C", **more}

    @classmethod
    def must(cls, command, **options):
        """Runs a command that has to end with 0; returns its stdout."""
        result = cls.ran(command, **options)
        if result.returncode != 0:
            raise AssertionError(f"{command}: exit {result.returncode}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}")
        return result.stdout

    @classmethod
    def ran(cls, command, env=None, timeout=240, **options):
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout,
                              env=cls.environment(**(env or {})), **options)

    def start(self, command, env=None, **options):
        """The same in the background, with its stderr for the test; ended at the latest with the test."""
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                   env=self.environment(**(env or {})), **options)
        def end():
            process.kill()
            process.wait()
            process.stderr.close()
        self.addCleanup(end)
        return process

    def training(self, folder, name="tiny"):
        """Waits until a training has logged its first steps."""
        metrics = folder / f"runs/{name}/metrics.jsonl"
        wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, 120, f"{metrics} to be written")

    def checkpoint(self, folder, name="tiny"):
        """Waits until a training has written its first checkpoint."""
        wait_until(lambda: list(folder.glob(f"runs/{name}/ckpt/step-*")), 120, "the first checkpoint")

    def status(self, folder, name="tiny"):
        return json.loads((folder / f"runs/{name}/status.json").read_text())

    def expect_nobody_in(self, folder):
        """Killed ranks take a moment to be gone."""
        wait_until(lambda: not processes_in(folder), 10, f"no thresher left in {folder}: {processes_in(folder)}")
