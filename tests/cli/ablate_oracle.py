"""`thresher ablate` against plain forward hooks in transformers and the SAE written out in torch."""
import json
import math
import sys

import torch
from program import *
from safetensors.torch import load_file

sys.path.insert(0, str(SOURCE / "tests/host_model"))
import hf_twin  # noqa: E402

TOLERANCE = 1e-3
SMOLLM2 = SOURCE / "models/SmolLM2-135M-Instruct.Q4_1.gguf"


def editing(edit, part):
    """A hook on a module's output (or its first input) that puts edit(activation) in its place."""

    def on_output(_module, _inputs, output):
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        return edit(output)

    def on_input(_module, inputs):
        return (edit(inputs[0]), *inputs[1:])

    return on_output if part == "output" else on_input


class Twin:
    """The model in transformers with one activation at a time edited."""

    def __init__(self, path):
        self.model = hf_twin.load_twin(path, attention="eager")

    def place(self, name):
        """(module, its output or its input) of a hook point or a receiver."""
        if name == "hook_embed":
            return self.model.model.embed_tokens, "output"
        if name == "final":
            return self.model.model.norm, "input"
        layer = self.model.model.layers[int(name.split(".")[1])]
        return {"hook_resid_pre": (layer, "input"), "hook_attn_out": (layer.self_attn, "output"),
                "hook_mlp_out": (layer.mlp, "output"), "hook_resid_post": (layer, "output"),
                # What a norm reads is read by its attention or MLP alone; the stream goes past it.
                "attn": (layer.input_layernorm, "input"),
                "mlp": (layer.post_attention_layernorm, "input")}[name.split(".")[2]]

    def log_p(self, ids, name=None, edit=None):
        """Log-probabilities [tokens, vocabulary] with edit([1, tokens, d_model]) at a place."""
        handle = None
        if name:
            module, part = self.place(name)
            hook = editing(edit, part)
            handle = (module.register_forward_hook if part == "output" else module.register_forward_pre_hook)(hook)
        with torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0]
        if handle:
            handle.remove()
        return torch.log_softmax(logits.double(), -1)

    def activations(self, ids):
        records = {}
        handles = hf_twin.record_hook_points(self.model, records)
        with torch.no_grad():
            self.model(torch.tensor([ids]))
        for handle in handles:
            handle.remove()
        return {name: value.reshape(len(ids), -1) for name, value in records.items()}


def only_at(positions, changed):
    """An edit that puts rows of `changed` at positions."""

    def edit(x):
        out = x.clone()
        for position in positions:
            out[0, position] = changed[position]
        return out

    return edit


class AblateCase(TinyRunTest):
    """What the tests of a host have in common."""

    def ablate(self, subject, *arguments):
        result = self.run_here("ablate", subject, *arguments, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)["texts"][0]

    def figures(self, log_p, reference, found, answer, against):
        """What a run puts out, by hand."""
        ids = [token["id"] for token in found["tokens"]]
        kept = [token["position"] for token in found["tokens"] if not token["left_out"]]
        kl = (reference.exp() * (reference - log_p)).sum(-1)
        followed = [row for row in kept if row + 1 < len(ids)]
        return {"loss": -sum(float(log_p[row, ids[row + 1]]) for row in followed) / len(followed),
                "kl": float(kl[kept].mean()), "kl_last": float(kl[-1]),
                "probability": math.exp(log_p[-1, answer]),
                "logit_difference": float(log_p[-1, answer] - log_p[-1, against])}

    def expect_figures(self, unchanged, effect, expected, what):
        for name, value in expected.items():
            self.assertAlmostEqual(unchanged[name] + effect[name], value, delta=TOLERANCE, msg=(what, name))

    def cell(self, found, component, position):
        row, column = found["components"].index(component), found["positions"].index(position)
        return {name: table[row][column] for name, table in found["effects"].items()}

    def check_zeros(self, twin, subject, arguments, points, answer, against):
        found = self.ablate(subject, *arguments, "--at", ",".join(points))
        ids = [token["id"] for token in found["tokens"]]
        reference = twin.log_p(ids)
        self.expect_figures(found["unchanged"], dict.fromkeys(found["unchanged"], 0),
                            self.figures(reference, reference, found, answer, against), "unchanged")
        kept = [token["position"] for token in found["tokens"] if not token["left_out"]]
        self.assertEqual(found["positions"], [*kept, "all"])
        for point in points:
            for position in (kept[0], kept[-1], "all"):
                zeros = torch.zeros(len(ids), twin.model.config.hidden_size)
                rows = kept if position == "all" else [position]
                edited = twin.log_p(ids, point, only_at(rows, zeros))
                self.expect_figures(found["unchanged"], self.cell(found, point, position),
                                    self.figures(edited, reference, found, answer, against), (point, position))
        return found, ids, reference, kept


