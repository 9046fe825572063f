"""What a sweep costs beside the runs it stands for: one run of all its SAEs, and one run of each, taking turns.

    build/venv/bin/python bench/sweep_cost.py EXPERIMENT.yaml [--turns 3] [--set KEY=VALUE ...]

EXPERIMENT.yaml has a sweep under `sae` and a cache that is complete (`thresher harvest EXPERIMENT.yaml`). Times are the
seconds in timing.jsonl: steps with the reading of batches, without start-up and export; bytes are those asked of the
cache. Prints JSON; `ratio` is the sweep's seconds over the sum of the solo runs' seconds (medians over the turns),
`cpu_ratio` the same of the processors' seconds, which a busy machine disturbs less (with run.threads=1: waiting threads spin),
and `cache_bytes` of the sweep must be those of one solo run. Every solo run's SAE is compared byte by byte with the sweep's.
"""
import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

import yaml

PROGRAM = Path(__file__).resolve().parent.parent / "build/bin/thresher"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("experiment")
parser.add_argument("--turns", type=int, default=3)
parser.add_argument("--set", action="append", default=[], dest="overrides")
options = parser.parse_args()


def resolved():
    command = [PROGRAM, "config", "show", options.experiment]
    for override in options.overrides:
        command += ["--set", override]
    return yaml.safe_load(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def train(experiment, name, folder):
    """Trains in folder/name; its seconds of steps and of processors, and its bytes."""
    experiment = {**experiment, "run": {**experiment["run"], "dir": str(folder), "name": name}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(experiment, sort_keys=False))
    subprocess.run([PROGRAM, "train", path, "--log-level", "error"], check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (folder / name / "timing.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "seconds" in line]
    return sum(line["seconds"] for line in steps), sum(line["cpu_seconds"] for line in steps), steps[-1]["cache_bytes"]


def main():
    experiment = resolved()
    saes = experiment["sae"]
    names = [sae["name"] for sae in saes]
    seconds = {name: [] for name in ["sweep", *names]}
    cpu = {name: [] for name in ["sweep", *names]}
    cache_bytes = {}
    same = True
    for _ in range(options.turns):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for name, part in [("sweep", saes), *((sae["name"], [sae]) for sae in saes)]:
                wall, processors, cache_bytes[name] = train({**experiment, "sae": part}, name, folder)
                seconds[name].append(wall)
                cpu[name].append(processors)
            for name in names:
                for file in ("cfg.json", "sae_weights.safetensors"):
                    same &= ((folder / "sweep/sae" / name / file).read_bytes()
                             == (folder / name / "sae" / name / file).read_bytes())

    def ratio(times):
        medians = {name: statistics.median(values) for name, values in times.items()}
        return medians["sweep"] / sum(medians[name] for name in names)

    print(json.dumps({"saes": len(saes), "turns": options.turns,
                      "seconds": {name: statistics.median(values) for name, values in seconds.items()},
                      "ratio": ratio(seconds), "cpu_ratio": ratio(cpu),
                      "cache_bytes": {"sweep": cache_bytes["sweep"],
                                      "solo": sorted({cache_bytes[name] for name in names})},
                      "each_equals_its_solo_run": same}, indent=2))


if __name__ == "__main__":
    main()
