"""The program end to end on the tiny host: results, their files, continuing, --json, the generated pages."""
import json
import re
import signal
import struct
import time

from program import *

METRICS = ["fvu", "explained_variance", "mse", "cosine_similarity", "l0", "l1", "ce_clean", "ce_spliced",
           "ce_zero_ablated", "ce_mean_ablated", "ce_recovered_zero", "ce_recovered_mean", "kl_divergence",
           "dead_fraction", "dense_fraction", "density_histogram", "n_tokens", "n_dropped"]


class Documentation(unittest.TestCase):
    def test_every_help_page_is_there(self):
        for command in ([], ["run"], ["harvest"], ["train"], ["eval"], ["cache"], ["cache", "info"],
                        ["cache", "verify"], ["config"], ["config", "check"], ["config", "show"],
                        ["config", "reference"], ["bench"], ["bench", "step"], ["bench", "loader"],
                        ["bench", "harvest"], ["bench", "comm"], ["version"]):
            result = run(*command, "--help")
            self.assertEqual((result.returncode, result.stderr), (0, ""), command)
            self.assertIn("Usage: thresher", result.stdout)

    def test_the_reference_page_is_up_to_date(self):
        page = (SOURCE / "docs/config-reference.md").read_text()
        self.assertEqual(run("config", "reference").stdout, page,
                         "run: build/bin/thresher config reference > docs/config-reference.md")

    def test_the_schema_accepts_the_experiments_and_refuses_a_typo(self):
        schema = json.loads(run("config", "reference", "--json-schema").stdout)
        self.assertEqual(set(schema["properties"]), {"schema", "run", "corpus", "host_model", "activations", "cache",
                                                     "sae", "train", "evaluation", "comm"})
        self.assertEqual(schema["oneOf"], [{"required": ["corpus", "host_model"]}, {"required": ["activations"]}])
        train = schema["properties"]["train"]
        self.assertFalse(train["additionalProperties"])
        self.assertEqual(train["required"], [])
        self.assertEqual(train["properties"]["learning_rate"]["exclusiveMinimum"], 0)
        types = [variant["properties"]["type"]["const"] for variant in schema["$defs"]["sae"]["oneOf"]]
        self.assertLessEqual({"batch_topk", "relu_l1", "topk"}, set(types))

    def test_version(self):
        versions = json.loads(run("version", "--json").stdout)
        self.assertEqual((versions["thresher"], versions["torch"].split("+")[0]), ("0.1.0", "2.11.0"))


