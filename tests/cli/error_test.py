"""Exit code and first line of what the program says to common mistakes; each is said exactly once."""
import contextlib
import fcntl
import json
import shutil

from program import *


class UsageErrors(ProgramTest):
    def test_unknown_subcommand(self):
        result = run("trian", "a.yaml")
        self.expect_error(result, 64, "thresher: unknown subcommand trian")
        self.assertIn("hint: did you mean train?", result.stderr)

    def test_unknown_nested_subcommand(self):
        self.expect_error(run("cache", "inof", "dir"), 64, "thresher cache: unknown subcommand inof")

    def test_no_subcommand(self):
        self.expect_error(run(), 64, "thresher: no subcommand")
        self.expect_error(run("bench"), 64, "thresher bench: no subcommand")

    def test_missing_argument(self):
        self.expect_error(run("run"), 64, "thresher run: EXPERIMENT.yaml is required")

    def test_unknown_option(self):
        result = run("run", TINY, "--frseh")
        self.expect_error(result, 64, "thresher run: The following argument was not expected: --frseh")

    def test_fresh_excludes_resume(self):
        self.assertEqual(run("run", TINY, "--fresh", "--resume").returncode, 64)

    def test_log_level(self):
        self.expect_error(run("config", "show", TINY, "--log-level", "loud"), 64,
                          'log level "loud" is not known')

    def test_malformed_override(self):
        self.expect_error(run("config", "show", TINY, "--set", "train.lanes"), 64,
                          "--set train.lanes: there is no =")
        self.expect_error(run("config", "show", TINY, "--set", "sae.7.k=3"), 64,
                          "--set sae.7.k: sae has no entry 7")

    def test_bad_bench_sizes(self):
        self.assertEqual(run("bench", "step", "--k", "0").returncode, 64)
        self.expect_error(run("bench", "step", "--device", "cuda"), 78,
                          "device cuda: this build has no CUDA")
        self.expect_error(run("bench", "step", "--variant", "gated"), 64,
                          'bench step: variant "gated" is not known')
        self.expect_error(run("bench", "step", "--size", "D"), 64, 'bench step: size "D" is not known')
        self.expect_error(run("bench", "step", "--l0", "4"), 64, "bench step: --l0 does not go with topk")
        self.expect_error(run("bench", "step", "--variant", "relu_l1", "--k", "4"), 64,
                          "bench step: --k does not go with relu_l1")
        self.expect_error(run("bench", "step", "--n", "16"), 78,
                          "sae topk: k 32 is above the dictionary size 16")
        self.expect_error(run("bench", "step", "--batch", "2049"), 78,
                          "train.batch_tokens = 2049 is not a multiple of train.lanes = 8")
        self.expect_error(run("bench", "step", "--rows", "no.npy", "--d", "32", "--n", "64"), 74,
                          "no.npy: cannot open: No such file or directory")


