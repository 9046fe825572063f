"""Kills the real program again and again, at random moments and at every crash point of the checkpoint writer, and
compares what it ends with to a run that was never killed: the SHA-256 of every shard, SAE, checkpoint and metrics.jsonl,
and the (sequence, position) of every vector.

    soak.py --harvest-kills 320 --training-kills 110 --crash-points 3 --out bench/results/soak-2026-01-31.json
"""
import argparse
import json
import platform
import random
import sys
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import h5py

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "pipeline"))
from harness import *  # noqa: E402

RANKS = (1, 2, 4)
DRAWN_RANKS = (1, 1, 2, 2, 4)  # four ranks cost four times as much
HARVEST = ["--set", "cache.unit_tokens=1024", "--set", "run.threads=1"]
TRAIN = ["--set", "train.total_tokens=81920", "--set", "train.warmup_tokens=4096", "--set", "train.decay_tokens=16384", "--set",
         "train.checkpoint_every_tokens=10240", "--set", "sae.0.dead_window_tokens=20000"]
INTERVAL_STEPS = 10240 // 512
CRASH_POINTS = ["checkpoint.begun", "checkpoint.model_written", "checkpoint.optimiser_written", "checkpoint.state_written",
                "checkpoint.committed", "checkpoint.renamed", "checkpoint.removal_named", "atomic.created",
                "atomic.written", "atomic.synced", "atomic.renamed", "atomic.folder_synced", "train.metrics_synced",
                "train.step", "train.export"]
LONGEST_SECONDS = 120


