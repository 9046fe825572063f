"""Every figure of the evaluation against brute force in NumPy: one full float64 run of a tiny host model a candidate,
all positions at once, every metric from its definition. The activations have a large mean, documents begin in the
middle of contexts, and some tokens are sinks there."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TOOL = Path(os.environ["THRESHER_BIN"]) / "evaluate_tool"
D, VOCABULARY, BLOCKS, CONTEXTS, WIDTH = 12, 60, 3, 90, 24
SINK, SPECIAL, DROP_FIRST, LIMIT = 7, 11, 2, 400.0
HOOK_POINTS = [
    "hook_embed", "blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_mid",
    "blocks.1.hook_resid_post", "blocks.2.hook_attn_out", "blocks.2.hook_resid_post", "ln_final.hook_normalized",
]


def make_setting(draw):
    weights = {
        "embedding": draw.normal(size=(VOCABULARY, D)) + 30 * np.eye(D)[3],
        "U": draw.normal(size=(D, VOCABULARY)) * 0.5,
    }
    weights["embedding"][SINK] = 300
    for block in range(BLOCKS):
        weights[f"A{block}"] = draw.normal(size=(D, D)) * 0.05
        weights[f"M{block}"] = draw.normal(size=(D, D)) * 0.2
    documents, positions = [], []
    document, left = -1, 0
    for place in range(CONTEXTS * WIDTH):
        is_new = left == 0
        if is_new:
            document, left = document + 1, int(draw.integers(1, 2 * WIDTH))
        left -= 1
        documents.append(document)
        positions.append(0 if is_new or place % WIDTH == 0 else positions[-1] + 1)
    contexts = {
        "token_ids": draw.integers(0, VOCABULARY, CONTEXTS * WIDTH),
        "positions": np.array(positions),
        "documents": np.array(documents),
    }
    return {k: v.astype(np.float32) for k, v in weights.items()}, {k: v.astype(np.int32) for k, v in contexts.items()}


def run(weights, contexts, patch=None):
    """All activations by hook point, and the logits. `patch` maps a hook point to a function of its activation."""
    seen = {}

    def visit(name, value):
        seen[name] = patch[name](value) if patch and name in patch else value
        return seen[name]

    w = {name: value.astype(np.float64) for name, value in weights.items()}
    documents = contexts["documents"]
    place = np.arange(CONTEXTS * WIDTH)
    sees = (place[:, None] >= place[None, :]) & (place[:, None] // WIDTH == place[None, :] // WIDTH)
    sees &= documents[:, None] == documents[None, :]
    average = sees / sees.sum(1, keepdims=True)
    resid = visit("hook_embed", w["embedding"][contexts["token_ids"]])
    for b in range(BLOCKS):
        resid = visit(f"blocks.{b}.hook_resid_pre", resid)
        resid = resid + visit(f"blocks.{b}.hook_attn_out", average @ resid @ w[f"A{b}"])
        resid = visit(f"blocks.{b}.hook_resid_mid", resid)
        resid = resid + visit(f"blocks.{b}.hook_mlp_out", np.tanh(resid @ w[f"M{b}"]))
        resid = visit(f"blocks.{b}.hook_resid_post", resid)
    final = visit("ln_final.hook_normalized", resid / np.sqrt((resid**2).mean(1, keepdims=True) + 1e-5))
    return seen, final @ w["U"]


def log_softmax(logits):
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def make_candidate(draw, name, hook_point, architecture, activations):
    k, n_latents = 4, 40
    entry = {"name": name, "hook_point": hook_point, "architecture": architecture, "n_latents": n_latents, "k": k}
    if architecture == "pca":
        directions = np.linalg.qr(draw.normal(size=(D, k)))[0]
        return entry, {"mean": activations.mean(0), "directions": directions}
    scale = np.abs(activations - activations.mean(0)).mean()
    tensors = {
        "W_enc": draw.normal(size=(D, n_latents)) / np.sqrt(D),
        "b_enc": draw.normal(size=n_latents) * 0.2 * scale,
        "W_dec": draw.normal(size=(n_latents, D)) / np.sqrt(D),
        "b_dec": activations.mean(0),
    }
    if architecture != "topk":
        tensors["b_enc"] -= activations.mean(0) @ tensors["W_enc"] + 0.5 * scale
    if architecture == "jumprelu":
        tensors["threshold"] = np.abs(draw.normal(size=n_latents)) * scale
    return entry, tensors


def apply_candidate(entry, tensors, x):
    t = {name: value.astype(np.float64) for name, value in tensors.items()}
    if entry["architecture"] == "pca":
        return (x - t["mean"]) @ t["directions"] @ t["directions"].T + t["mean"], None
    if entry["architecture"] == "standard":
        acts = np.maximum(x @ t["W_enc"] + t["b_enc"], 0)
    elif entry["architecture"] == "jumprelu":
        pre_acts = x @ t["W_enc"] + t["b_enc"]
        acts = np.where(pre_acts > t["threshold"], pre_acts, 0)
    else:
        pre_acts = (x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
        acts = np.zeros_like(pre_acts)
        chosen = np.argsort(-pre_acts, axis=1, kind="stable")[:, : entry["k"]]
        np.put_along_axis(acts, chosen, np.maximum(np.take_along_axis(pre_acts, chosen, 1), 0), 1)
    return acts @ t["W_dec"] + t["b_dec"], acts


def reconstruction_figures(x, recon, acts):
    error = ((x - recon) ** 2).sum(1)
    fvu = error.sum() / ((x - x.mean(0)) ** 2).sum()
    cosine = (x * recon).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(recon, axis=1))
    figures = {
        "fvu": fvu,
        "explained_variance": 1 - fvu,
        "mse": error.mean() / D,
        "cosine_similarity": cosine.mean(),
        "n_tokens": len(x),
    }
    if acts is not None:
        frequency = (acts > 0).mean(0)
        figures |= {
            "l0": (acts > 0).sum(1).mean(),
            "l1": acts.sum(1).mean(),
            "dead_fraction": (frequency == 0).mean(),
            "dense_fraction": (frequency > 0.1).mean(),
        }
    return figures


def write(folder, name, values, kind):
    np.ascontiguousarray(values, dtype=kind).tofile(folder / name)


class BruteForce:
    """The whole evaluation at once, on a host model and contexts drawn by `draw`."""

    def __init__(self, draw):
        self.draw = draw
        self.weights, self.contexts = make_setting(draw)
        self.clean, self.clean_logits = run(self.weights, self.contexts)
        ids, documents = self.contexts["token_ids"], self.contexts["documents"]
        late = self.contexts["positions"] >= DROP_FIRST
        self.kept = late & (ids != SPECIAL)
        for hook_point in HOOK_POINTS:
            self.kept &= np.linalg.norm(self.clean[hook_point], axis=1) <= LIMIT
        sinks = (ids == SINK) & late
        assert sinks.sum() > 10 and not (self.kept & sinks).any() and self.kept.sum() > 1000
        is_last = np.arange(CONTEXTS * WIDTH) % WIDTH == WIDTH - 1
        self.predicts = self.kept & ~is_last & (documents == np.roll(documents, -1))
        self.targets = np.roll(ids, -1)[self.predicts]
        self.means = {name: self.clean[name][self.kept].mean(0) + 0.1 for name in HOOK_POINTS}

    def cross_entropy(self, logits):
        return -np.take_along_axis(log_softmax(logits[self.predicts]), self.targets[:, None], 1).mean()

    def spliced(self, hook_point, replacement):
        def patch(value):
            value = value.copy()
            value[self.kept] = replacement
            return value

        return run(self.weights, self.contexts, {hook_point: patch})[1]

    def figures(self, entry, tensors):
        hook_point = entry["hook_point"]
        x = self.clean[hook_point][self.kept]
        recon, acts = apply_candidate(entry, tensors, x)
        logits = self.spliced(hook_point, recon)
        clean, spliced = self.cross_entropy(self.clean_logits), self.cross_entropy(logits)
        zero = self.cross_entropy(self.spliced(hook_point, 0.0))
        mean = self.cross_entropy(self.spliced(hook_point, self.means[hook_point]))
        p, q = log_softmax(self.clean_logits[self.predicts]), log_softmax(logits[self.predicts])
        return reconstruction_figures(x, recon, acts) | {
            "ce_clean": clean,
            "ce_spliced": spliced,
            "ce_zero_ablated": zero,
            "ce_mean_ablated": mean,
            "ce_recovered_zero": (zero - spliced) / (zero - clean),
            "ce_recovered_mean": (mean - spliced) / (mean - clean),
            "kl_divergence": (np.exp(p) * (p - q)).sum(1).mean(),
            "n_dropped": int((~self.kept).sum()),
        }

    def write_setting(self, folder, candidates):
        for file, value in self.weights.items():
            write(folder, file, value, np.float32)
        for file, value in self.contexts.items():
            write(folder, file, value, np.int32)
        for hook_point, value in self.means.items():
            write(folder, f"mean.{hook_point}", value, np.float64)
        setting = {
            "d_model": D, "n_vocabulary": VOCABULARY, "n_blocks": BLOCKS, "n_contexts": CONTEXTS,
            "context_tokens": WIDTH, "hook_points": HOOK_POINTS, "norm_limits": [LIMIT] * len(HOOK_POINTS),
            "drop_first_positions": DROP_FIRST, "special_id": SPECIAL, "candidates": candidates,
        }
        (folder / "setting.json").write_text(json.dumps(setting))


def evaluate_both(world, folder):
    """Our figures and those expected, by candidate; PCA is a baseline of topk-4."""
    labels = [(f"{kind}-{n}", n, kind) for kind in ("topk", "standard", "jumprelu") for n in range(len(HOOK_POINTS))]
    candidates, expected = [], {}
    for label, number, architecture in [*labels, ("pca", 4, "pca")]:
        x = world.clean[HOOK_POINTS[number]][world.kept]
        entry, tensors = make_candidate(world.draw, label, HOOK_POINTS[number], architecture, x)
        tensors = {key: value.astype(np.float32) for key, value in tensors.items()}
        for key, value in tensors.items():
            write(folder, f"{label}.{key}", value, np.float32)
        candidates.append(entry)
        expected[label] = world.figures(entry, tensors)
    world.write_setting(folder, candidates)
    done = subprocess.run([TOOL, folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"evaluate_tool failed: {done.stderr}")
    return json.loads(done.stdout), expected


def main():
    world = BruteForce(np.random.default_rng(1))
    with tempfile.TemporaryDirectory() as folder:
        found, expected = evaluate_both(world, Path(folder))
    failures = 0
    for name, value in (("n_tokens", world.kept.sum()), ("n_predictions", world.predicts.sum())):
        if found[name] != value:
            print(f"FAIL {name}: {found[name]}, brute force {value}")
            failures += 1
    worst = 0.0
    for label, figures in expected.items():
        ours = found["candidates"]["topk-4"]["baselines"]["pca"] if label == "pca" else found["candidates"][label]
        for metric, value in figures.items():
            difference = abs(ours[metric] - value) / max(abs(value), 1e-2)
            worst = max(worst, difference)
            if not difference <= 2e-5:
                print(f"FAIL {label}.{metric}: {ours[metric]}, brute force {value}")
                failures += 1
    print(f"{len(expected)} candidates, {world.kept.sum()} kept positions, worst relative difference {worst:.2e}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
