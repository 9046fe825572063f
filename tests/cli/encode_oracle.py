"""`thresher encode` by hand: the host model in transformers, the SAE in sae-lens, the rules of the cache in numpy."""
import gzip
import json
import sys

import numpy as np
import torch
from program import *
from sae_lens import SAE

sys.path.insert(0, str(SOURCE / "tests/host_model"))
import hf_twin  # noqa: E402

HOOK_POINTS = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
CONTEXT = 64


class Encode(TinyRunTest):
    def encode(self, *arguments, **options):
        result = self.run_here("encode", "runs/tiny", *arguments, "--json", **options)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def activations(self, ids):
        """{hook point: [tokens, width]}, each context on its own."""
        twin = hf_twin.load_twin(self.workspace / "models/tiny.gguf", attention="eager")
        parts = {name: [] for name in HOOK_POINTS}
        with torch.no_grad():
            for first in range(0, len(ids), CONTEXT):
                states = twin(torch.tensor([ids[first:first + CONTEXT]]), output_hidden_states=True).hidden_states
                for name in HOOK_POINTS:
                    parts[name].append(states[int(name.split(".")[1]) + 1][0])
        return {name: torch.cat(rows) for name, rows in parts.items()}

    def test_equals_a_run_by_hand(self):
        text = next((self.workspace / "data/tiny").glob("*.txt")).read_text()[:700]
        (self.workspace / "text.txt").write_text(text)
        tokens = self.encode("--file", "text.txt", "--top", "400")["tokens"]
        self.assertEqual("".join(token["text"] for token in tokens), text.replace("\n", "\\n"))
        self.assertGreater(len(tokens), 3 * CONTEXT)
        x = self.activations([token["id"] for token in tokens])
        limits = json.loads((self.workspace / "caches/tiny/cache.json").read_text())["norm_limits"]
        outliers = np.zeros(len(tokens), dtype=bool)
        for name, limit in zip(HOOK_POINTS, limits):
            outliers |= np.linalg.norm(x[name].numpy().astype(np.float64), axis=1) > limit
        seen = set()
        for place, token in enumerate(tokens):
            self.assertEqual((token["context"], token["position"]), divmod(place, CONTEXT))
            expected = "first position" if place % CONTEXT == 0 else "outlier norm" if outliers[place] else None
            self.assertEqual(token["dropped"], expected, place)
            seen.add(expected)
        self.assertEqual(seen, {"first position", "outlier norm", None})
        for sae in ("topk", "relu_l1"):
            self.compare(tokens, sae, x)

    def test_a_text_from_standard_input_or_packed_is_the_same(self):
        text = "The old sailor watched the harbour."
        expected = self.encode("--text", text)
        self.assertEqual(self.encode("--file", "-", stdin=text), expected)
        (self.workspace / "packed.txt.gz").write_bytes(gzip.compress(text.encode()))
        self.assertEqual(self.encode("--file", "packed.txt.gz"), expected)

    def test_files_that_are_no_text(self):
        (self.workspace / "wide.txt").write_text("The old sailor", encoding="utf-16")
        self.expect_error(self.run_here("encode", "runs/tiny", "--file", "wide.txt"), 65,
                          "wide.txt: starts with the byte order mark of UTF-16 or UTF-32")
        self.expect_error(self.run_here("encode", "runs/tiny", "--file", "-", stdin="\0" * 50), 65,
                          "standard input: is not text: 50 of its 50 bytes are NUL or not valid UTF-8")
        (self.workspace / "odd.txt").write_bytes(b"The old sailor \xff watched")
        result = self.run_here("encode", "runs/tiny", "--file", "odd.txt")
        self.assertIn("the text has 0 NUL bytes and 1 bytes that are not UTF-8", result.stderr)
        (self.workspace / "long.txt").write_bytes(b"a" * ((16 << 20) + 1))
        self.expect_error(self.run_here("encode", "runs/tiny", "--file", "long.txt"), 65,
                          "long.txt: document 0 has more than 16777216 bytes")

    def compare(self, tokens, name, x):
        sae = SAE.load_from_disk(self.workspace / "runs/tiny/sae" / name)
        with torch.no_grad():
            acts = sae.encode(x[sae.cfg.metadata.hook_name])
        n_compared = 0
        for place, token in enumerate(tokens):
            if token["dropped"]:
                self.assertIsNone(token["saes"])
                continue
            found = token["saes"][name]
            self.assertEqual(found["n_active"], len(found["latents"]))
            values = [latent["activation"] for latent in found["latents"]]
            self.assertEqual(values, sorted(values, reverse=True))
            ours = np.zeros(acts.shape[1])
            for latent in found["latents"]:
                ours[latent["latent"]] = latent["activation"]
            theirs = acts[place].numpy()
            scale = max(theirs.max(), 1)
            # Where two latents compete for the last place of a TopK SAE, rounding may decide otherwise.
            differs = np.abs(ours - theirs) > 1e-4 * scale
            self.assertLessEqual(differs.sum(), 2 if name == "topk" else 0, (place, name))
            n_compared += int(not differs.any())
        self.assertGreater(n_compared, 0.98 * sum(not token["dropped"] for token in tokens))

    def test_top_and_one_sae(self):
        whole = self.encode("--text", "The old sailor watched the harbour.", "--top", "400")
        part = self.encode("--text", "The old sailor watched the harbour.", "--top", "2", "--sae", "topk")
        self.assertEqual(part["saes"], ["topk"])
        for all_of_it, two in zip(whole["tokens"], part["tokens"]):
            if not two["dropped"]:
                self.assertEqual(two["saes"]["topk"]["latents"], all_of_it["saes"]["topk"]["latents"][:2])
                self.assertEqual(two["saes"]["topk"]["n_active"], all_of_it["saes"]["topk"]["n_active"])

    def test_the_folder_of_an_sae_with_its_host_model(self):
        text = ["--text", "The old sailor watched the harbour.", "--top", "400"]
        host = "models/tiny.gguf"
        of_run = self.encode(*text, "--sae", "topk")["tokens"]
        result = self.run_here("encode", "runs/tiny/sae/topk", "--host-model", host, *text, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        of_folder = json.loads(result.stdout)["tokens"]
        n_compared = 0
        for ours, theirs in zip(of_folder, of_run, strict=True):
            if theirs["dropped"] in (None, ours["dropped"]):  # without a run no norm limit is known
                self.assertEqual((ours["id"], ours["text"]), (theirs["id"], theirs["text"]))
                if ours["dropped"] is None:
                    self.compare_latents(ours["saes"]["topk"], theirs["saes"]["topk"])
                n_compared += 1
        self.assertGreater(n_compared, len(of_run) // 2)
        self.expect_error(self.run_here("encode", "runs/tiny/sae/topk", *text), 64,
                          "runs/tiny/sae/topk holds an SAE alone")
        self.expect_error(self.run_here("encode", host, *text), 78, f"{host} is a host model without an SAE")
        self.expect_error(self.run_here("encode", "runs/tiny", "--host-model", host, *text), 64,
                          "--host-model with a run, which names its own")

    def compare_latents(self, ours, theirs):
        """The run and the folder may use another number of threads, so the model's last bits may differ."""
        ours, theirs = ({one["latent"]: one["activation"] for one in side["latents"]} for side in (ours, theirs))
        self.assertEqual(ours.keys(), theirs.keys())
        for latent, activation in theirs.items():
            self.assertAlmostEqual(ours[latent], activation, delta=1e-4 * max(1, activation))

    def test_hostile_text_is_harmless_on_a_terminal(self):
        text = b"\x1b[2J<b>\r\nNULL|\xff\xe2\x80\xae../../etc".replace(b"NULL", b"x")
        (self.workspace / "hostile.txt").write_bytes(text)
        result = self.run_here("encode", "runs/tiny", "--file", "hostile.txt")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertFalse(any(ord(c) < 32 and c != "\n" for c in result.stdout))
        self.assertIn("(dropped: first position)", result.stdout)

    def test_errors(self):
        self.expect_error(self.run_here("encode", "runs/tiny", "--text", "a", "--sae", "tpok"), 64,
                          "--sae tpok is no SAE of the run")
        self.expect_error(self.run_here("encode", "runs/tiny", "--text", ""), 78, "encode: the text has no tokens")
        self.expect_error(self.run_here("encode", "nowhere", "--text", "a"), 78, "nowhere: there is neither a run nor an SAE nor a host model here")
        self.assertEqual(self.run_here("encode", "runs/tiny").returncode, 64)


if __name__ == "__main__":
    unittest.main()
