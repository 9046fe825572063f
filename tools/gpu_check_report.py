"""Turns what tools/gpu_check.sh left in its folder into gpu_check.json and gpu_check.md; exits 1 unless all passed."""

import datetime
import json
import pathlib
import platform
import subprocess
import sys


def output_of(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def compare(ours, theirs):
    """Ratios that docs/performance.md speaks of; only of what both measured."""
    ratios = {}
    kernels = {name: time["median_ms"] for name, time in (ours or {}).get("kernels", {}).items()}
    torch = {name: time["median_ms"] for name, time in (theirs or {}).get("times", {}).items()}
    for name, a, b in [
        ("step / product", kernels.get("step"), torch.get("mm_bfloat16")),
        ("encode_topk / product", kernels.get("encode_topk"), torch.get("mm_bfloat16")),
        ("dense compiled step / step", torch.get("dense_step_compiled"), kernels.get("step")),
        ("mm and topk / encode_topk", torch.get("mm_and_topk_bfloat16"), kernels.get("encode_topk")),
    ]:
        if a and b:
            ratios[name] = round(a / b, 3)
    return ratios


def main():
    out, commit = pathlib.Path(sys.argv[1]), sys.argv[2]
    parts = [line.split(maxsplit=2) for line in (out / "parts.txt").read_text().splitlines()]
    gpus = output_of(["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"])
    nvcc = output_of(["nvcc", "--version"]).splitlines()
    verdicts = [verdict for _, verdict, *_ in parts]
    passed = bool(gpus) and "passed" in verdicts and "failed" not in verdicts
    result = {
        "verdict": "passed" if passed else "not passed",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "host": platform.platform(),
        "gpus": gpus.splitlines(),
        "nvcc": nvcc[-2] if len(nvcc) > 1 else "",
        "parts": {name: " ".join([verdict, *why]) for name, verdict, *why in parts},
        "bench": {},
    }
    for size in "ABCG":
        ours, theirs = read_json(out / f"bench-{size}.json"), read_json(out / f"torch-{size}.json")
        if ours or theirs:
            step = read_json(out / f"step-{size}.json")
            result["bench"][size] = {"kernels": ours, "step": step, "torch": theirs, "ratios": compare(ours, theirs)}
    (out / "gpu_check.json").write_text(json.dumps(result, indent=2) + "\n")
    lines = [
        f"# GPU check: {result['verdict']}",
        "",
        f"- {result['date']}, commit {commit}",
        f"- {result['host']}; {', '.join(result['gpus']) or 'no GPU'}; {result['nvcc']}",
        *(f"- {name}: {verdict}" for name, verdict in result["parts"].items()),
    ]
    for size, bench in result["bench"].items():
        lines += [f"- size {size}: {name} {ratio}" for name, ratio in bench["ratios"].items()]
    (out / "gpu_check.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