class Tiny(AblateCase):
    TEXT = ["--text", "The old sailor watched the harbour", "--answer", "t", "--against", "o"]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.twin = Twin(cls.workspace / "models/tiny.gguf")

    def token(self, text):
        found = self.ablate("runs/tiny", "--text", text, "--at", "embed", "--sae", "topk", "--include-first")
        self.assertEqual(len(found["tokens"]), 1)
        return found["tokens"][-1]["id"]

    def test_zero_equals_a_forward_hook(self):
        points = ["hook_embed", "blocks.0.hook_resid_pre", "blocks.1.hook_attn_out", "blocks.2.hook_mlp_out",
                  "blocks.2.hook_resid_post", "blocks.3.hook_resid_post"]
        self.check_zeros(self.twin, "runs/tiny", [*self.TEXT, "--sae", "topk"], points, self.token("t"),
                         self.token("o"))

    def test_latents_and_the_sae_error_equal_the_sae_by_hand(self):
        name = "topk"
        folder = self.workspace / "runs/tiny/sae" / name
        weights = load_file(folder / "sae_weights.safetensors")
        cfg = json.loads((folder / "cfg.json").read_text())
        point = cfg["metadata"]["hook_name"]
        common = ["runs/tiny", *self.TEXT, "--sae", name]
        every = self.ablate(*common, "--at", "latents,sae_error")
        ids = [token["id"] for token in every["tokens"]]
        x = self.twin.activations(ids)[point]
        pre = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
        top = pre.topk(cfg["k"], dim=-1)
        acts = torch.zeros_like(pre).scatter_(-1, top.indices, top.values.relu())
        recon = acts @ weights["W_dec"] + weights["b_dec"]
        kept = [token["position"] for token in every["tokens"] if not token["left_out"]]
        fires = sorted({int(latent) for row in kept for latent in acts[row].nonzero()[:, 0]})
        self.assertEqual([c for c in every["components"] if "latent" in c],
                         [f"{name} latent {latent}" for latent in fires])
        reference = self.twin.log_p(ids)
        answer, against = self.token("t"), self.token("o")
        spliced = self.twin.log_p(ids, point, only_at(kept, recon))
        self.expect_figures(every["unchanged"], self.cell(every, f"{name} error", "all"),
                            self.figures(spliced, reference, every, answer, against), "sae_error")
        for latent in fires[:3]:
            without = x - acts[:, latent:latent + 1] * weights["W_dec"][latent]
            edited = self.twin.log_p(ids, point, only_at(kept, without))
            self.expect_figures(every["unchanged"], self.cell(every, f"{name} latent {latent}", "all"),
                                self.figures(edited, reference, every, answer, against), latent)
        self.check_latent_paths(common, fires[0], ids, weights, point, pre)

    def check_latent_paths(self, common, latent, ids, weights, point, pre):
        found = self.ablate(*common, "--latent-paths", latent)
        x = self.twin.activations(ids)
        w = weights["W_enc"][:, latent]
        for place, token in enumerate(found["tokens"]):
            for component, written in zip(found["components"], token["contributions"], strict=True):
                self.assertAlmostEqual(written, float(x[component][place] @ w), delta=TOLERANCE)
            self.assertAlmostEqual(sum(token["contributions"]) + found["bias"], token["pre_activation"], delta=TOLERANCE)
            self.assertAlmostEqual(token["pre_activation"], float(pre[place, latent]), delta=TOLERANCE)
        unembedding = self.twin.model.lm_head.weight * self.twin.model.model.norm.weight
        effect = (unembedding @ weights["W_dec"][latent]).detach()
        effect = effect - effect.mean()
        for token in found["promoted"] + found["suppressed"]:
            self.assertAlmostEqual(token["effect"], float(effect[token["id"]]), delta=TOLERANCE)
        self.assertEqual(found["promoted"][0]["id"], int(effect.argmax()))
        self.assertEqual(found["suppressed"][0]["id"], int(effect.argmin()))

    def test_patching_equals_forward_hooks(self):
        prompts = ["--clean", "The old sailor", "--corrupted", "The old bell"]
        found = self.ablate("runs/tiny", *prompts, "--sae", "topk", "--at", "resid_post,attn_out",
                            "--answer", "t", "--against", "o")
        clean = self.ablate("runs/tiny", "--text", prompts[1], "--sae", "topk", "--at", "embed")
        ids, clean_ids = ([token["id"] for token in one["tokens"]] for one in (found, clean))
        self.assertEqual(len(ids), len(clean_ids))
        values, reference = self.twin.activations(clean_ids), self.twin.log_p(clean_ids)
        answer, against = self.token("t"), self.token("o")
        for component in ("blocks.1.hook_resid_post", "blocks.2.hook_attn_out"):
            for position in found["positions"]:
                rows = found["positions"][:-1] if position == "all" else [position]
                edited = self.twin.log_p(ids, component, only_at(rows, values[component]))
                self.expect_figures(found["unchanged"], self.cell(found, component, position),
                                    self.figures(edited, reference, found, answer, against), (component, position))

    def test_a_direct_path_is_read_by_the_receiver_alone(self):
        found = self.ablate("runs/tiny", *self.TEXT, "--sae", "topk", "--edges")
        plain = self.ablate("runs/tiny", *self.TEXT, "--sae", "topk", "--at", "embed")
        ids = [token["id"] for token in plain["tokens"]]
        kept = [token["position"] for token in plain["tokens"] if not token["left_out"]]
        x, reference = self.twin.activations(ids), self.twin.log_p(ids)
        effects = {(edge["sender"], edge["receiver"]): edge["effect"] for edge in found["edges"]}
        self.assertEqual(len(effects), 9 + sum(2 * (4 - i) + (2 * (3 - i) + 1) for i in range(4)))
        for sender, receiver in (("hook_embed", "blocks.2.attn"), ("blocks.0.hook_attn_out", "blocks.0.mlp"),
                                 ("blocks.1.hook_mlp_out", "blocks.3.mlp"), ("blocks.1.hook_mlp_out", "final")):
            removed = x[sender].clone()
            removed[[row for row in range(len(ids)) if row not in kept]] = 0
            edited = self.twin.log_p(ids, receiver, lambda stream: stream - removed)
            self.expect_figures(plain["unchanged"], effects[sender, receiver],
                                self.figures(edited, reference, plain, self.token("t"), self.token("o")),
                                (sender, receiver))

    def test_several_texts_and_draws(self):
        (self.workspace / "prompts.jsonl").write_text(
            '{"text": "The old sailor", "answer": "t"}\n\n{"text": "A quiet cook found"}\n')
        result = self.run_here("ablate", "runs/tiny", "--sae", "topk", "--file", "prompts.jsonl", "--method", "jitter",
                               "--fraction", 0.5, "--draws", 3, "--at", "attn_out", "--json", "--page", "page.html")
        self.assertEqual(result.returncode, 0, result.stderr)
        found = json.loads(result.stdout)
        self.assertEqual([len(text["components"]) for text in found["texts"]], [4, 4])
        self.assertGreater(found["texts"][0]["spread"]["kl"][0][-1], 0)
        at_once = [text["effects"]["kl"][2][-1] for text in found["texts"]]
        self.assertAlmostEqual(found["mean"][2]["effect"]["kl"], sum(at_once) / 2, places=9)
        page = (self.workspace / "page.html").read_text()
        self.assertIn("kl at attn_out", page)
        self.assertNotIn("style=", page)

    def test_what_is_wrong_is_said_once(self):
        here = ["ablate", "runs/tiny", "--sae", "topk"]
        for arguments, code, line in (
                ([], 64, "thresher ablate: no text"),
                (["--text", "a", "--file", "b"], 64, "thresher ablate: more than one kind of text"),
                (["--clean", "a"], 64, "thresher ablate: one prompt of a pair"),
                (["--text", "a", "--method", "patch"], 64,
                 "thresher ablate: --method patch without a pair of prompts"),
                (["--text", "a", "--against", "b"], 64, "thresher ablate: --against without --answer"),
                (["--text", "The old sailor", "--method", "zeros"], 78, "there is no method zeros"),
                (["--text", "The old sailor", "--at", "mlp"], 78, "there is no component mlp"),
                (["--text", "The old sailor", "--answer", "sailor watched"], 78,
                 '--answer "sailor watched" is 5 tokens: "s" "a" "il" "or" " watched"'),
                (["--text", "T"], 78, "the text has no position to change"),
                (["--text", "The old sailor watched the harbour. " * 20], 78, None),
                (["--clean", "The old sailor", "--corrupted", "The sailor"], 78, None),
                (["--file", "nothing.txt"], 74, None)):
            result = self.run_here(*here, *arguments)
            self.assertEqual(result.returncode, code, result.stderr)
            self.assertEqual(len(error_lines(result)), 1, result.stderr)
            self.assertEqual(result.stdout, "")
            if line:
                self.assertEqual(error_lines(result), [f"error: {line}"])
        self.assertIn('--clean has 4 tokens', self.run_here(
            *here, "--clean", "The old sailor", "--corrupted", "The tailor").stderr)


@unittest.skipUnless(SMOLLM2.exists(), "the set-up fetches SmolLM2")
class Smol(AblateCase):
    def test_zero_equals_a_forward_hook(self):
        twin = Twin(SMOLLM2)
        answer, against = (self.ablate(SMOLLM2, "--text", "is" + word, "--at", "embed")["tokens"][-1]["id"]
                           for word in (" Paris", " Rome"))
        found, *_ = self.check_zeros(
            twin, SMOLLM2, ["--text", "The capital of France is", "--answer", " Paris", "--against", " Rome"],
            ["blocks.3.hook_mlp_out", "blocks.14.hook_resid_post", "blocks.26.hook_attn_out"], answer, against)
        self.assertGreater(found["unchanged"]["probability"], 0.5)


if __name__ == "__main__":
    unittest.main()
