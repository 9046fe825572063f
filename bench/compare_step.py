"""The training step of Thresher beside those of the other SAE libraries: same sizes, same threads, same rows, turn by turn.

    python3 bench/compare_step.py --setup                        # once: two environments under build/, 12 GB
    python3 bench/compare_step.py --sizes A,B,C --out bench/results/compare-step-DATE.json

Thresher is timed by `thresher bench step`, which takes the very step of `thresher train`, the others by bench/peers/peer_step.py
from one request for a batch to the next in their own training loops with their defaults; each in a process of its own, one
after the other, so that all of them meet the same machine. Steps during which other processes used more than 0.15 cores
are left out; an entry with fewer than three steps left gets further turns. Tokens per second are those of the median step;
Thresher's is set against the fastest peer of its variant and against LibTorch's float32 product of the encoder alone. The
same with processor time in place of the wall's stands beside it (cpu): where others use the machine and no step is quiet,
take --threads 1 and that.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEER_STEP = ROOT / "bench/peers/peer_step.py"
ENVIRONMENTS = {"main": ["sae_lens", "sparsify", "sparsify_adam", "llamascopium", "plain", "plain_fused_adam"],
                "old": ["dictionary_learning", "overcomplete"]}
LIBRARIES = ["sae_lens", "dictionary_learning", "overcomplete", "llamascopium"]
PEERS = {"topk": ["sparsify", "sparsify_adam", *LIBRARIES, "plain", "plain_fused_adam"],
         "batch_topk": [*LIBRARIES, "plain", "plain_fused_adam"],
         "relu_l1": [*LIBRARIES, "plain", "plain_fused_adam"],
         "jumprelu": LIBRARIES}
SIZES = {"A": (512, 8192, 2048, 32), "B": (576, 9216, 4096, 64), "C": (768, 24576, 4096, 32)}  # d, n, batch, k
STEPS = {"A": 8, "B": 6, "C": 4}  # a turn
QUIET_CORES, ENOUGH_QUIET = 0.15, 3

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--setup", action="store_true", help="make the peers' environments under build/ and stop")
parser.add_argument("--python", default=sys.executable, help="for --setup: a Python 3.11 to make the environments with")
parser.add_argument("--sizes", default="A,B,C")
parser.add_argument("--variants", default=",".join(PEERS))
parser.add_argument("--peers", help="only these, separated by commas")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--turns", type=int, default=2)
parser.add_argument("--more-turns", type=int, default=2, help="at most, for entries with too few quiet steps")
parser.add_argument("--steps", type=int, help="a turn, after two warm ones (Thresher: twice as many); default by size")
parser.add_argument("--wait", type=float, default=60, help="seconds to wait for a quiet machine before each process")
parser.add_argument("--program", default=str(ROOT / "build/bin/thresher"))
parser.add_argument("--out", default=str(ROOT / "build/compare-step.json"))
options = parser.parse_args()

sys.path.insert(0, str(PEER_STEP.parent))
from step_clock import busy_seconds


def setup():
    for name in ENVIRONMENTS:
        folder = ROOT / f"build/peers-{name}"
        subprocess.run([options.python, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "-q", "--disable-pip-version-check", "-r",
                        PEER_STEP.parent / f"requirements-{name}.txt"], check=True)
        print(f"{folder} is ready")


def python_of(peer):
    name = next(name for name, peers in ENVIRONMENTS.items() if peer in peers)
    python = ROOT / f"build/peers-{name}/bin/python"
    if not python.exists():
        sys.exit(f"{python} is not there: run {sys.argv[0]} --setup first")
    return str(python)


def wait_for_quiet():
    end = time.monotonic() + options.wait
    while time.monotonic() < end:
        before, begin = busy_seconds(), time.monotonic()
        time.sleep(2)
        if (busy_seconds() - before) / (time.monotonic() - begin) < QUIET_CORES:
            return


class Entry:
    """One row of the table: a program's steps over all turns, each with the cores that others used meanwhile."""

    def __init__(self, peer, variant, name=None, arguments=()):
        self.peer, self.variant, self.name, self.arguments = peer, variant, name or peer, list(arguments)
        self.steps, self.products, self.facts, self.error = [], [], {}, None
        self.step_cpu, self.product_cpu = [], []

    def run(self, size, rows):
        wait_for_quiet()
        steps = options.steps or STEPS.get(size, 6)
        command = self.thresher(size, rows, 2 * steps) if self.peer == "thresher" else self.other(size, rows, steps)
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines()
            errors = [line for line in lines if line.startswith("error: ")]
            self.error = (errors or lines or [f"exit code {result.returncode}"])[-1 if not errors else 0]
            return
        (self.read_thresher if self.peer == "thresher" else self.read_other)(result.stdout)

    def thresher(self, size, rows, steps):
        d, n, batch, k = SIZES[size]
        k_argument = ["--k", k] if self.variant.endswith("topk") else []
        command = [options.program, "bench", "step", "--variant", self.variant, "--d", d, "--n", n, "--batch", batch,
                   "--threads", options.threads, "--steps", steps, "--rows", rows, "--json", *k_argument, *self.arguments]
        return [str(word) for word in command]

    def other(self, size, rows, steps):
        _, n, batch, k = SIZES[size]
        command = [python_of(self.peer), PEER_STEP, "--peer", self.peer, "--variant", self.variant, "--rows", rows, "--n", n,
                   "--batch", batch, "--k", k, "--threads", options.threads, "--steps", steps]
        return [str(word) for word in command]

    def read_thresher(self, text):
        figures = json.loads(text)
        if figures["threads"] != options.threads:
            sys.exit(f"Thresher would train with {figures['threads']} threads where {options.threads} were asked for")
        rounds = figures["rounds"]
        self.steps += zip(rounds["step_seconds"], rounds["other_cores"])
        self.products += zip(rounds["encoder_product_seconds"], rounds["other_cores"])
        self.step_cpu += rounds["step_cpu_seconds"]
        self.product_cpu += rounds["encoder_product_cpu_seconds"]
        self.facts = {"version": figures["versions"]["commit"], "l0": figures["l0"], "dead_latents": figures["dead_latents"],
                      "peak_rss_bytes": figures["memory"]["peak_rss_bytes"]}

    def read_other(self, text):
        figures = json.loads(text.strip().splitlines()[-1])
        self.steps += zip(figures["step_seconds"], figures["other_cores"])
        self.step_cpu += figures["step_cpu_seconds"]
        self.facts = {"version": figures["version"], "peak_rss_bytes": figures["peak_rss_bytes"]}

    def n_quiet(self):
        return sum(other < QUIET_CORES for _, other in self.steps)

    def summary(self, batch):
        out = {"name": self.name, "variant": self.variant, "peer": self.peer, "error": self.error, **self.facts}
        if not self.steps:
            return out
        step = kept(self.steps)
        out |= {"steps": len(self.steps), "quiet_steps": self.n_quiet(), "step_seconds_median": statistics.median(step),
                "step_seconds_min": min(step), "tokens_per_second": batch / statistics.median(step),
                "tokens_per_second_best": batch / min(step),
                "tokens_per_cpu_second": batch / statistics.median(self.step_cpu)}
        if self.products:
            product = kept(self.products)
            out |= {"encoder_product_seconds_median": statistics.median(product),
                    "encoder_product_seconds_min": min(product),
                    "step_over_product": statistics.median(step) / statistics.median(product),
                    "step_over_product_best": min(step) / min(product),
                    "step_over_product_cpu": statistics.median(self.step_cpu) / statistics.median(self.product_cpu)}
        return out


