"""SIGKILL at random moments of harvest and training, at changing rank counts: the bytes of a run never killed."""
import argparse
import random

from harness import *


def run_until_done(arguments, rng, longest_seconds, rank_counts, most_kills):
    """Starts, kills after a random time, starts again with another rank count, until a run ends by itself; after
    most_kills it is left alone."""
    kills = 0
    while True:
        ranks = rng.choice(rank_counts)
        command = [str(PROGRAM), "run", *arguments]
        if ranks > 1:
            command = ["mpirun", "-n", str(ranks), *command]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        try:
            _, errors = process.communicate(timeout=rng.uniform(0.05, longest_seconds) if kills < most_kills else 600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            wait_for_orphans(arguments)
            kills += 1
            continue
        if process.returncode != 0:
            raise AssertionError(f"a restarted run failed with {process.returncode}:\n{errors.decode()[-3000:]}")
        return kills


def wait_for_orphans(arguments):
    """mpirun's ranks are killed with the session, but take a moment to be gone."""
    marker = arguments[2]
    for _ in range(100):
        alive = subprocess.run(["pgrep", "-f", marker], capture_output=True, text=True).stdout.split()
        alive = [p for p in alive if int(p) != os.getpid() and not is_zombie(p)]
        if not alive:
            return
        for p in alive:
            try:
                os.kill(int(p), signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)
    raise AssertionError(f"processes {alive} survived SIGKILL")


def is_zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class KillTest(unittest.TestCase):
    rounds = 2
    most_kills = 6

    def test_killed_runs_end_with_the_same_bytes(self):
        workspace = make_workspace("kill")
        try:
            begin = time.monotonic()
            thresher("run", *experiment(workspace, "whole"))
            seconds = time.monotonic() - begin
            reference = promised(workspace / "whole")
            self.assertGreater(len(reference), 8)
            total = 0
            for i in range(self.rounds):
                place = f"killed{i}"
                total += run_until_done(experiment(workspace, place), random.Random(1000 + i), seconds * 0.8, [1, 1, 2],
                                        self.most_kills)
                self.assertEqual(promised(workspace / place), reference, f"round {i}")
                shutil.rmtree(workspace / place)
            self.assertGreater(total, 0, "no run was killed: the test proves nothing")
            print(f"{total} kills in {self.rounds} rounds", file=sys.stderr)
        finally:
            shutil.rmtree(workspace)

    def test_usr1_saves_exits_75_and_continues_to_the_same_bytes(self):
        workspace = make_workspace("usr1")
        try:
            thresher("run", *experiment(workspace, "whole"))
            for ranks in (1, 2):
                place = f"stopped{ranks}"
                arguments = experiment(workspace, place)
                command = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
                process = subprocess.Popen([*command, str(PROGRAM), "run", *arguments], stdout=subprocess.DEVNULL,
                                           stderr=subprocess.PIPE)
                metrics = workspace / place / "runs"
                deadline = time.monotonic() + 60
                while not any(p.stat().st_size > 0 for p in metrics.glob("*/metrics.jsonl")) and time.monotonic() < deadline:
                    time.sleep(0.01)
                process.send_signal(signal.SIGUSR1)
                _, errors = process.communicate(timeout=60)
                self.assertEqual(process.returncode, 75, errors.decode()[-3000:])
                thresher("run", *arguments)
                self.assertEqual(promised(workspace / place), promised(workspace / "whole"))
        finally:
            shutil.rmtree(workspace)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kills", type=int, default=6, help="at most so many a round")
    options, rest = parser.parse_known_args()
    KillTest.rounds, KillTest.most_kills = options.rounds, options.kills
    unittest.main(argv=[sys.argv[0], *rest])