class ConfigErrors(ProgramTest):
    def changed(self, old, new):
        """configs/tiny.yaml with one replacement, as exp.yaml in the workspace."""
        text = TINY.read_text()
        self.assertIn(old, text)
        (self.workspace / "exp.yaml").write_text(text.replace(old, new, 1))
        return "exp.yaml"

    def place(self, key, after=""):
        """LINE:COLUMN of `key` in the first line of exp.yaml that has it, right behind `after`."""
        for number, line in enumerate((self.workspace / "exp.yaml").read_text().splitlines(), 1):
            if after + key in line:
                return f"{number}:{line.index(after + key) + len(after) + 1}"
        raise AssertionError(f"{key} is not in exp.yaml")

    def expect_config_error(self, old, new, marker, message, code=78):
        name = self.changed(old, new)
        self.expect_error(self.run_here("run", name), code, f"{name}:{self.place(marker)}: {message}")

    def test_typo_in_a_key(self):
        name = self.changed("learning_rate:", "learning_rte:")
        result = self.run_here("run", name)
        self.expect_error(result, 78, f"{name}:{self.place('learning_rte')}: unknown key train.learning_rte")
        self.assertIn("hint: did you mean learning_rate?", result.stderr)

    def test_typo_in_a_section(self):
        self.expect_config_error("train:\n", "trian:\n", "trian", "unknown section trian")

    def test_typo_on_the_command_line(self):
        self.expect_error(run("config", "show", TINY, "--set", "train.lnaes=4"), 78,
                          "--set train.lnaes: unknown key train.lnaes")

    def test_schema(self):
        name = self.changed("schema: 1\n", "")
        self.expect_error(self.run_here("run", name), 78, f"{name}: schema is missing")
        self.expect_config_error("schema: 1", "schema: 2", "2", "schema = 2 is not known")

    def test_missing_key_and_section(self):
        name = self.changed("  weights: models/tiny.gguf", "  dtype: float32")
        self.expect_error(self.run_here("run", name), 78,
                          f"{name}:{self.place('dtype: float32')}: host_model.weights is missing")
        text = TINY.read_text()
        (self.workspace / "exp.yaml").write_text(text[:text.index("host_model:")])
        self.expect_error(self.run_here("run", "exp.yaml"), 78, "exp.yaml: host_model.weights is missing")
        name = self.changed("  hook_points: [blocks.1.hook_resid_post, blocks.2.hook_resid_post]\n", "")
        self.expect_error(self.run_here("run", name), 78,
                          f"{name}:{self.place('dir: caches')}: cache.hook_points is missing")

    def test_a_hook_point_may_be_left_out_where_there_is_one(self):
        name = self.changed("  - hook_point: blocks.2.hook_resid_post\n    type: topk", "  - type: topk")
        self.expect_error(self.run_here("run", name), 78,
                          f"{name}:{self.place('type: topk')}: sae[0].hook_point is missing: the cache has more than "
                          "one hook point")

    def test_a_length_twice(self):
        name = self.changed("  total_tokens: 300k ", "  total_tokens: 300k\n  epochs: 3 #")
        self.expect_error(self.run_here("run", name), 78,
                          f"{name}:{self.place('total_tokens')}: train.epochs = 3 and train.total_tokens = 300000 both "
                          "say how long training is")

    def test_a_file_whose_name_cannot_name_a_run(self):
        text = TINY.read_text().replace("  name: tiny\n", "")
        (self.workspace / "my exp.yaml").write_text(text)
        result = self.run_here("run", "my exp.yaml")
        self.assertEqual(result.returncode, 78)
        self.assertIn('run.name = "my exp" cannot name a folder', error_lines(result)[0])

    def test_device_cuda(self):
        self.expect_config_error("  seed: 42", "  device: cuda", "cuda",
                                 "run.device = cuda: this build has no CUDA")

    def test_unsafe_run_name(self):
        self.expect_config_error("name: tiny", "name: ../x", "../x", 'run.name = "../x" cannot name a folder')

    def test_hook_points(self):
        self.expect_config_error("hook_point: blocks.2.hook_resid_post", "hook_point: blocks.3.hook_resid_post",
                                 "blocks.3", "sae[0].hook_point = blocks.3.hook_resid_post is not in cache.hook_points")
        name = self.changed("[blocks.1.", "[block.1.")
        result = self.run_here("run", name)
        self.assertEqual(result.returncode, 78)
        self.assertRegex(error_lines(result)[0], rf"^error: {name}:{self.place('block.1.')}: ")
        self.expect_config_error("[blocks.1.", "[blocks.2.hook_resid_post, blocks.2.hook_resid_post, blocks.1.",
                                 "blocks.2.hook_resid_post, blocks.1",
                                 "cache.hook_points[1] = blocks.2.hook_resid_post is there twice")

    def test_a_name_twice(self):
        name = self.changed("type: relu_l1", "name: topk\n    type: relu_l1")
        result = self.run_here("run", name)
        self.expect_error(result, 78, f"{name}:{self.place('topk', after='name: ')}: "
                                      "sae[1].name = topk is taken by another SAE")

    def test_sweeps_that_cannot_be(self):
        def message(value, first_line, key="k", part=""):
            self.expect_error(run("config", "show", TINY, "--set", f"sae.0.{key}={value}"), 78,
                              f"--set sae.0.{key}: sae[0].{key}{part} {first_line}")
        message("[]", "is an empty list")
        self.expect_error(run("config", "show", TINY, "--set", "sae.0.k=[8, [4]]"), 78,
                          "--set sae.0.k: sae[0].k[1] is a list or a map")
        message("[8, 16, 8]", "takes the value 8 twice")
        message("{from: 1, to: 4, steps: 9}", "takes the value 1 twice")
        message("{from: 0, to: 4, steps: 2, scale: log}", "runs from 0 to 4 on a log scale")
        message("{from: 1.5, to: 4, steps: 2}", "is not a whole number", key="k", part=".from = 1.5")
        message("{from: 1k, to: many, steps: 2}", "is not a whole number", key="n_latents", part=".to = many")
        message("[topk, relu_l1]", "takes one value", key="type")
        message("[a, b]", "takes one value", key="name")
        message("{from: 1, to: 4, steps: 2}", "is a range, but the field is no number", key="decoder_bias_init")
        result = run("config", "show", TINY, "--set", "sae.0.k={from: 1, to: 200, steps: 200}",
                     "--set", "sae.0.aux_k=[1, 2]")
        self.assertEqual(result.returncode, 78)
        self.assertIn("the lists and ranges of sae[0] stand for more than 256 SAEs", error_lines(result)[0])
        result = run("config", "show", TINY, "--set", "sae.0.k={from: 1, to: 200, steps: 200}",
                     "--set", "sae.1.l1_coefficient={from: 1, to: 9, steps: 57}")
        self.assertEqual(result.returncode, 78)
        self.assertIn("sae stands for 257 SAEs", error_lines(result)[0])
        self.expect_error(run("config", "show", TINY, "--set", "sae.0.k={from: 1, to: 4}"), 78,
                          "--set sae.0.k: sae[0].k.steps is missing")

    def test_ends_of_a_sweep_are_written_like_other_values_of_the_field(self):
        result = run("config", "show", TINY, "--set", "sae.0.k={from: 1k, to: 9k, steps: 3}")
        self.assertEqual(result.returncode, 0, result.stderr)
        for name in ("topk-k1000", "topk-k5000", "topk-k9000"):
            self.assertIn(f"name: {name}\n", result.stdout)

    def test_a_single_sae_is_overridden_like_a_list_of_one(self):
        (self.workspace / "own.yaml").write_text("schema: 1\nactivations: {paths: [a.npy]}\nsae: {type: topk}\n")
        for key in ("sae.k", "sae.0.k", "sae.topk.k"):
            result = self.run_here("config", "show", "own.yaml", "--set", f"{key}=17")
            self.assertIn(" k: 17\n", result.stdout, f"{key}: {result.stderr}")

    def test_schedules_of_an_sae_longer_than_the_run(self):
        name = self.changed("k: 8", "k: 8\n    k_start: 16\n    k_anneal_tokens: 400k")
        self.expect_error(self.run_here("config", "check", name), 78,
                          f"{name}:{self.place('hook_point: blocks.2')}: sae topk.k_anneal_tokens = 400000 does not fit "
                          "into train.total_tokens = 300000")

    def test_a_field_of_json_lines_that_cannot_be(self):
        name = self.changed("corpus:\n", 'corpus:\n  field: ""\n')
        self.expect_error(self.run_here("config", "show", name), 78,
                          f"{name}:{self.place(chr(34) * 2)}: corpus.field is empty")
        (self.workspace / "a.jsonl").write_text('{"text": "a"}\n')
        self.expect_error(self.run_here("harvest", TINY, "--set", "corpus.paths=[a.jsonl]", "--set", 'corpus.field="a\\nb"'),
                          65, r"a.jsonl:1: no field a\nb")

    def test_lanes_and_batches(self):
        name = self.changed("lanes: 8", "lanes: 6")
        self.expect_error(self.run_here("run", name), 78,
                          f"{name}:{self.place('total_tokens')}: train.lanes = 6 is not a power of two")

    def test_ranks_without_a_use(self):
        self.expect_error(run("config", "show", TINY, "--set", "comm.backend=self", "--set", "comm.ranks=2"), 78,
                          "--set comm.ranks: comm.ranks = 2 has no use with comm.backend: self")

    def test_k_above_the_dictionary_size(self):
        name = self.changed("k: 8", "k: 300")
        result = self.run_here("run", name, "--set", "run.name=large-k")
        self.expect_error(result, 78, f"{name}:{self.place('hook_point: blocks.2')}: "
                                      "sae topk: k 300 is above the dictionary size 256")
        self.assertFalse((self.workspace / "caches").exists(), "nothing is harvested for an SAE that cannot be")

    def test_ranks_that_do_not_divide_the_lanes(self):
        result = self.run_here("run", TINY, "--set", "comm.backend=threads", "--set", "comm.ranks=3",
                               "--set", "run.name=three-ranks")
        self.expect_error(result, 78, "3 ranks do not divide train.lanes = 8")
        status = json.loads((self.workspace / "runs/three-ranks/status.json").read_text())
        self.assertEqual((status["state"], status["exit_code"], status["ranks"]), ("failed", 78, 3))
        self.assertIn("3 ranks do not divide train.lanes = 8", status["message"])

    def test_the_error_of_several_mpi_ranks_is_said_once(self):
        result = self.run_here("run", TINY, "--set", "train.lanes=1", "--set", "run.name=mpi-ranks", ranks=2)
        self.assertEqual(result.returncode, 78, result.stderr)
        self.assertEqual(len(error_lines(result)), 1, result.stderr)
        self.assertIn("2 ranks do not divide train.lanes = 1", error_lines(result)[0])


