#!/usr/bin/env python3
"""What a checkpoint costs the training that goes on beside it, and what a resume costs at any step.

    bench/checkpoint_cost.py configs/smollm2-topk.yaml --latents 24576 --out bench/results/checkpoint-cost-DATE.json

Needs the experiment's cache. Trains the same steps without checkpoints on the way, with some written in the background
and with the same written while training waits, several times in turn; the figures are medians. The share is that of
the default interval, 10 minutes. Times of processes (CPU seconds) do not depend on what else the machine does; elapsed
times do. Then kills runs right after their first step (crash point train.step) to measure the way there from an early
and from a late checkpoint.
"""
import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INTERVAL_SECONDS = 600


def train(options, run_dir, settings, failpoint=None):
    command = [str(ROOT / options.program), "train", options.experiment, "--set", f"run.dir={run_dir.parent}", "--set",
               f"run.name={run_dir.name}", "--set", f"sae.0.n_latents={options.latents}", "--set",
               f"train.total_tokens={options.steps * options.batch}", "--set", f"train.batch_tokens={options.batch}",
               "--set", "train.warmup_tokens=0", "--set", "train.decay_tokens=0", "--set",
               "train.checkpoint_every_minutes=0", "--set", f"sae.0.dead_window_tokens={options.batch}"]
    for setting in settings:
        command += ["--set", setting]
    environment = dict(os.environ, **({"THRESHER_FAILPOINT": failpoint} if failpoint else {}))
    begin = time.monotonic()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    seconds = time.monotonic() - begin
    if result.returncode != (-9 if failpoint else 0):
        raise SystemExit(f"{' '.join(command)}\n{result.stderr[-2000:]}")
    return seconds


def training_seconds(run_dir):
    lines = [json.loads(line) for line in (run_dir / "timing.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "seconds" in line]
    return sum(line["seconds"] for line in steps), sum(line["cpu_seconds"] for line in steps)


def checkpoint_bytes(run_dir):
    newest = sorted((run_dir / "ckpt").glob("step-*"))[-1]
    return sum(path.stat().st_size for path in newest.iterdir())


def measure_cost(options, folder):
    every = options.steps // (options.saves + 1) * options.batch
    kinds = {"none": ["train.checkpoint_every_tokens=0"],
             "background": [f"train.checkpoint_every_tokens={every}"],
             "waiting": [f"train.checkpoint_every_tokens={every}", "train.background_checkpoints=false"]}
    found = {kind: [] for kind in kinds}
    for repeat in range(options.repeats):
        for kind, settings in kinds.items():
            run_dir = folder / f"{kind}-{repeat}"
            train(options, run_dir, settings)
            found[kind].append(training_seconds(run_dir))
            size = checkpoint_bytes(run_dir)
            shutil.rmtree(run_dir)
    elapsed = {kind: statistics.median(a for a, _ in runs) for kind, runs in found.items()}
    cpu = {kind: statistics.median(c for _, c in runs) for kind, runs in found.items()}
    cost = {kind: {"elapsed_seconds_a_checkpoint": (elapsed[kind] - elapsed["none"]) / options.saves,
                   "cpu_seconds_a_checkpoint": (cpu[kind] - cpu["none"]) / options.saves,
                   "share_of_time_at_the_default_interval":
                       (elapsed[kind] - elapsed["none"]) / options.saves / INTERVAL_SECONDS}
            for kind in ("background", "waiting")}
    return {"checkpoint_bytes": size, "saves": options.saves, "steps": options.steps,
            "seconds_without": elapsed["none"], **cost}


def measure_resume(options, folder):
    """Seconds from the start of the process to the end of its first step."""
    found = {}
    for name, step in (("early", 2), ("late", options.steps - 2)):
        run_dir = folder / name
        settings = [f"train.checkpoint_every_tokens={step * options.batch}", "train.background_checkpoints=false"]
        train(options, run_dir, settings, f"train.step:{step + 1}")
        times = []
        for _ in range(options.repeats):
            copy = folder / "resumed"
            shutil.copytree(run_dir, copy)
            times.append(train(options, copy, settings, "train.step:1"))
            shutil.rmtree(copy)
        found[name] = {"step": step, "seconds_to_first_step": statistics.median(times)}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--program", default="build/bin/thresher")
    parser.add_argument("--latents", type=int, default=24576)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=42)
    parser.add_argument("--saves", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="thresher-checkpoints-", dir=ROOT / "runs"))
    try:
        result = {"date": time.strftime("%Y-%m-%d"), "machine": platform.processor() or platform.machine(),
                  "cores": os.cpu_count(), "latents": options.latents, "batch_tokens": options.batch,
                  "cost": measure_cost(options, folder), "resume": measure_resume(options, folder)}
    finally:
        shutil.rmtree(folder)
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if options.out:
        Path(options.out).write_text(text)


if __name__ == "__main__":
    main()
