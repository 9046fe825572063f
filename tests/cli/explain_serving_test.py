"""`thresher features explain` against a real server: `transformers serve` on the demo's host model, dequantised. What a model
of 135M parameters says is of no interest here; that two programs understand each other is."""
import json
import os
import socket
import subprocess
import sys
import time
import unittest
import urllib.request
from pathlib import Path

from program import *

sys.path.insert(0, str(SOURCE / "tests/host_model"))
import hf_twin  # noqa: E402

WEIGHTS = SOURCE / "models/SmolLM2-135M-Instruct.Q4_1.gguf"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Serving(TinyRunTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.workspace / "served"
        hf_twin.load_twin(WEIGHTS).save_pretrained(folder)
        from transformers import AutoTokenizer
        AutoTokenizer.from_pretrained(WEIGHTS.parent, gguf_file=WEIGHTS.name).save_pretrained(folder)
        cls.model, port = str(folder), free_port()
        cls.url = f"http://127.0.0.1:{port}/v1"
        cls.log = open(cls.workspace / "serve.log", "w")
        cls.server = subprocess.Popen(
            [str(Path(os.environ["THRESHER_PYTHON"]).parent / "transformers"), "serve", cls.model, "--host", "127.0.0.1", "--port",
             str(port), "--device", "cpu"], stdout=cls.log, stderr=subprocess.STDOUT)
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                return
            except OSError:
                if cls.server.poll() is not None:
                    break
                time.sleep(0.5)
        raise AssertionError((cls.workspace / "serve.log").read_text()[-3000:])

    @classmethod
    def tearDownClass(cls):
        cls.server.terminate()
        cls.server.wait(30)
        cls.log.close()
        super().tearDownClass()

    def test_a_real_server_explains_and_judges(self):
        built = self.run_here("features", "build", "runs/tiny", "--sae", "topk")
        self.assertEqual(built.returncode, 0, built.stderr)
        command = ["features", "explain", "runs/tiny", "--sae", "topk", "--endpoint", self.url, "--model", self.model, "--latents", "17,60",
                   "--scored", "5", "--parallel", "1", "--timeout", "300", "--json"]
        result = self.run_here(*command, timeout=1200)
        self.assertEqual(result.returncode, 0, result.stderr)
        found = json.loads(result.stdout)
        self.assertEqual(found["summary"]["n_explained"], 2)
        for one in found["explanations"]:
            self.assertGreater(len(one["explanation"]), 0)
            asked = sum(one[score][count] for score in ("detection", "fuzzing") for count in ("n_true", "n_false", "n_unreadable"))
            self.assertGreaterEqual(asked, 10)
        again = self.run_here(*command)
        self.assertEqual(json.loads(again.stdout)["n_requests"], 0)
        self.assertEqual(json.loads(again.stdout)["explanations"], found["explanations"])


if __name__ == "__main__":
    unittest.main()
