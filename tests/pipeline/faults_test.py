"""Failing disks and damaged checkpoints with the real program: exit 74 (65) with one line, nothing lost, and the same
command ends with the bytes of a run that had no trouble."""
import errno
import random

from harness import *

EXPERIMENT = ["--set", "cache.unit_tokens=2048", "--set", "train.total_tokens=100k", "--set", "train.warmup_tokens=5k", "--set",
              "train.decay_tokens=20k", "--set", "train.checkpoint_every_tokens=20480", "--set",
              "sae.0.dead_window_tokens=20000"]
CHECKPOINT_FILES = ["COMMIT", "config.resolved.yaml", "model.safetensors", "optim.safetensors", "state.json"]


def error_lines(result):
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


class FaultsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = make_workspace("faults")
        thresher("harvest", *cls.arguments("whole"))
        thresher("train", *cls.arguments("whole"))
        cls.cache = digests(cls.workspace / "whole", CACHE_PATTERNS)
        cls.run_files = digests(cls.workspace / "whole", RUN_PATTERNS)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.workspace)

    @classmethod
    def arguments(cls, place, **settings):
        more = [word for key, value in settings.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
        return [*experiment(cls.workspace, place), *EXPERIMENT, *more]

    def training(self, place):
        return ["train", *self.arguments(place, cache__dir=self.workspace / "whole/cache")]

    def expect_74(self, result, words=""):
        self.assertEqual(result.returncode, 74, result.stderr)
        self.assertEqual(len(error_lines(result)), 1, result.stderr)
        self.assertIn(words, error_lines(result)[0])

    def expect_completes(self, command, place, expected, patterns):
        thresher(*command)
        self.assertEqual(digests(self.workspace / place, patterns), expected)
        shutil.rmtree(self.workspace / place)

    def test_a_failing_call_of_a_harvest_ends_it_with_one_line(self):
        command = ["harvest", *self.arguments("failing")]
        for ranks, fault in ((None, "file.write:50=EIO"), (None, "file.fsync:9=ENOSPC"), (None, "file.create:2=EACCES"),
                             (None, "file.*:130+=ENOSPC"), (2, "file.rename:3=EIO"), (2, "file.*:60+=EIO")):
            with self.subTest(fault=fault, ranks=ranks):
                result = thresher(*command, ranks=ranks, env={"THRESHER_FAILPOINT": fault}, check=False)
                self.expect_74(result)
                if (self.workspace / "failing/cache/cache.json").exists():
                    thresher("cache", "verify", self.workspace / "failing/cache")
                self.expect_completes(command, "failing", self.cache, CACHE_PATTERNS)

    def test_a_failing_call_of_a_training_ends_it_with_one_line(self):
        command = self.training("failing")
        for ranks, fault in ((None, "file.write:90=EIO"), (None, "file.fsync:19=ENOSPC"), (None, "file.*:300+=ENOSPC"),
                             (2, "file.fsync:25=EIO")):
            with self.subTest(fault=fault, ranks=ranks):
                result = thresher(*command, ranks=ranks, env={"THRESHER_FAILPOINT": fault}, check=False)
                self.expect_74(result)
                self.expect_completes(command, "failing", self.run_files, RUN_PATTERNS)

    def fill_disk_during(self, command, sign):
        """Starts the command, takes all space of workspace/disk once `sign` is there; returns the ended process."""
        process = subprocess.Popen([str(PROGRAM), *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   text=True)
        deadline = time.monotonic() + 60
        while not any(self.workspace.glob(sign)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        with open(self.workspace / "disk/filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(1 << 16))
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOSPC)
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, "", errors)

    def with_small_disk(self, megabytes):
        disk = self.workspace / "disk"
        disk.mkdir()
        self.addCleanup(disk.rmdir)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", disk], capture_output=True,
                                 text=True)
        if mounted.returncode != 0:
            self.skipTest(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", disk], check=True)

    def test_a_disk_that_fills_up_during_a_harvest(self):
        self.with_small_disk(64)
        command = ["harvest", *self.arguments("disk/job")]
        self.expect_74(self.fill_disk_during(command, "disk/job/cache/commits/w000.log"), "disk full")
        if (self.workspace / "disk/job/cache/cache.json").exists():
            thresher("cache", "verify", self.workspace / "disk/job/cache")
        (self.workspace / "disk/filler").unlink()
        self.expect_completes(command, "disk/job", self.cache, CACHE_PATTERNS)

    def test_a_disk_that_fills_up_before_a_checkpoint(self):
        self.with_small_disk(64)
        command = self.training("disk/job")
        self.expect_74(self.fill_disk_during(command, "disk/job/runs/tiny/ckpt/step-*"), "disk full")
        self.assertTrue(any(self.workspace.glob("disk/job/runs/tiny/ckpt/step-*")), "the one before is still there")
        (self.workspace / "disk/filler").unlink()
        result = thresher(*command)
        self.assertNotIn("checkpoint skipped", result.stderr)
        self.expect_completes(command, "disk/job", self.run_files, RUN_PATTERNS)

    def test_a_second_harvest_in_the_same_folder_stops_at_once_and_says_who_has_it(self):
        command = ["harvest", *self.arguments("twice")]
        first = subprocess.Popen([str(PROGRAM), *map(str, command)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.addCleanup(first.kill)
        lock = self.workspace / "twice/cache/lock"
        while first.poll() is None and not (lock.exists() and lock.stat().st_size > 0):
            time.sleep(0.001)
        first.send_signal(signal.SIGSTOP)  # it holds the lock for as long as the second looks
        try:
            second = thresher("harvest", *self.arguments("twice", run__name="second"), check=False)
        finally:
            first.send_signal(signal.SIGCONT)
        self.assertEqual(second.returncode, 78, second.stderr)
        self.assertEqual(len(error_lines(second)), 1)
        self.assertRegex(error_lines(second)[0],
                         rf"twice/cache: harvest cannot start, the folder is locked by harvest on host \S+, pid {first.pid}, "
                         r"since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertEqual(first.wait(timeout=60), 0)
        self.assertEqual(digests(self.workspace / "twice", CACHE_PATTERNS), self.cache)

    def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(self):
        rng = random.Random(5)
        command = self.training("killed")
        killed = thresher(*command, env={"THRESHER_FAILPOINT": "checkpoint.begun:4"}, check=False)
        self.assertEqual(killed.returncode, -9, killed.stderr)
        older, newest = sorted((self.workspace / "killed/runs/tiny/ckpt").glob("step-*"))
        for name in CHECKPOINT_FILES:
            for damage in ("flip", "cut"):
                with self.subTest(file=name, damage=damage):
                    shutil.copytree(self.workspace / "killed", self.workspace / "damaged")
                    path = self.workspace / "damaged" / newest.relative_to(self.workspace / "killed") / name
                    self.damage(path, damage, rng)
                    result = thresher(*self.training("damaged"))
                    skipped = [line for line in result.stderr.splitlines() if "checkpoint skipped: " in line]
                    self.assertEqual(len(skipped), 1, result.stderr)
                    self.assertIn(f"{newest.name}/{name}", skipped[0])
                    shutil.rmtree(path.parent.parent / f"damaged-{newest.name}")
                    self.assertEqual(digests(self.workspace / "damaged", RUN_PATTERNS), self.run_files)
                    shutil.rmtree(self.workspace / "damaged")
        self.damage(newest / "model.safetensors", "flip", rng)
        self.damage(older / "COMMIT", "cut", rng)
        result = thresher(*command, check=False)
        self.assertEqual(result.returncode, 65, result.stderr)
        self.assertEqual(len(error_lines(result)), 1, result.stderr)
        for reason in (f"{newest.name}/model.safetensors", f"{older.name}/COMMIT"):
            self.assertIn(reason, error_lines(result)[0])

    def damage(self, path, how, rng):
        data = bytearray(path.read_bytes())
        if how == "cut":
            del data[rng.randrange(len(data) - 1):]
        else:
            at = rng.randrange(len(data))
            while path.name == "COMMIT" and chr(data[at]) in " \n":  # one blank more or less says the same
                at = rng.randrange(len(data))
            data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)


if __name__ == "__main__":
    unittest.main()
