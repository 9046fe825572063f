"""Turns the logs of tools/gpu_check.sh into gpu_check.json and gpu_check.md; exits 1 unless all passed on a GPU."""

import json
import pathlib
import platform
import subprocess
import sys
import xml.etree.ElementTree as ElementTree


def output_of(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def read_tests(path):
    """Counts by outcome, and the names of what did not pass."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    not_passed = []
    if path.exists():
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            status = case.get("status")
            if status == "run" and case.find("failure") is None and case.find("skipped") is None:
                counts["passed"] += 1
                continue
            kind = "failed" if status == "fail" or case.find("failure") is not None else "skipped"
            counts[kind] += 1
            not_passed.append(f"{case.get('name').split('  #')[0]}: {kind}")
    return counts, not_passed


def main():
    out, commit = pathlib.Path(sys.argv[1]), sys.argv[2]
    counts, not_passed = read_tests(out / "tests.xml")
    sanitizer = dict(line.split() for line in (out / "sanitizer.txt").read_text().splitlines())
    gpus = output_of(["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"])
    nvcc = output_of(["nvcc", "--version"]).splitlines()
    passed = counts["passed"] > 0 and counts["failed"] == counts["skipped"] == 0
    passed = passed and all(verdict == "clean" for verdict in sanitizer.values())
    result = {
        "verdict": "passed" if passed else "not passed",
        "commit": commit,
        "host": platform.platform(),
        "gpus": gpus.splitlines(),
        "nvcc": nvcc[-2] if len(nvcc) > 1 else "",
        "tests": counts,
        "not_passed": not_passed,
        "compute_sanitizer": sanitizer or "not on this machine",
    }
    (out / "gpu_check.json").write_text(json.dumps(result, indent=2) + "\n")
    lines = [
        f"# GPU check: {result['verdict']}",
        "",
        f"- commit {commit}",
        f"- {result['host']}; {', '.join(result['gpus']) or 'no GPU'}; {result['nvcc']}",
        f"- tests labelled gpu: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped",
        "- compute-sanitizer: "
        + (", ".join(f"{tool} {verdict}" for tool, verdict in sanitizer.items()) or "not on this machine"),
    ]
    lines += [f"  - {name}" for name in not_passed if name.endswith("failed")]
    (out / "gpu_check.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
