"""`thresher steer` on a tiny run: directions from files and from a feature store's search, plans, and the page in a real
headless Chromium."""
import json
import os
import sys
import unittest
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(os.environ["THRESHER_SOURCE_DIR"]) / "tests/cli"))
from browser import Browser  # noqa: E402
from program import TinyRunTest  # noqa: E402

PLAN = {"direction": "pair: red| blue", "points": ["1", "blocks.2.hook_resid_post"], "coefficients": ["1", "2", "-2"],
        "prompts": ["the small", "we saw"], "max_tokens": 4, "controls": 0, "positions": ["all", "end"],
        "most_perplexity": 1000,
        "attributes": [{"name": "colour", "positive": [" red"], "negative": [" blue"]}]}


class Steer(TinyRunTest):
    def steer(self, *arguments, **plan):
        (self.workspace / "plan.yaml").write_text(json.dumps({**PLAN, **plan}))  # JSON is YAML
        result = self.run_here("steer", "runs/tiny", "--sae", "topk", "--plan", "plan.yaml", "--json", *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def steered(self, study):
        return [row for row in study["rows"] if row["name"] == "steered"]

    def test_a_decoder_row_in_a_file_is_the_latent(self):
        row = load_file(self.workspace / "runs/tiny/sae/topk/sae_weights.safetensors")["W_dec"][7]
        np.save(self.workspace / "row.npy", row)
        save_file({"other": 2 * row, "row": row}, self.workspace / "row.safetensors")
        plan = {"points": ["2"], "coefficients": ["4"]}
        by_number = self.steered(self.steer(direction="latent:7", **plan))
        for path in ("row.npy", "row.safetensors#row"):
            by_file = self.steered(self.steer(direction=f"file:{path}", **plan))
            self.assertEqual(by_file, by_number)
        self.assertNotEqual(self.steered(self.steer(direction="file:row.safetensors#other", **plan)), by_number)

    def test_search_takes_the_latent_that_the_store_finds_first(self):
        result = self.run_here("features", "build", "runs/tiny", "--sae", "topk")
        self.assertEqual(result.returncode, 0, result.stderr)
        listed = json.loads(self.run_here("features", "show", "runs/tiny", "7", "--sae", "topk", "--json").stdout)
        word = next(token.strip() for token in listed["tokens"] if len(token.strip()) > 2)
        found = json.loads(self.run_here("features", "search", "runs/tiny", word, "--sae", "topk", "--json").stdout)
        first = found["latents"][0]["latent"]
        plan = {"points": ["2"], "coefficients": ["4"]}
        by_words = self.steered(self.steer(direction=f"search:{word}", **plan))
        self.assertEqual(by_words, self.steered(self.steer(direction=f"latent:{first}", **plan)))
        (self.workspace / "plan.yaml").write_text(json.dumps({**PLAN, "direction": "search:nowhere"}))
        result = self.run_here("steer", "runs/tiny", "--sae", "topk", "--plan", "plan.yaml")
        self.expect_error(result, 78, 'no latent of topk is found by "nowhere"')

    def test_words_are_success_where_they_are_given(self):
        (self.workspace / "words.txt").write_text("the a of and to in is was\n")
        study = self.steer("--words", "words.txt", attributes=[], controls=9)
        self.assertEqual(study["success"], "share")
        rows = self.steered(study)
        chosen = study["rows"][study["chosen"]]
        self.assertEqual(chosen["share"], max(row["share"] for row in rows))
        self.assertEqual(len(study["control"]["random_pairs"]), 9)
        self.assertAlmostEqual(study["control"]["effect"], chosen["share"] - study["rows"][0]["share"], places=6)
        (self.workspace / "none.txt").write_text("# the\n")
        result = self.run_here("steer", "runs/tiny", "--sae", "topk", "--plan", "plan.yaml", "--words", "none.txt")
        self.expect_error(result, 78, "none.txt: no word in it")

    def test_the_page_has_a_heat_map_of_every_figure_and_range(self):
        study = self.steer("--page", "steering.html")
        with Browser() as browser:
            page = browser.open(self.workspace / "steering.html")
            self.assertEqual((page.problems, page.requests), ([], []))
            titles = page.evaluate("[...document.querySelectorAll('figure.chart')].map(one => one.textContent)")
            self.assertEqual(len(titles), 4)  # effect and perplexity, positions all and end
            maps = json.loads(page.evaluate(
                "JSON.stringify([...document.querySelectorAll('figure.chart')].map(one => "
                "[...one.querySelectorAll('g > title')].map(title => title.textContent)))"))
        plain = study["rows"][0]["log_odds"][0]
        for number, positions in ((0, "all"), (2, "end")):
            self.assertIn(f"positions {positions}", titles[number])
            rows = [row for row in self.steered(study) if row["positions"] == positions]
            self.assertEqual((len(maps[number]), len(rows)), (6, 6))
            for said, row in zip(maps[number], rows):
                self.assertIn(row["point"], said)
                effect = row["log_odds"][0] - plain
                number_said = float(said.replace("\u2212", "-").split(":")[-1].split()[0])
                self.assertAlmostEqual(number_said, effect, delta=0.01 * abs(effect) + 0.01)


if __name__ == "__main__":
    unittest.main()