def processes_of(pid):
    """pid and all below it that are alive, from /proc."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found, wave = [], [pid]
    while wave:
        found += [p for p in wave if p in parents]
        wave = [p for p, parent in parents.items() if parent in wave]
    return found


def is_rank(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "thresher"
    except (FileNotFoundError, ProcessLookupError):
        return False


def send_kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Job:
    """One start of the program on some ranks."""

    def __init__(self, arguments, ranks, env=None):
        command = [str(PROGRAM), *map(str, arguments)]
        if ranks > 1:
            command = ["mpirun", "-n", str(ranks), *command]
        self.begin = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, **(env or {})})

    def kill(self, which, rng):
        """SIGKILL to "one" rank or to "all" processes; returns the processes and how many of them are ranks."""
        everyone = processes_of(self.process.pid)
        ranks = [pid for pid in everyone if is_rank(pid)]
        if ranks:
            send_kill([rng.choice(ranks)] if which == "one" else everyone)
        return everyone, len(ranks)

    def wait(self, seconds):
        _, self.errors = self.process.communicate(timeout=seconds)
        self.seconds = time.monotonic() - self.begin
        return self.process.returncode


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids):
    deadline = time.monotonic() + 30
    while any(map(is_alive, pids)):
        if time.monotonic() > deadline:
            raise AssertionError(f"processes {pids} are still there 30 s after a rank was killed")
        time.sleep(0.02)


class Campaign:
    """Starts the same command until it has ended by itself, killing it before, over and over in fresh folders."""

    def __init__(self, name, workspace, rng, deadline):
        self.name, self.workspace, self.rng, self.deadline = name, workspace, rng, deadline
        self.kills_by_ranks, self.kills_by_kind, self.crash_points = Counter(), Counter(), Counter()
        self.folders = self.starts = self.files = self.files_different = 0
        self.usual_seconds = {}

    def arguments(self, place):
        raise NotImplementedError

    def patterns(self):
        raise NotImplementedError

    def after_kill(self, place):
        pass

    def after_end(self, place):
        pass

    def make_reference(self):
        for ranks in RANKS:
            place = f"{self.name}-whole-{ranks}"
            job = Job(self.arguments(place), ranks)
            if job.wait(LONGEST_SECONDS) != 0:
                raise AssertionError(job.errors)
            self.usual_seconds[ranks] = job.seconds
            if ranks == RANKS[0]:
                self.reference = digests(self.workspace / place, self.patterns())
                self.after_end(place)
            elif digests(self.workspace / place, self.patterns()) != self.reference:
                raise AssertionError(f"{ranks} ranks alone give other bytes")
            if ranks != RANKS[0]:
                shutil.rmtree(self.workspace / place)

    @property
    def kills(self):
        return sum(self.kills_by_ranks.values())

    def start_and_kill(self, place, failpoint=None):
        """One start; True when it ended by itself."""
        ranks = self.rng.choice(DRAWN_RANKS)
        env = {"THRESHER_FAILPOINT": failpoint} if failpoint else None
        job = Job(self.arguments(place), ranks, env)
        self.starts += 1
        pids = []
        try:
            seconds = self.rng.uniform(0.02, self.usual_seconds[ranks])
            code = job.wait(LONGEST_SECONDS if failpoint else seconds)
        except subprocess.TimeoutExpired:
            which = self.rng.choice(["one", "all"]) if ranks > 1 else "all"
            pids, n_ranks = job.kill(which, self.rng)
            code = job.wait(LONGEST_SECONDS)
            if n_ranks == 0 and code != 0:
                raise AssertionError(f"{self.name}: exit {code} before any rank was there:\n{job.errors[-3000:]}")
            if n_ranks > 0 and code != 0:
                self.kills_by_kind["one rank" if which == "one" else "all"] += 1
        wait_until_gone(pids)
        if code == 0:
            self.usual_seconds[ranks] = 0.7 * self.usual_seconds[ranks] + 0.3 * job.seconds
            return True
        if failpoint:
            # -9, mpirun's 137, or 70 of the rank that tells of the other one's end
            if code not in (-9, 137) and not (code == 70 and "ended without a word" in job.errors):
                raise AssertionError(f"{failpoint}: exit {code}:\n{job.errors[-3000:]}")
            self.crash_points[failpoint.split(":")[0]] += 1
        elif not pids:
            raise AssertionError(f"{self.name}: a restart failed with {code}:\n{job.errors[-3000:]}")
        self.kills_by_ranks[ranks] += 1
        self.after_kill(place)
        return False

    def compare(self, place):
        found = digests(self.workspace / place, self.patterns())
        self.files += len(self.reference)
        different = {name for name in found.keys() | self.reference.keys() if found.get(name) != self.reference.get(name)}
        self.files_different += len(different)
        if different:
            print(f"{place}: different: {sorted(different)}", file=sys.stderr)
        self.after_end(place)
        shutil.rmtree(self.workspace / place)

    def run(self, kills, failpoints=()):
        """Random kills until there were so many, then one kill at each of the crash points given."""
        failpoints = list(failpoints)
        while (self.kills < kills or failpoints) and time.monotonic() < self.deadline:
            place = f"{self.name}-{self.folders}"
            self.folders += 1
            is_done = False
            while not is_done:
                failpoint = failpoints.pop() if self.kills >= kills and failpoints else None
                is_done = self.start_and_kill(place, failpoint)
                if is_done and failpoint:  # passed by fewer times than that; the first time of a fresh start is certain
                    failpoints.append(failpoint.split(":")[0] + ":1")
            self.compare(place)

    def figures(self):
        return {"kills": self.kills, "kills_by_ranks": dict(sorted(self.kills_by_ranks.items())),
                "kills_by_kind": dict(self.kills_by_kind), "kills_at_crash_points": dict(self.crash_points),
                "folders": self.folders, "starts": self.starts, "files_compared": self.files,
                "files_different": self.files_different}


class HarvestCampaign(Campaign):
    def __init__(self, *arguments):
        super().__init__("harvest", *arguments)
        self.verified = self.lost = self.duplicated = self.vectors = 0
        self.ids = None

    def arguments(self, place):
        return ["harvest", *experiment(self.workspace, place), *HARVEST]

    def patterns(self):
        return CACHE_PATTERNS

    def after_kill(self, place):
        """Every tenth time, what is there after the kill is looked at before the restart."""
        cache = self.workspace / place / "cache"
        if self.kills % 10 == 0 and (cache / "cache.json").exists():
            thresher("cache", "verify", cache)
            self.verified += 1

    def after_end(self, place):
        ids = Counter()
        for shard in sorted((self.workspace / place / "cache/shards").glob("*.h5")):
            with h5py.File(shard, "r") as file:
                ids.update(zip(file["context"][:].tolist(), file["position"][:].tolist()))
        if self.ids is None:
            self.ids = ids
            return
        self.vectors += sum(self.ids.values())
        self.lost += sum((self.ids - ids).values())
        self.duplicated += sum((ids - self.ids).values())

    def figures(self):
        return {**super().figures(), "verified_after_a_kill": self.verified, "vectors_compared": self.vectors,
                "vectors_lost": self.lost, "vectors_duplicated": self.duplicated}


class TrainingCampaign(Campaign):
    def __init__(self, cache, *arguments):
        super().__init__("training", *arguments)
        self.cache, self.most_steps_lost = cache, 0

    def arguments(self, place):
        return ["train", *experiment(self.workspace, place), *HARVEST, *TRAIN, "--set", f"cache.dir={self.cache}"]

    def patterns(self):
        return RUN_PATTERNS

    def after_kill(self, place):
        """Steps that metrics.jsonl tells of and no checkpoint holds."""
        run = self.workspace / place / "runs/tiny"
        metrics = run / "metrics.jsonl"
        if not metrics.exists():
            return
        lines = metrics.read_bytes().splitlines(keepends=True)
        steps = [json.loads(line)["step"] for line in lines if line.endswith(b"\n")]
        saved = [int(folder.name[5:]) for folder in (run / "ckpt").glob("step-*")]
        self.most_steps_lost = max(self.most_steps_lost, max(steps, default=0) - max(saved, default=0))

    def figures(self):
        return {**super().figures(), "most_steps_lost": self.most_steps_lost, "checkpoint_interval_steps": INTERVAL_STEPS}


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    return {"processor": model, "cores": os.cpu_count(), "system": platform.platform()}


def verdict(result):
    """What is not as promised, as sentences."""
    wrong = []
    for name in ("harvest", "training"):
        for key in ("files_different", "vectors_lost", "vectors_duplicated"):
            if result.get(name, {}).get(key):
                wrong.append(f"{name}: {key} = {result[name][key]}")
    # A checkpoint is under way while the steps after it are taken.
    if result.get("training", {}).get("most_steps_lost", 0) > 2 * INTERVAL_STEPS:
        wrong.append(f"training: {result['training']['most_steps_lost']} steps were lost")
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--harvest-kills", type=int, default=12)
    parser.add_argument("--training-kills", type=int, default=6)
    parser.add_argument("--crash-points", type=int, default=0, help="kills at each crash point of the checkpoint writer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=240, help="no new folder is begun after so long")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    begin = time.monotonic()
    deadline = begin + 60 * options.minutes
    campaigns = []
    workspace = make_workspace("soak")
    try:
        if options.harvest_kills > 0:
            harvest = HarvestCampaign(workspace, rng, deadline)
            campaigns.append((harvest, options.harvest_kills))
            harvest.make_reference()
            harvest.run(options.harvest_kills)
        if options.training_kills > 0:
            thresher("harvest", *experiment(workspace, "trained"), *HARVEST)
            training = TrainingCampaign(workspace / "trained/cache", workspace, rng, deadline)
            campaigns.append((training, options.training_kills))
            training.make_reference()
            points = [f"{point}:{rng.randint(1, 6)}" for point in CRASH_POINTS for _ in range(options.crash_points)]
            rng.shuffle(points)
            training.run(options.training_kills, points)
    finally:  # what was seen before something went wrong is told, too
        shutil.rmtree(workspace)
        result = {"date": datetime.now(timezone.utc).date().isoformat(), "command": " ".join(sys.argv), "machine": machine(),
                  "seconds": round(time.monotonic() - begin)}
        result.update({campaign.name: campaign.figures() for campaign, _ in campaigns})
        text = json.dumps(result, indent=2)
        print(text)
        if options.out:
            options.out.write_text(text + "\n")
    wrong = verdict(result)
    wrong += [f"{campaign.name}: the time was up before every kill was made"
              for campaign, kills in campaigns if campaign.kills < kills]
    for line in wrong:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