def kept(samples):
    """Seconds of the quiet steps; of all where none was."""
    return [s for s, other in samples if other < QUIET_CORES] or [s for s, _ in samples]


def entries_of(variant, size):
    _, n, _, k = SIZES[size]
    if variant.endswith("topk"):
        ours = [Entry("thresher", variant), Entry("thresher", variant, "thresher, 5 % dead", ["--dead-fraction", 0.05])]
    else:
        ours = [Entry("thresher", variant, f"thresher, l0 {k}", ["--l0", k])]
    if variant == "relu_l1":
        ours.append(Entry("thresher", variant, f"thresher, l0 {n // 4}", ["--l0", n // 4]))
    wanted = options.peers.split(",") if options.peers else PEERS[variant]
    return ours + [Entry(peer, variant) for peer in PEERS[variant] if peer in wanted]


def measure(size, variant, rows):
    entries = entries_of(variant, size)
    for turn in range(options.turns + options.more_turns):
        for entry in entries:
            if entry.error or (turn >= options.turns and entry.n_quiet() >= ENOUGH_QUIET):
                continue
            entry.run(size, rows)
            speed = entry.error or f"{SIZES[size][2] / statistics.median(kept(entry.steps)):.0f} tokens/s so far"
            print(f"{size} {variant} turn {turn + 1}: {entry.name}: {speed}", file=sys.stderr, flush=True)
    batch = SIZES[size][2]
    table = [entry.summary(batch) for entry in entries]
    measured = [row for row in table if "tokens_per_second" in row and row["peer"] != "thresher"]
    fastest = max(measured, key=lambda row: row["tokens_per_second"], default=None)
    for row in table:
        if fastest and row["peer"] == "thresher" and "tokens_per_second" in row:
            row["fastest_peer"] = fastest["name"]
            row["times_fastest_peer"] = row["tokens_per_second"] / fastest["tokens_per_second"]
            row["times_fastest_peer_best"] = row["tokens_per_second_best"] / max(
                peer["tokens_per_second_best"] for peer in measured)
            row["times_fastest_peer_cpu"] = row["tokens_per_cpu_second"] / max(
                peer["tokens_per_cpu_second"] for peer in measured)
    return table


def print_table(size, table):
    d, n, batch, k = SIZES[size]
    print(f"\nsize {size}: d {d}, n {n}, batch {batch}, k {k}; {options.threads} threads")
    print(f"{'variant':11} {'step of':22} {'tokens/s':>9} {'best':>9} {'/ cpu s':>9} "
          f"{'step ms':>9} {'quiet':>7} {'/ product':>9} {'(cpu)':>6} {'x fastest peer':>14} {'(cpu)':>6}")
    for row in table:
        if "tokens_per_second" not in row:
            print(f"{row['variant']:11} {row['name']:22} {row['error']}")
            continue
        ratios = [f"{row[key]:.2f}" if key in row else "" for key in
                  ("step_over_product", "step_over_product_cpu", "times_fastest_peer", "times_fastest_peer_cpu")]
        quiet = f"{row['quiet_steps']}/{row['steps']}"
        print(f"{row['variant']:11} {row['name']:22} {row['tokens_per_second']:9.0f} {row['tokens_per_second_best']:9.0f} "
              f"{row['tokens_per_cpu_second']:9.0f} {1e3 * row['step_seconds_median']:9.1f} {quiet:>7} "
              f"{ratios[0]:>9} {ratios[1]:>6} {ratios[2]:>14} {ratios[3]:>6}")


def processor():
    names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main():
    sizes, variants = options.sizes.split(","), options.variants.split(",")
    for given, known in ((sizes, SIZES), (variants, PEERS)):
        for name in given:
            if name not in known:
                sys.exit(f"{name}: not one of {', '.join(known)}")
    report = {"bench": "compare_step", "date": datetime.date.today().isoformat(), "processor": processor(),
              "cores": os.cpu_count(), "threads": options.threads, "turns": options.turns, "sizes": {}}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            d, _, batch, _ = SIZES[size]
            rows = f"{folder}/{size}.npy"
            subprocess.run([python_of("plain"), PEER_STEP, "--make-rows", rows, "--d", str(d), "--batch", str(batch)], check=True)
            table = []
            for variant in variants:
                table += measure(size, variant, rows)
                report["sizes"][size] = {"shape": dict(zip(("d", "n", "batch", "k"), SIZES[size])), "entries": table}
                Path(options.out).parent.mkdir(parents=True, exist_ok=True)
                Path(options.out).write_text(json.dumps(report, indent=1) + "\n")
            Path(rows).unlink()
            print_table(size, table)
    print(f"\n{options.out}")


setup() if options.setup else main()
