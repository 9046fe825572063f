"""The training step of Thresher beside that of SAELens: same sizes, same threads, taking turns in one run.

    build/venv/bin/python bench/compare_saelens.py --d-in 576 --n-latents 2304 --batch-tokens 1024 --k 32

SAELens is timed from one request for a batch to the next inside its own SAETrainer, with its defaults; activations lie
in memory. Thresher is timed by `thresher bench step`, which runs the very step of `thresher train`. Machines are noisy: the
ratio of the medians of one run is what to quote.
"""
import argparse
import contextlib
import io
import json
import statistics
import subprocess
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--sae", choices=["topk", "relu_l1"], default="topk")
parser.add_argument("--d-in", type=int, default=576)
parser.add_argument("--n-latents", type=int, default=2304)
parser.add_argument("--batch-tokens", type=int, default=1024)
parser.add_argument("--k", type=int, default=32)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--steps", type=int, default=8, help="a turn")
parser.add_argument("--turns", type=int, default=3)
options = parser.parse_args()

import sae_lens
import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

PROGRAM = Path(__file__).resolve().parent.parent / "build/bin/thresher"
WARM_STEPS = 2


def sae_lens_steps():
    """Seconds of each step after the warm ones."""
    common = {"d_in": options.d_in, "d_sae": options.n_latents, "dtype": "float32", "device": "cpu"}
    if options.sae == "topk":
        sae = sae_lens.TopKTrainingSAE(sae_lens.TopKTrainingSAEConfig(k=options.k, **common))
    else:
        sae = sae_lens.StandardTrainingSAE(sae_lens.StandardTrainingSAEConfig(l1_coefficient=5.0, **common))
    n_steps = WARM_STEPS + options.steps
    config = SAETrainerConfig(total_training_samples=n_steps * options.batch_tokens, lr=1e-3, lr_end=1e-4,
                              train_batch_size_samples=options.batch_tokens, autocast=False,
                              logger=LoggingConfig(log_to_wandb=False))
    rows = torch.randn(options.batch_tokens, options.d_in, generator=torch.Generator().manual_seed(1))
    asked = []

    def batches():
        for _ in range(n_steps):
            asked.append(time.perf_counter())
            yield rows
        asked.append(time.perf_counter())

    provider = batches()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        SAETrainer(cfg=config, sae=sae, data_provider=provider).fit()
    next(provider, None)
    return [b - a for a, b in zip(asked, asked[1:])][WARM_STEPS:]


def thresher_step():
    """Median seconds of a step, and the encoder product's."""
    command = [PROGRAM, "bench", "step", "--variant", options.sae, "--d", options.d_in, "--n", options.n_latents,
               "--batch", options.batch_tokens, "--threads", options.threads, "--steps", options.steps, "--json"]
    if options.sae == "topk":
        command += ["--k", options.k]
    result = json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout)
    return result["step_seconds"]["median"], result["encoder_product_seconds"]["median"]


torch.set_num_threads(options.threads)
theirs, ours, products = [], [], []
for _ in range(options.turns):
    theirs += sae_lens_steps()
    step, product = thresher_step()
    ours.append(step)
    products.append(product)
ours, theirs, product = map(statistics.median, (ours, theirs, products))
print(json.dumps({"sizes": vars(options), "thresher_step_seconds": ours, "sae_lens_step_seconds": theirs,
                  "sae_lens_over_thresher": theirs / ours, "thresher_tokens_per_second": options.batch_tokens / ours,
                  "thresher_step_over_encoder_product": ours / product, "sae_lens_version": sae_lens.__version__,
                  "torch_version": torch.__version__}, indent=2))