class FileErrors(ProgramTest):
    def test_wrong_paths(self):
        self.expect_error(run("run", "/nonexistent/a.yaml"), 74,
                          "/nonexistent/a.yaml: cannot stat: No such file or directory")
        self.expect_error(self.run_here("run", TINY, "--set", "corpus.paths=[data/none]"), 74,
                          "corpus.paths: 'data/none' does not exist")
        self.expect_error(self.run_here("run", TINY, "--set", "host_model.weights=models/none.gguf"), 74,
                          "models/none.gguf: cannot open: No such file or directory")
        self.expect_error(self.run_here("config", "check", TINY, "--set", "host_model.weights=none.gguf"), 74,
                          "host_model.weights: 'none.gguf' does not exist")
        self.expect_error(run("eval", "/nonexistent"), 78, "/nonexistent: there is no run here")
        self.expect_error(run("cache", "info", "/nonexistent"), 78, "/nonexistent: there is no activation cache here")
        self.expect_error(run("cache", "verify", "/nonexistent"), 78,
                          "/nonexistent: there is no activation cache here")
        self.expect_error(self.run_here("train", TINY, "--set", "cache.dir=none", "--set", "run.name=no-cache"), 78,
                          "none: there is no activation cache here")

    def test_truncated_weights(self):
        whole = (self.workspace / "models/tiny.gguf").read_bytes()
        (self.workspace / "models/half.gguf").write_bytes(whole[:len(whole) // 2])
        result = self.run_here("run", TINY, "--set", "host_model.weights=models/half.gguf",
                               "--set", "run.name=half")
        self.assertEqual(result.returncode, 65, result.stderr)
        self.assertEqual(len(error_lines(result)), 1)
        self.assertTrue(error_lines(result)[0].startswith("error: models/half.gguf: "), result.stderr)

    def test_a_cache_with_another_identity(self):
        arguments = ["harvest", TINY, "--set", "run.name=identity", "--set", "cache.dir=identity-cache"]
        self.assertEqual(self.run_here(*arguments).returncode, 0)
        before = sorted(p.stat().st_mtime_ns for p in (self.workspace / "identity-cache").rglob("*"))
        self.expect_error(self.run_here(*arguments, "--set", "cache.dtype=float32"), 78,
                          "identity-cache/cache.json: this cache was made with other settings: "
                          'dtype: "bfloat16", "float32"')
        shards = sorted((self.workspace / "identity-cache/shards").iterdir())
        self.assertEqual(self.run_here("cache", "verify", "identity-cache").stdout, "identity-cache: sound\n")
        self.assertGreaterEqual(len(before), len(shards))

        damaged = bytearray(shards[1].read_bytes())
        damaged[len(damaged) // 2] ^= 4
        shards[1].chmod(0o644)
        shards[1].write_bytes(damaged)
        result = self.run_here("cache", "verify", "identity-cache", "--json")
        self.assertEqual(result.returncode, 65, result.stderr)
        found = json.loads(result.stdout)
        self.assertFalse(found["is_sound"])
        self.assertIn(shards[1].name, found["damage"][0]["file"])

        fresh = self.run_here(*arguments, "--set", "cache.dtype=float32", "--fresh")
        self.assertEqual(fresh.returncode, 0, fresh.stderr)
        self.assertTrue((self.workspace / "identity-cache.old-1/cache.json").exists())
        shutil.rmtree(self.workspace / "identity-cache")


class StateErrors(ProgramTest):
    @contextlib.contextmanager
    def locked(self, folder):
        """As if another process worked in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            json.dump({"what": "harvest", "host": "node1", "pid": 7, "start": "2026-01-31T12:00:00Z"}, lock)
            lock.flush()
            yield

    def test_two_harvests_at_once(self):
        arguments = ["harvest", TINY, "--set", "run.name=second", "--set", "cache.dir=shared"]
        with self.locked(self.workspace / "shared"):
            self.expect_error(self.run_here(*arguments), 78,
                              "shared: harvest cannot start, the folder is locked by harvest on host node1, pid 7, "
                              "since 2026-01-31T12:00:00Z")
        self.assertEqual(self.run_here(*arguments).returncode, 0)

    def test_a_second_job_leaves_the_first_ones_status_alone(self):
        run_dir = self.workspace / "runs/busy"
        with self.locked(run_dir):
            (run_dir / "status.json").write_text('{"state": "running"}')
            result = self.run_here("run", TINY, "--set", "run.name=busy", "--set", "cache.dir=busy-cache")
            self.expect_error(result, 78, "runs/busy: harvest cannot start, the folder is locked by harvest on host "
                                          "node1, pid 7, since 2026-01-31T12:00:00Z")
            self.assertEqual((run_dir / "status.json").read_text(), '{"state": "running"}')

    def test_a_full_disk(self):
        disk = self.workspace / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
        if mounted.returncode != 0:
            self.skipTest(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
        try:
            result = self.run_here("harvest", TINY, "--set", "run.name=full", "--set", "cache.dir=disk/cache")
            self.assertEqual(result.returncode, 74, result.stderr)
            self.assertRegex(error_lines(result)[0], r"^error: disk/cache: the harvest needs .* more, the disk has "
                                                     r".* free$")
            self.assertEqual(self.run_here("harvest", TINY, "--set", "cache.dir=roomy").returncode, 0)
            result = self.run_here("train", TINY, "--set", "cache.dir=roomy", "--set", "run.dir=disk",
                                   "--set", "sae.0.expansion_factor=64")
            self.assertEqual(result.returncode, 74, result.stderr)
            self.assertEqual(len(error_lines(result)), 1, result.stderr)
            self.assertIn("disk full", error_lines(result)[0])
        finally:
            subprocess.run(["umount", "-l", disk], check=True)


if __name__ == "__main__":
    unittest.main()
