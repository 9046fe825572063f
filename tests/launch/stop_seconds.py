"""Measures the seconds from a stop signal to the end of the job, and from a rank's death to the end of the job.

    THRESHER_SOURCE_DIR=$PWD THRESHER_BIN=$PWD/build/bin THRESHER_PYTHON=$PWD/build/venv/bin/python \\
        build/venv/bin/python tests/launch/stop_seconds.py --launcher mpirun --ranks 2 --state-mib 1024 --repeats 10

--launcher none, mpirun or srun (inside the environment that launch/ci/slurm-up.sh prints). Prints one JSON line. Every job
trains a TopK SAE whose weights and moments take --state-mib on random activations, is hit once it has made a step, and
must say so in status.json.
"""
import argparse
import random

import numpy

from launching import *

WIDTH = 512


def command(options, folder):
    latents = max(64, options.state_mib * 2**20 // (2 * WIDTH * 4 * 3))
    program = [PROGRAM, "train", folder / "experiment.yaml"]
    (folder / "experiment.yaml").write_text(f"""schema: 1
run: {{name: stop}}
activations: {{paths: [rows.npy]}}
cache: {{dir: cache}}
sae: {{type: topk, k: 32, n_latents: {latents}}}
train: {{total_tokens: 100M, batch_tokens: 256, log_every_steps: 1}}
""")
    if options.launcher == "mpirun":
        return ["mpirun", "-n", str(options.ranks), "--oversubscribe", "--bind-to", "none", *program]
    if options.launcher == "srun":
        return ["srun", "--mpi=pmix", "--wait=5", "--nodes=2", f"--ntasks={options.ranks}", *program]
    return program


def one(options, folder, words):
    """Seconds from the signal to the end, and the exit code."""
    shutil.rmtree(folder / "runs", ignore_errors=True)
    process = subprocess.Popen([str(word) for word in words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    metrics = folder / "runs/stop/metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0 or process.poll() is not None, 300, "the first step")
    time.sleep(random.uniform(0, 1))
    begin = time.monotonic()
    if options.signal == "KILL":
        os.kill(random.choice(sorted(processes_in(folder))), signal.SIGKILL)
    else:
        process.send_signal(getattr(signal, f"SIG{options.signal}"))
    errors = process.communicate(timeout=300)[1].decode()
    seconds = time.monotonic() - begin
    status = json.loads((folder / "runs/stop/status.json").read_text())
    if options.signal != "KILL" and (status["state"], status["exit_code"]) != ("stopped", 75):
        raise AssertionError(f"{status}\n{errors}")
    return seconds, process.returncode, status


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--launcher", choices=["none", "mpirun", "srun"], default="none")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--signal", choices=["USR1", "TERM", "INT", "KILL"], default="USR1", help="KILL hits one rank")
    parser.add_argument("--state-mib", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="thresher-stop-")).resolve()
    try:
        numpy.save(folder / "rows.npy", numpy.random.default_rng(1).standard_normal((4096, WIDTH), dtype=numpy.float32))
        words = command(options, folder)
        subprocess.run([PROGRAM, "harvest", folder / "experiment.yaml"], cwd=folder, check=True, capture_output=True)
        found = [one(options, folder, words) for _ in range(options.repeats)]
    finally:
        shutil.rmtree(folder)
    seconds = sorted(round(row[0], 2) for row in found)
    print(json.dumps({"launcher": options.launcher, "ranks": options.ranks, "signal": options.signal,
                      "state_mib": options.state_mib, "median": seconds[len(seconds) // 2],
                      "p95": seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))], "all": seconds,
                      "exit_codes": sorted({row[1] for row in found}),
                      "status": sorted({f'{row[2]["state"]} {row[2].get("exit_code", "")}'.strip() for row in found})}))


if __name__ == "__main__":
    main()
