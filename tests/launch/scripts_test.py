"""Shell scripts: shellcheck finds nothing in those that launch jobs and set up machines; what they promise as texts."""
import re

from launching import *


def shell_scripts():
    found = [path.relative_to(SOURCE).as_posix() for path in sorted(LAUNCH.glob("**/*")) if path.is_file() and
             re.match(rb"#!.*\b(bash|sh)\b|# shellcheck shell=", path.read_bytes()[:100])]
    return [*found, "tools/setup.sh"]


class Scripts(unittest.TestCase):
    @unittest.skipUnless(shutil.which("shellcheck"), "shellcheck is not installed: tools/setup.sh test")
    def test_shellcheck_finds_nothing(self):
        scripts = shell_scripts()
        for name in ("launch/local.sh", "launch/common.sh", "launch/env.sh", "launch/slurm/train.sbatch", "launch/pbs/train.pbs"):
            self.assertIn(name, scripts)
        result = subprocess.run(["shellcheck", "-x", *scripts], cwd=SOURCE, capture_output=True, text=True)
        self.assertEqual(result.stdout, "")
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_a_profile_sets_its_variables_and_keeps_what_is_set(self):
        def shown(profile, **given):
            result = subprocess.run(["bash", "-c", f"source {LAUNCH}/env.sh; env"], capture_output=True, text=True,
                                    env={"PATH": os.environ["PATH"], "THRESHER_PROFILE": profile, **given})
            return result.returncode, dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
        code, plain = shown("")
        self.assertEqual((code, plain["NCCL_DEBUG"], "NCCL_ALGO" in plain), (0, "WARN", False))
        self.assertEqual(shown("deterministic")[1]["NCCL_ALGO"], "Ring")
        self.assertEqual(shown("deterministic", NCCL_ALGO="Tree")[1]["NCCL_ALGO"], "Tree")
        self.assertEqual(shown("debug")[1]["NCCL_DEBUG"], "INFO")
        self.assertEqual(shown("fast")[0], 64)

    def test_every_variable_and_every_exit_code_is_explained(self):
        readme = (LAUNCH / "README.md").read_text()
        for code in (0, 64, 65, 70, 74, 75, 78):
            self.assertRegex(readme, rf"(?m)^\| {code} \|")
        for script in LAUNCH.glob("**/*"):
            if script.is_dir() or script.suffix == ".md":
                continue
            for name in set(re.findall(r"\bTHRESHER_[A-Z_]+\b", script.read_text(errors="replace"))):
                if name not in ("THRESHER_BUILD_TESTS", "THRESHER_BUILD_BENCH", "THRESHER_SLURM_NODE", "THRESHER_ATTEMPT"):
                    self.assertIn(name, readme, f"{script.name} reads {name}")

    def test_the_slurm_jobs_ask_for_a_signal_in_time_and_may_be_requeued(self):
        for stage in ("harvest", "train", "eval"):
            text = (LAUNCH / f"slurm/{stage}.sbatch").read_text()
            for line in ("#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=USR1@300"):
                self.assertIn(f"\n{line}\n", text)


if __name__ == "__main__":
    unittest.main()
