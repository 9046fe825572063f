"""sae-lens' own loader opens what Thresher writes, and NumPy computes the same metrics.

Runs write_saelens_case, then compares in sae-lens: reconstructions agree per token to a relative 1e-5. Tokens of a
topk SAE whose k-th and next pre-activation differ by less than 1e-5 may select otherwise, and so may those of a
jumprelu SAE with a pre-activation so close to its threshold; they are counted apart and must be at most 1 %.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from sae_lens import SAE
from sae_lens.evals import ExplainedVarianceCalculator

MAX_RELATIVE_ERROR = 1e-5
TIE = 1e-5
MAX_TIES = 0.01
ARCHITECTURES = {
    "topk": ("TopKSAE", "topk", True),
    "topk_annealed": ("TopKSAE", "topk", True),
    "relu_l1": ("StandardSAE", "standard", False),
    "relu_l1_bricken": ("StandardSAE", "standard", True),
    "jumprelu_gdm": ("JumpReLUSAE", "jumprelu", False),
    "jumprelu_target_l0": ("JumpReLUSAE", "jumprelu", False),
    "jumprelu_anthropic": ("JumpReLUSAE", "jumprelu", False),
    "jumprelu_norms": ("JumpReLUSAE", "jumprelu", False),
}

failures = []


def check(is_right, message):
    print(("ok    " if is_right else "WRONG ") + message)
    if not is_right:
        failures.append(message)


def compare_reconstructions(folder, name):
    class_name, architecture, apply_b_dec_to_input = ARCHITECTURES[name]
    sae = SAE.load_from_disk(folder / name)
    check(type(sae).__name__ == class_name, f"{name}: sae-lens makes a {type(sae).__name__}")
    check(sae.cfg.architecture() == architecture, f"{name}: architecture {sae.cfg.architecture()}")
    check(sae.cfg.apply_b_dec_to_input == apply_b_dec_to_input, f"{name}: apply_b_dec_to_input")
    check(sae.cfg.metadata.hook_name == "blocks.3.hook_resid_post", f"{name}: hook_name")
    check(sae.cfg.normalize_activations == "none", f"{name}: nothing left to normalise")

    data = load_file(folder / f"{name}.safetensors")
    x = torch.from_numpy(data["x"])
    with torch.no_grad():
        recon = sae(x).numpy()
        if name == "jumprelu_norms":
            norms = torch.linalg.norm(sae.W_dec, dim=1)
            check(bool((norms - 1).abs().max() > 0.4), f"{name}: the file's decoder rows are of all lengths")
            sae.fold_W_dec_norm()
        pre_acts = sae.process_sae_in(x) @ sae.W_enc + sae.b_enc
        acts = sae.encode(x).numpy()
    check(x.shape[0] == 1000, f"{name}: {x.shape[0]} vectors")
    error = np.linalg.norm(recon - data["recon"], axis=1) / np.linalg.norm(recon, axis=1)
    tied = np.zeros(len(error), dtype=bool)
    if architecture == "topk":
        top = torch.topk(pre_acts, sae.cfg.k + 1, dim=1).values
        tied = (top[:, -2] - top[:, -1] < TIE).numpy()
    if architecture == "jumprelu":
        tied = ((pre_acts - sae.threshold).abs() < TIE).any(1).numpy()
        silenced = ((pre_acts > 0) & (pre_acts <= sae.threshold)).sum().item()
        check(silenced > len(x), f"{name}: thresholds silence {silenced} positive pre-activations")
    check(tied.mean() <= MAX_TIES, f"{name}: {tied.sum()} tokens with a near tie")
    check(
        error[~tied].max() <= MAX_RELATIVE_ERROR,
        f"{name}: largest relative error of a reconstruction {error[~tied].max():.2e}",
    )
    scale = np.abs(acts).max()
    latent_error = np.abs(acts - data["latent_acts"])[~tied].max() / scale
    check(latent_error <= MAX_RELATIVE_ERROR, f"{name}: largest error of an activation {latent_error:.2e}")
    # A comparison that a constant output would pass proves nothing.
    variance = np.square(data["x"] - data["x"].mean(0)).sum()
    fvu = np.square(data["x"] - recon).sum() / variance
    check(fvu < 0.9, f"{name}: the SAE explains something, fvu {fvu:.3f}")
    norms = torch.linalg.norm(sae.W_dec, dim=1)
    check(bool((norms - 1).abs().max() < 1e-6), f"{name}: decoder rows of unit norm")


def compare_metrics(folder, name):
    data = load_file(folder / f"{name}.safetensors")
    ours = json.loads((folder / f"{name}.metrics.json").read_text())
    x, recon = data["x"].astype(np.float64), data["recon"].astype(np.float64)
    acts = data["latent_acts"].astype(np.float64)
    frequency = (acts > 0).mean(0)
    fvu = np.square(x - recon).sum() / np.square(x - x.mean(0)).sum()
    cosine = (x * recon).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(recon, axis=1))
    expected = {
        "fvu": fvu,
        "explained_variance": 1 - fvu,
        "mse": np.square(x - recon).mean(),
        "cosine_similarity": cosine.mean(),
        "l0": (acts > 0).sum(1).mean(),
        "l1": acts.sum(1).mean(),
        "dead_fraction": (frequency == 0).mean(),
        "dense_fraction": (frequency > 0.1).mean(),
        "n_tokens": len(x),
    }
    for key, value in expected.items():
        check(
            np.isclose(ours[key], value, rtol=1e-10, atol=1e-12),
            f"{name}: {key} {ours[key]!r}, NumPy {value!r}",
        )
    theirs = ExplainedVarianceCalculator()
    theirs.add_batch(torch.from_numpy(data["recon"]), torch.from_numpy(data["x"]))
    check(
        np.isclose(ours["explained_variance"], theirs.compute(), rtol=0, atol=1e-5),
        f"{name}: explained_variance of sae-lens {theirs.compute()!r}",
    )
    alive = frequency[frequency > 0]
    edges = np.arange(-6, 0.25, 0.5)
    counts, _ = np.histogram(np.log10(alive), bins=edges)
    check(ours["density_histogram"]["log10_edges"] == edges.tolist(), f"{name}: histogram edges")
    check(ours["density_histogram"]["counts"] == counts.tolist(), f"{name}: histogram {counts}")
    check(ours["density_histogram"]["silent"] == int((frequency == 0).sum()), f"{name}: silent")


def main():
    program = Path(os.environ["THRESHER_BIN"]) / "write_saelens_case"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subprocess.run([program, folder], check=True)
        for name in ARCHITECTURES:
            compare_reconstructions(folder, name)
            compare_metrics(folder, name)
    print(f"{len(failures)} wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
