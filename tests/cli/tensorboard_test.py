"""TensorBoard's own reader sees every figure of metrics.jsonl once, in order, also after a kill and a resume."""
import json
import math

from program import *
from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, SCALARS, EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as ServerAccumulator


class TensorBoard(TinyRunTest):
    def logged(self, run_dir, sae):
        """{figure: [(step, value)]} of metrics.jsonl."""
        figures = {}
        for line in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines()):
            if line["sae"] == sae:
                for name, value in line.items():
                    if isinstance(value, (int, float)) and name not in ("step", "tokens"):
                        figures.setdefault(name, []).append((line["step"], value))
        return figures

    def expect_same(self, run_dir):
        for sae in ("topk", "relu_l1"):
            reader = EventAccumulator(str(run_dir / "tensorboard" / sae), size_guidance={SCALARS: 0, HISTOGRAMS: 0})
            reader.Reload()
            logged = self.logged(run_dir, sae)
            tags = {tag for tag in reader.Tags()["scalars"] if tag.startswith("train/")}
            self.assertEqual(tags, {f"train/{name}" for name in logged})
            for name, expected in logged.items():
                events = reader.Scalars(f"train/{name}")
                self.assertEqual([event.step for event in events], [step for step, _ in expected])
                for event, (_, value) in zip(events, expected):
                    self.assertTrue(math.isclose(event.value, value, rel_tol=1e-6), (name, event, value))
                times = [event.wall_time for event in events]
                self.assertEqual(times, sorted(times))
            yield sae, reader

    def test_a_run_is_what_metrics_jsonl_says(self):
        run_dir = self.workspace / "runs/tiny"
        evaluation = json.loads((run_dir / "evaluation.json").read_text())
        for sae, reader in self.expect_same(run_dir):
            (fvu,) = reader.Scalars("evaluation/fvu")
            self.assertEqual(fvu.step, 80)
            self.assertAlmostEqual(fvu.value, evaluation[sae]["fvu"], places=6)
            (density,) = reader.Histograms("evaluation/log10_density")
            counts = evaluation[sae]["density_histogram"]["counts"]
            self.assertEqual(density.histogram_value.bucket, [float(count) for count in counts])
            self.assertEqual(density.histogram_value.bucket_limit,
                             evaluation[sae]["density_histogram"]["log10_edges"][1:])
            server = ServerAccumulator(str(run_dir / "tensorboard" / sae))  # what the pages are made from
            server.Reload()
            self.assertEqual(len(server.Tensors("train/loss")), 80)
            self.assertEqual(len(server.Tensors("evaluation/log10_density")), 1)

    def test_a_killed_run_continues_without_doubled_steps(self):
        # In the background the checkpoint of step 40 may not be there yet at the kill.
        name = ["--set", "run.name=killed", "--set", "train.background_checkpoints=false"]
        killed = subprocess.run([str(PROGRAM), "run", str(TINY), *self.SHORT, *name], cwd=self.workspace,
                                capture_output=True, env={**os.environ, "THRESHER_FAILPOINT": "train.step:51"})
        self.assertEqual(killed.returncode, -9, killed.stderr)
        run_dir = self.workspace / "runs/killed"
        before = EventAccumulator(str(run_dir / "tensorboard/topk"), size_guidance={SCALARS: 0})
        before.Reload()
        self.assertEqual([event.step for event in before.Scalars("train/loss")], list(range(1, 52)))
        (torn,) = (run_dir / "tensorboard/topk").glob("events*")
        with open(torn, "ab") as file:  # a record that was being written
            file.write(b"\x40\0\0\0\0\0\0\0\1\2\3")

        self.make_run(*name)
        kept = {event.step: event.wall_time for event in before.Scalars("train/loss") if event.step <= 40}
        for sae, reader in self.expect_same(run_dir):
            if sae == "topk":
                after = {event.step: event.wall_time for event in reader.Scalars("train/loss")}
                self.assertEqual({step: after[step] for step in kept}, kept)
        self.assertEqual((run_dir / "metrics.jsonl").read_bytes(),
                         (self.workspace / "runs/tiny/metrics.jsonl").read_bytes())
        before.Reload()  # a TensorBoard that has watched all the time
        self.assertEqual([event.step for event in before.Scalars("train/loss")], list(range(1, 81)))

    def test_it_can_be_switched_off(self):
        self.make_run("--set", "run.name=without", "--set", "train.tensorboard=false")
        self.assertFalse((self.workspace / "runs/without/tensorboard").exists())
        switched_on = run("train", TINY, *self.SHORT, "--set", "run.name=without", cwd=self.workspace)
        self.assertEqual(switched_on.returncode, 0, "it is no part of a run's identity")


if __name__ == "__main__":
    unittest.main()