class Configuration(unittest.TestCase):
    def test_every_experiment_that_ships_is_valid(self):
        for path in sorted((SOURCE / "configs").glob("*.yaml")):
            self.assertEqual(run("config", "show", path).returncode, 0, path)

    def test_lists_and_ranges_make_every_combination(self):
        shown = json.loads(run("config", "show", TINY, "--json",
                               "--set", "sae.topk.k={from: 2, to: 32, steps: 3, scale: log}",
                               "--set", "sae.topk.learning_rate={from: 1e-4, to: 1e-3, steps: 3, scale: log}",
                               "--set", "sae.relu_l1.form=[april, bricken]").stdout)
        self.assertEqual([sae["name"] for sae in shown["sae"]],
                         ["topk-k2-lr0.0001", "topk-k2-lr0.0003162", "topk-k2-lr0.001", "topk-k8-lr0.0001",
                          "topk-k8-lr0.0003162", "topk-k8-lr0.001", "topk-k32-lr0.0001", "topk-k32-lr0.0003162",
                          "topk-k32-lr0.001", "relu_l1-april", "relu_l1-bricken"])
        self.assertEqual((shown["sae"][4]["k"], shown["sae"][4]["learning_rate"]), (8, 0.0003162))
        self.assertEqual(shown["sae"][10]["decoder_bias_init"], "geometric_median")

    def test_a_resolved_experiment_resolves_to_itself(self):
        shown = run("config", "show", TINY, "--set", "sae.topk.k=5", "--set", "train.learning_rate=1e-8").stdout
        self.assertIn("k: 5\n", shown)
        self.assertIn("learning_rate: 1.0e-08\n", shown)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "resolved.yaml"
            path.write_text(shown)
            self.assertEqual(run("config", "show", path).stdout, shown)


    def test_what_is_left_out_has_a_default(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mine.yaml"
            path.write_text("schema: 1\ncorpus: {paths: [text]}\nhost_model: {weights: m.gguf}\n"
                            "cache: {hook_points: [blocks.0.hook_resid_post]}\nsae: {type: topk}\n")
            shown = json.loads(run("config", "show", path, "--json").stdout)
            self.assertEqual((shown["run"]["name"], shown["cache"]["dir"]), ("mine", "caches/mine"))
            self.assertEqual((shown["sae"][0]["name"], shown["sae"][0]["hook_point"]),
                             ("topk", "blocks.0.hook_resid_post"))
            self.assertEqual([shown["train"][key] for key in ("total_tokens", "epochs", "batch_tokens", "warmup_tokens",
                                                              "decay_tokens", "learning_rate")], ["auto"] * 5 + [0.001])
            given = json.loads(run("config", "show", path, "--json", "--set", "train.total_tokens=1M").stdout)
            self.assertEqual([given["train"][key] for key in ("total_tokens", "batch_tokens", "warmup_tokens",
                                                              "decay_tokens")], [1000000, 4096, 0, 0])


class Pipeline(ProgramTest):
    def test_run_measures_writes_and_continues(self):
        result = self.run_here("run", TINY, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        report = json.loads(result.stdout)
        self.assertEqual(set(report), {"run_dir", "harvest", "train", "evaluation", "stage_seconds"})
        run_dir = self.workspace / report["run_dir"]
        for name in ("config.resolved.yaml", "metrics.jsonl", "timing.jsonl", "evaluation.json",
                     "sae/topk/cfg.json", "sae/relu_l1/sae_weights.safetensors"):
            self.assertTrue((run_dir / name).exists(), name)
        status = json.loads((run_dir / "status.json").read_text())
        self.assertEqual((status["state"], status["stage"], status["exit_code"]), ("done", "evaluate", 0))

        figures = json.loads((run_dir / "evaluation.json").read_text())
        self.assertEqual(list(figures), ["topk", "relu_l1"])
        for sae in figures.values():
            self.assertEqual([name for name in METRICS if name not in sae], [])
            self.assertEqual(len(sae["baselines"]), 3)
        self.assertAlmostEqual(figures["topk"]["l0"], 8, delta=0.5)
        self.assertLess(figures["topk"]["fvu"], 0.5)
        self.assertLess(figures["topk"]["ce_clean"], figures["topk"]["ce_mean_ablated"])

        again = self.run_here("run", TINY, "--json")
        self.assertEqual(again.returncode, 0, again.stderr)
        report = json.loads(again.stdout)
        self.assertTrue(report["harvest"]["was_complete"] and report["train"]["was_complete"])

        refused = self.run_here("train", TINY, "--set", "train.learning_rate=2e-3")
        self.assertEqual(refused.returncode, 78)
        self.assertIn("train.learning_rate: 0.001, 0.002", error_lines(refused)[0])

        measured = self.run_here("eval", report["run_dir"])
        self.assertEqual(measured.returncode, 0, measured.stderr)
        for word in ("topk", "relu_l1", "fvu", "ce_recovered"):
            self.assertIn(word, measured.stdout)
        curve = self.run_here("eval", report["run_dir"], "--curve", "--json")
        self.assertEqual(curve.returncode, 0, curve.stderr)
        points = json.loads(curve.stdout)
        self.assertEqual({point["name"] for point in points}, {"topk", "relu_l1"})
        last = [point for point in points if point["name"] == "topk"][-1]
        self.assertAlmostEqual(last["fvu"], figures["topk"]["fvu"], places=4)

        info = self.run_here("cache", "info", "caches/tiny", "--json")
        self.assertEqual(info.returncode, 0, info.stderr)
        json.loads(info.stdout)
        loader = json.loads(self.run_here("bench", "loader", TINY, "--steps", "20").stdout)
        self.assertGreater(loader["rows_per_second"], 0)

        fresh = self.run_here("run", TINY, "--fresh", "--set", "train.learning_rate=2e-3")
        self.assertEqual(fresh.returncode, 0, fresh.stderr)
        self.assertTrue((run_dir.parent / "tiny.old-1/evaluation.json").exists())


class Bench(ProgramTest):
    TINY_STEP = ["bench", "step", "--d", "32", "--n", "64", "--batch", "64", "--threads", "1", "--steps", "3"]

    def step_figures(self, *arguments):
        result = run(*self.TINY_STEP, *arguments, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def test_step(self):
        figures = self.step_figures("--k", "4")
        for times in (figures["step_seconds"], figures["encoder_product_seconds"]):
            self.assertGreater(times["min"], 0)
            self.assertLessEqual(times["min"], times["median"])
            self.assertLessEqual(times["median"], times["max"])
        self.assertAlmostEqual(figures["tokens_per_second"] * figures["step_seconds"]["median"], 64)
        self.assertAlmostEqual(figures["step_over_product"] * figures["encoder_product_seconds"]["median"],
                               figures["step_seconds"]["median"])
        self.assertEqual((figures["device"], figures["threads"], figures["lanes"], figures["steps"]), ("cpu", 1, 8, 3))
        self.assertEqual((figures["l0"], figures["dead_latents"]), (4, 0))

    def test_step_counts_memory(self):
        memory = self.step_figures("--k", "4")["memory"]
        values = 2 * 32 * 64 + 64 + 32
        self.assertEqual((memory["parameter_bytes"], memory["gradient_bytes"], memory["optimiser_bytes"]),
                         (4 * values, 4 * values, 8 * values))
        self.assertEqual(memory["sum_bytes"], 16 * values)
        self.assertEqual(memory["peak_beyond_sum_bytes"], memory["peak_rss_bytes"] - 16 * values)

    def test_step_with_dead_latents(self):
        figures = self.step_figures("--k", "4", "--dead-fraction", "0.25", "--logged")
        self.assertEqual((figures["dead_latents"], figures["is_logged"]), (16, True))
        self.assertEqual(self.step_figures("--variant", "relu_l1", "--dead-fraction", "0.25")["dead_latents"], 16)

    def test_step_of_a_sparse_relu(self):
        for form in ("april", "bricken"):
            figures = self.step_figures("--variant", "relu_l1", "--l0", "8", "--set", f"form={form}")
            self.assertAlmostEqual(figures["l0"], 8, delta=0.8)
            self.assertEqual((figures["sae"]["form"], figures["k"]), (form, None))

    def test_step_as_text(self):
        result = run(*self.TINY_STEP, "--k", "4")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout.splitlines()[0], "topk: d 32, n 64, batch 64, k 4; 8 lanes, 1 threads")
        for line in ("step ", "encoder product ", "step / product ", "tokens/s ", "memory: "):
            self.assertIn("\n" + line, result.stdout)

    def test_step_of_every_variant(self):
        known = re.search("expected: (.*)", run("bench", "step", "--variant", "none").stderr)[1].split(", ")
        self.assertLessEqual({"topk", "relu_l1"}, set(known))
        for variant in known:
            figures = self.step_figures("--variant", variant, *(["--k", "4"] if "topk" in variant else ["--l0", "8"]))
            self.assertAlmostEqual(figures["l0"], 4 if "topk" in variant else 8, delta=0.8)
            self.assertEqual(figures["dead_latents"], 0)

    def test_step_stops_when_asked(self):
        process = subprocess.Popen([PROGRAM, *self.TINY_STEP[:-2], "--k", "4", "--seconds", "600"], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        caught = 0
        while process.poll() is None and not caught & 1 << signal.SIGTERM - 1:
            time.sleep(0.02)
            caught = int(re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())[1], 16)
        process.terminate()
        output, errors = process.communicate(timeout=120)
        self.assertEqual((process.returncode, output), (75, ""))
        self.assertIn("stopped: bench step: stopped before its end, no figures", errors)

    def test_step_on_own_rows(self):
        rows = self.workspace / "rows.npy"
        shape = b"{'descr': '<f4', 'fortran_order': False, 'shape': (256, 32), }"
        head = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + shape.ljust(117) + b"\n"
        rows.write_bytes(head + struct.pack("<8192f", *(float((7 * i) % 31 - 15) for i in range(8192))))
        self.assertEqual(self.step_figures("--k", "4", "--rows", rows)["rows"], str(rows))
        result = run("bench", "step", "--d", "32", "--n", "64", "--batch", "72", "--rows", rows)
        self.expect_error(result, 78, f"bench step: {rows} holds float32 [256, 32]")

    def test_comm_and_harvest(self):
        figures = json.loads(run("bench", "comm", "--ranks", "2", "--bytes", "4096", "--repeats", "3").stdout)
        self.assertEqual((figures["ranks"], figures["backend"]), (2, "threads"))
        result = self.run_here("bench", "harvest", TINY, "--steps", "2")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertGreater(json.loads(result.stdout)["tokens_per_second"], 0)


if __name__ == "__main__":
    unittest.main()
