"""USR1 in the middle of a run: everything is saved, and the same command ends with the bytes of a run left alone."""
from harness import *


class StopTest(unittest.TestCase):
    def test_usr1_saves_exits_75_and_continues_to_the_same_bytes(self):
        workspace = make_workspace("usr1")
        try:
            thresher("run", *experiment(workspace, "whole"))
            for ranks in (1, 2):
                place = f"stopped{ranks}"
                arguments = experiment(workspace, place)
                command = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
                process = subprocess.Popen([*command, str(PROGRAM), "run", *arguments], stdout=subprocess.DEVNULL,
                                           stderr=subprocess.PIPE,
                                           env={**os.environ, "THRESHER_FAILPOINT": "train.step:1+=pause5"})
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
    unittest.main()
