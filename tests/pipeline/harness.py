"""What the end-to-end tests share: a tiny host model and text, running the program, comparing folders."""
import hashlib
import os
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
PYTHON = os.environ["THRESHER_PYTHON"]
WALL_CLOCK_FILES = {"status.json", "timing.jsonl", "lock", "config.resolved.yaml"}


def make_workspace(name):
    """A folder with tiny.gguf and text/ in it; removed by the caller."""
    folder = Path(tempfile.mkdtemp(prefix=f"thresher-{name}-"))
    subprocess.run([PYTHON, SOURCE / "tools/make_tiny_host.py", folder / "tiny.gguf", folder / "text"], check=True,
                   stdout=subprocess.DEVNULL)
    return folder


def experiment(workspace, place):
    """configs/tiny.yaml with its folders moved to workspace/place."""
    return [str(SOURCE / "configs/tiny.yaml"),
            "--set", f"run.dir={workspace / place / 'runs'}", "--set", f"cache.dir={workspace / place / 'cache'}",
            "--set", f"corpus.paths=[{workspace / 'text'}]", "--set", f"host_model.weights={workspace / 'tiny.gguf'}"]


def thresher(*arguments, ranks=None, env=None, check=True, timeout=300):
    """Runs the program (under mpirun when ranks is given); returns the completed process."""
    command = [str(PROGRAM), *map(str, arguments)]
    if ranks:
        command = ["mpirun", "-n", str(ranks), *command]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})})
    if check and result.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\nexit {result.returncode}\n{result.stderr[-4000:]}")
    return result


def digests(folder, patterns):
    """{relative path: sha256} of the files under folder that match a pattern."""
    found = {}
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# What design promises to be the same bytes for every rank count and after any kill and resume.
CACHE_PATTERNS = ["cache/shards/*", "cache/MANIFEST.json"]
RUN_PATTERNS = ["runs/*/sae/*/*", "runs/*/metrics.jsonl", "runs/*/ckpt/*/*.safetensors"]


def promised(place):
    return digests(place, CACHE_PATTERNS + RUN_PATTERNS)
