"""Does training recover features that are known?

The program trains a TopK and a ReLU + L1 SAE on a synthetic world (recovery.yaml). Every true direction is matched with
one latent so that the sum of cosines is largest (Hungarian). Gated, as the project's figure "mean correlation": the mean
cosine between true directions and their matched decoder rows is at least 0.90, and at least 85 % of the features are above
0.9. Reported beside it: the correlation, over held-out rows, between the true activation of a feature and its matched
latent's (TopK always fires k latents while the number of active features varies, so this one has a ceiling below 1); a
random dictionary; raw data rows as a dictionary (they fool the maximum cosine and not the matching); and the same SAEs
trained by a dense PyTorch twin, written here, on the same rows in the same order.

usage: recovery.py [--world zipf] [--seed N] [--no-twin]
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.numpy import load_file
from scipy.optimize import linear_sum_assignment

HERE = Path(os.environ["THRESHER_SOURCE_DIR"]) / "tests/trainer"
TOOL = Path(os.environ["THRESHER_BIN"]) / "synthetic_recovery"
HELD_OUT = 50_000


def tool_output(*arguments):
    return subprocess.run([TOOL, *map(str, arguments)], check=True, stdout=subprocess.PIPE).stdout


class World:
    def __init__(self, experiment, path):
        self.d_in = experiment["world"]["d_in"]
        self.n_features = experiment["world"]["n_features"]
        self.path = path
        self.directions = np.frombuffer(tool_output("directions", path), np.float32).reshape(-1, self.d_in)
        data = np.frombuffer(tool_output("held-out", path, HELD_OUT), np.float32)
        self.rows = data[: HELD_OUT * self.d_in].reshape(HELD_OUT, self.d_in)
        self.truth = data[HELD_OUT * self.d_in :].reshape(HELD_OUT, self.n_features)


def unit_rows(matrix):
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)


def measure(world, decoder, activations=None):
    """decoder [n_latents, d_in]; activations of the held-out rows [N, n_latents]."""
    cosines = world.directions @ unit_rows(decoder).T
    features, latents = linear_sum_assignment(-cosines)
    matched = cosines[features, latents]
    figures = {
        "mean matched cosine": matched.mean(),
        "share above 0.9": (matched > 0.9).mean(),
        "mean of largest cosines": cosines.max(axis=0).mean(),
    }
    if activations is not None:
        correlations = []
        for feature, latent in zip(features, latents):
            a, b = world.truth[:, feature], activations[:, latent]
            correlations.append(0.0 if b.std() == 0 or a.std() == 0 else np.corrcoef(a, b)[0, 1])
        figures["activation correlation"] = np.mean(correlations)
        figures["l0"] = (activations > 0).sum(axis=1).mean()
        figures["silent latents"] = int((~(activations > 0).any(axis=0)).sum())
    return figures


def exported_activations(world, weights, sae):
    """As the exported file says, in NumPy."""
    if sae["type"] == "topk":
        pre = (world.rows - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
        keep = np.argpartition(-pre, sae["k"] - 1, axis=1)[:, : sae["k"]]
        out = np.zeros_like(pre)
        np.put_along_axis(out, keep, np.maximum(np.take_along_axis(pre, keep, 1), 0), 1)
        return out
    return np.maximum(world.rows @ weights["W_enc"] + weights["b_enc"], 0)


def fvu(world, reconstruction):
    error = ((world.rows - reconstruction) ** 2).sum(dtype=np.float64)
    return error / ((world.rows - world.rows.mean(0)) ** 2).sum(dtype=np.float64)


class Twin:
    """One SAE in dense PyTorch with autograd and torch.optim.Adam; shares nothing with the program but the recipe."""

    def __init__(self, sae, train, d_in, statistics, sample, seed=0):
        self.sae, self.train = sae, train
        self.mean, self.scale = statistics
        generator = torch.Generator().manual_seed(seed)
        n_latents = sae["n_latents"]
        decoder = torch.randn(n_latents, d_in, generator=generator)
        decoder /= decoder.norm(dim=1, keepdim=True)
        self.is_topk = sae["type"] == "topk"
        if not self.is_topk:
            decoder *= 0.1
        b_dec = torch.zeros(d_in)
        if self.is_topk:
            sample = (sample - self.mean) * self.scale
            b_dec = sample.mean(0)
            for _ in range(100):
                weight = 1 / (sample - b_dec).norm(dim=1).clamp_min(1e-6)
                b_dec = (sample * weight[:, None]).sum(0) / weight.sum()
        self.W_dec, self.b_dec = decoder.requires_grad_(True), b_dec.requires_grad_(True)
        encoder = decoder.detach().T.contiguous().clone()
        if self.is_topk:  # tied, then scaled so that reconstructions have the norms of their inputs
            centred = sample - b_dec.detach()
            values, indices = (centred @ encoder).topk(sae["k"], dim=1)
            acts = torch.zeros(len(sample), n_latents).scatter(1, indices, values.relu())
            encoder *= centred.norm(dim=1).sum() / (acts @ decoder.detach()).norm(dim=1).sum()
        self.W_enc = encoder.requires_grad_(True)
        self.b_enc = torch.zeros(n_latents).requires_grad_(True)
        self.parameters = [self.W_enc, self.b_enc, self.W_dec, self.b_dec]
        self.optimiser = torch.optim.Adam(self.parameters, lr=train["learning_rate"], betas=(0.9, 0.999), eps=1e-8)
        self.silent_for = torch.zeros(n_latents)

    def latents(self, x):
        if not self.is_topk:
            return torch.relu(x @ self.W_enc + self.b_enc), None
        pre = (x - self.b_dec) @ self.W_enc + self.b_enc
        values, indices = pre.topk(self.sae["k"], dim=1)
        return torch.zeros_like(pre).scatter(1, indices, values.relu()), pre

    def loss(self, x, tokens_before):
        acts, pre = self.latents(x)
        error = x - (acts @ self.W_dec + self.b_dec)
        if not self.is_topk:
            ramp = min(1.0, tokens_before / (0.05 * self.train["total_tokens"]))
            penalty = (acts * self.W_dec.norm(dim=1)).sum()
            return (error.pow(2).sum() + self.sae["l1_coefficient"] * ramp * penalty) / len(x), acts
        loss = error.pow(2).sum() / (x - x.mean(0)).pow(2).sum()
        dead = self.silent_for >= self.sae["dead_window_tokens"]
        n_dead = int(dead.sum())
        if n_dead:
            k = min(self.sae["aux_k"], n_dead)
            values, indices = pre.masked_fill(~dead, -math.inf).topk(k, dim=1)
            target = error.detach()
            aux = torch.zeros_like(pre).scatter(1, indices, values.relu()) @ self.W_dec - target
            weight = min(1.0, n_dead / self.sae["aux_k"]) / 32
            loss = loss + weight * aux.pow(2).sum() / (target - target.mean(0)).pow(2).sum()
        return loss, acts

    def step(self, rows, tokens_before):
        total, warmup, decay = (self.train[key] for key in ("total_tokens", "warmup_tokens", "decay_tokens"))
        total -= total % self.train["batch_tokens"]
        factor = min(1.0, tokens_before / warmup, (total - tokens_before) / decay)
        self.optimiser.param_groups[0]["lr"] = self.train["learning_rate"] * factor
        x = (rows - self.mean) * self.scale
        loss, acts = self.loss(x, tokens_before)
        self.optimiser.zero_grad()
        loss.backward()
        with torch.no_grad():
            self.silent_for += len(x)
            self.silent_for[(acts > 0).any(0)] = 0
            if self.is_topk:
                unit = self.W_dec / self.W_dec.norm(dim=1, keepdim=True)
                self.W_dec.grad -= (self.W_dec.grad * unit).sum(1, keepdim=True) * unit
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        if self.is_topk:
            with torch.no_grad():
                self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)

    def held_out(self, rows):
        with torch.no_grad():
            x = (torch.from_numpy(rows.copy()) - self.mean) * self.scale
            acts, _ = self.latents(x)
            reconstruction = (acts @ self.W_dec + self.b_dec) / self.scale + self.mean
        return acts.numpy(), reconstruction.numpy()


def train_twins(experiment, world):
    train = experiment["train"]
    rows = torch.from_numpy(world.rows.copy())
    mean = rows.mean(0)
    statistics = mean, math.sqrt(world.d_in / (rows - mean).pow(2).sum(1).mean().item())
    twins = [Twin(sae, train, world.d_in, statistics, rows[:8192]) for sae in experiment["sae"]]
    batch = train["batch_tokens"]
    n_steps = train["total_tokens"] // batch
    command = [str(TOOL), "rows", str(world.path), str(n_steps * batch)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=1 << 20) as source:
        for step in range(n_steps):
            data = bytearray(source.stdout.read(batch * world.d_in * 4))
            x = torch.frombuffer(data, dtype=torch.float32).reshape(batch, world.d_in)
            for twin in twins:
                twin.step(x, step * batch)
    return twins


def show(name, figures):
    print(f"{name:28s}", "  ".join(f"{key} {value:.3f}" for key, value in figures.items()), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--world", choices=["uniform", "zipf"], default="uniform")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--no-twin", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    experiment = yaml.safe_load((HERE / "recovery.yaml").read_text())
    if arguments.world == "zipf":
        experiment["world"]["zipf_exponent"] = 1.0
    if arguments.seed is not None:
        experiment["world"]["seed"] = arguments.seed
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experiment.yaml"
        path.write_text(yaml.safe_dump(experiment))
        world = World(experiment, path)

        generator = np.random.default_rng(0)
        n_latents = experiment["sae"][0]["n_latents"]
        show("random dictionary", measure(world, generator.normal(size=(n_latents, world.d_in))))
        show("raw data rows", measure(world, world.rows[:n_latents] - world.rows.mean(0)))

        begin = time.time()
        subprocess.run([TOOL, "train", path, Path(folder) / "run"], check=True)
        print(f"trained in {time.time() - begin:.1f} s")
        for sae in experiment["sae"]:
            weights = load_file(Path(folder) / "run/sae" / sae["name"] / "sae_weights.safetensors")
            acts = exported_activations(world, weights, sae)
            figures = measure(world, weights["W_dec"], acts)
            figures["fvu"] = fvu(world, acts @ weights["W_dec"] + weights["b_dec"])
            show(sae["name"], figures)
            if figures["mean matched cosine"] < 0.90:
                failures.append(f"{sae['name']}: mean matched cosine {figures['mean matched cosine']:.3f} < 0.90")
            if figures["share above 0.9"] < 0.85:
                failures.append(f"{sae['name']}: {figures['share above 0.9']:.3f} of the features above 0.9 < 0.85")

        if not arguments.no_twin:
            begin = time.time()
            twins = train_twins(experiment, world)
            print(f"twins trained in {time.time() - begin:.1f} s")
            for twin in twins:
                acts, reconstruction = twin.held_out(world.rows)
                figures = measure(world, twin.W_dec.detach().numpy(), acts)
                figures["fvu"] = fvu(world, reconstruction)
                show(f"PyTorch twin, {twin.sae['name']}", figures)

    if arguments.world == "zipf":
        return 0  # rare features are not seen often enough to be gated
    for failure in failures:
        print("FAILED:", failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
