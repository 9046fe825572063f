"""What a sweep costs beside the runs it stands for: one run of all its SAEs, and one run of each, taking turns.

    build/venv/bin/python bench/sweep_cost.py EXPERIMENT.yaml [--turns 3] [--set KEY=VALUE ...]

EXPERIMENT.yaml has a sweep under `sae` and a cache that is complete (`thresher harvest EXPERIMENT.yaml`). Times are the
seconds in timing.jsonl: steps with the reading of batches, without start-up and export; bytes are those asked of the
cache. Prints JSON; `ratio` is the sweep's seconds over the sum of the solo runs' seconds (medians over the turns), and
`cache_bytes` of the sweep must be those of one solo run. Every solo run's SAE is compared byte by byte with the sweep's.
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
    """Trains in folder/name; its seconds and bytes."""
    experiment = {**experiment, "run": {**experiment["run"], "dir": str(folder), "name": name}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(experiment, sort_keys=False))
    subprocess.run([PROGRAM, "train", path, "--log-level", "error"], check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (folder / name / "timing.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "seconds" in line]
    return sum(line["seconds"] for line in steps), steps[-1]["cache_bytes"]


def main():
    experiment = resolved()
    saes = experiment["sae"]
    sweep_seconds, solo_seconds = [], {sae["name"]: [] for sae in saes}
    solo_bytes, same = {}, True
    for turn in range(options.turns):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            seconds, sweep_bytes = train(experiment, "sweep", folder)
            sweep_seconds.append(seconds)
            for sae in saes:
                name = sae["name"]
                seconds, solo_bytes[name] = train({**experiment, "sae": [sae]}, f"solo-{name}", folder)
                solo_seconds[name].append(seconds)
                for file in ("cfg.json", "sae_weights.safetensors"):
                    same &= ((folder / "sweep/sae" / name / file).read_bytes()
                             == (folder / f"solo-{name}/sae" / name / file).read_bytes())
    sweep = statistics.median(sweep_seconds)
    solos = {name: statistics.median(seconds) for name, seconds in solo_seconds.items()}
    print(json.dumps({"saes": len(saes), "turns": options.turns, "sweep_seconds": sweep, "solo_seconds": solos,
                      "sum_of_solo_seconds": sum(solos.values()), "ratio": sweep / sum(solos.values()),
                      "cache_bytes": {"sweep": sweep_bytes, "solo": sorted(set(solo_bytes.values()))},
                      "each_equals_its_solo_run": same}, indent=2))


if __name__ == "__main__":
    main()
