"""Installs the build, builds examples/measure_sae against it as a stranger would, and compares its figures with NumPy.
Every installed header must also compile on its own."""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(os.environ["THRESHER_SOURCE_DIR"]) / "tests/pipeline"))
import harness  # noqa: E402

parser = argparse.ArgumentParser()
parser.add_argument("--build", type=Path, required=True)
parser.add_argument("--config", required=True)
options, remaining = parser.parse_known_args()


def run(*command, **settings):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **settings)
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\nexit {result.returncode}\n{(result.stdout + result.stderr)[-6000:]}")
    return result.stdout


class InstalledPackage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="thresher-install-"))
        cls.prefix = cls.folder / "prefix"
        run("cmake", "--install", options.build, "--prefix", cls.prefix, "--config", options.config)
        source = cls.folder / "measure_sae"
        shutil.copytree(harness.SOURCE / "examples/measure_sae", source)
        run("cmake", "-S", source, "-B", source / "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_PREFIX_PATH={cls.prefix}")
        run("cmake", "--build", source / "build")
        cls.example = source / "build/measure_sae"

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def test_a_project_of_its_own_measures_an_sae_as_numpy_does(self):
        workspace = harness.make_workspace("install")
        self.addCleanup(shutil.rmtree, workspace)
        # The installed program makes what the installed library reads.
        run(self.prefix / "bin/thresher", "run", *harness.experiment(workspace, "a"))
        sae = sorted((workspace / "a/runs/tiny/sae").iterdir())[0]
        measured = json.loads(run(self.example, workspace / "a/cache", sae))

        self.assertEqual(measured["n_tokens"], 1000)
        config = json.loads((sae / "cfg.json").read_text())
        weights = {name: w.astype(np.float64) for name, w in load_file(sae / "sae_weights.safetensors").items()}
        rows = self.cached_rows(workspace / "a/cache", config["metadata"]["hook_name"])
        x = rows - weights["b_dec"] if config["apply_b_dec_to_input"] else rows
        pre_acts = x @ weights["W_enc"] + weights["b_enc"]
        if config["architecture"] == "topk":
            kth = np.sort(pre_acts, axis=1)[:, -config["k"]][:, None]
            pre_acts = np.where(pre_acts >= kth, pre_acts, 0)
        acts = np.maximum(pre_acts, 0)
        errors = rows - (acts @ weights["W_dec"] + weights["b_dec"])
        fvu = (errors ** 2).sum() / ((rows - rows.mean(0)) ** 2).sum()
        # The example measures a sample of 1,000 rows, NumPy all of them.
        self.assertAlmostEqual(measured["fvu"], fvu, delta=0.1 * fvu)
        self.assertAlmostEqual(measured["l0"], (acts > 0).sum(1).mean(), delta=0.1 * measured["l0"])

    @staticmethod
    def cached_rows(cache, hook_point):
        import h5py
        rows = []
        for shard in sorted((cache / "shards").glob("*.h5")):
            with h5py.File(shard) as file:
                rows.append(file[f"activations/{hook_point}"][()].astype(np.float64))
        return np.concatenate(rows)

    def test_errors_reach_the_other_project_as_one_message(self):
        result = subprocess.run([self.example, self.folder / "nowhere", self.folder], capture_output=True, text=True)
        self.assertEqual(result.returncode, 78)
        self.assertEqual(result.stderr.splitlines()[0], f"{self.folder}/nowhere: there is no activation cache here")

    def test_every_installed_header_stands_alone(self):
        include = self.prefix / "include/thresher"
        headers = sorted(path.relative_to(include) for path in include.rglob("*.h"))
        self.assertGreater(len(headers), 60)
        torch_include = next(options.build.glob("torch_include"))
        # One translation unit a layer keeps it quick; a header that leans on an earlier one is found by reversing.
        for order in (headers, headers[::-1]):
            unit = self.folder / "headers.cpp"
            unit.write_text("".join(f'#include "{header.as_posix()}"\n' for header in order))
            run("g++", "-std=c++20", "-fsyntax-only", "-I", include, "-isystem", torch_include,
                "-D_GLIBCXX_USE_CXX11_ABI=1", unit)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *remaining], verbosity=2)
