"""Pages of runs as a headless Chromium shows them: figures, charts, hostile names, no request; and the comparison of
runs on the terminal."""
import json

from browser import Browser
from program import *

HOSTILE = "</script><script>document.body.id='pwned'</script><img src=http://evil.example/x onerror=alert(1)>"
ROWS = "Array.from(document.querySelectorAll('tbody tr'), row => Array.from(row.cells, cell => cell.textContent))"


def rows_of(page):
    return page.evaluate(ROWS)


class Pages(TinyRunTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.make_run("--set", "sae.0.k=16", "--set", "run.name=wider")
        cls.browser = Browser().__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.browser.__exit__()
        super().tearDownClass()

    def figures(self, name):
        return json.loads((self.workspace / "runs" / name / "evaluation.json").read_text())

    def expect_quiet(self, page, scripts=2):
        """Nothing was fetched, refused or complained of, and the only scripts are the page's own."""
        self.assertEqual((page.problems, page.requests), ([], []))
        self.assertEqual(page.evaluate("document.scripts.length"), scripts)
        self.assertEqual(page.evaluate("document.querySelectorAll('img, iframe, object, link, a').length"), 0)
        self.assertEqual(page.evaluate("document.body.id"), "")

    def test_the_report_shows_figures_curves_and_provenance(self):
        page = self.browser.open(self.workspace / "runs/tiny/report.html")
        self.expect_quiet(page)
        rows = rows_of(page)
        for name, figures in self.figures("tiny").items():
            row = next(row for row in rows if row[0] == name)
            self.assertEqual(row[1:5], [f"{figures['fvu']:.4f}", f"{figures['l0']:.1f}",
                                        f"{figures['ce_recovered_mean']:.4f}", f"{figures['ce_recovered_zero']:.4f}"])
        self.assertEqual(sum(row[0].startswith("pca, ") for row in rows), 2)
        titles = page.evaluate("Array.from(document.querySelectorAll('figcaption b'), b => b.textContent)")
        self.assertEqual(titles[:2], ["batch_fvu", "loss"])
        for title in ("learning_rate", "gradient_norm", "topk", "relu_l1"):
            self.assertIn(title, titles)
        self.assertEqual(page.evaluate("document.querySelector('.chart').querySelectorAll('path.series').length"), 2)
        text = page.evaluate("document.body.textContent")
        identity = json.loads(next((self.workspace / "caches/tiny").glob("cache.json")).read_text())
        for part in ("learning_rate0.001", identity["host_model"]["fingerprint"], identity["tokenizer"],
                     identity["corpus"]["fingerprint"], "thresher run", "harvest"):
            self.assertIn(part, text)

    def test_the_pointer_reads_values_from_a_chart(self):
        page = self.browser.open(self.workspace / "runs/tiny/report.html")
        box = page.evaluate("(b => [b.left, b.top, b.width, b.height])"
                            "(document.querySelector('.chart svg').getBoundingClientRect())")
        page.move_to(box[0] + box[2] / 2, box[1] + box[3] / 2)
        shown = page.evaluate("Array.from(document.querySelectorAll('.readout span'), s => s.textContent)")
        self.assertEqual(shown, ["training tokens", "topk", "relu_l1"])
        value = float(page.evaluate("document.querySelectorAll('.readout b')[1].textContent"))
        lines = [json.loads(line) for line in (self.workspace / "runs/tiny/metrics.jsonl").read_text().splitlines()]
        curve = [line["batch_fvu"] for line in lines if line["sae"] == "topk"]
        self.assertTrue(min(curve) <= value <= max(curve), value)
        page.move_to(2, 2)
        self.assertEqual(page.evaluate("document.querySelectorAll('.readout').length"), 0)
        self.expect_quiet(page)

    def test_pages_fit_narrow_and_dark_windows(self):
        self.run_here("compare", "runs/tiny", "runs/wider", "--html", "narrow.html")
        for path in ("runs/tiny/report.html", "narrow.html"):
            papers = []
            for width, dark in ((1200, False), (380, True)):
                page = self.browser.open(self.workspace / path, width=width, dark=dark)
                self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), width, path)
                papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            self.assertNotEqual(*papers)

    def test_compare_shows_best_values_differences_and_pareto_plots(self):
        result = self.run_here("compare", "runs/tiny", "runs/wider", "--json", "--html", "both.html")
        self.assertEqual(result.returncode, 0, result.stderr)
        comparison = json.loads(result.stdout)
        self.assertEqual([sae["label"] for sae in comparison["saes"]],
                         ["tiny/topk", "tiny/relu_l1", "wider/topk", "wider/relu_l1"])
        self.assertEqual(comparison["warnings"], [])
        lowest = min(comparison["saes"], key=lambda sae: sae["metrics"]["fvu"])
        self.assertIn("fvu", lowest["best"])
        self.assertEqual(sum("fvu" in sae["best"] for sae in comparison["saes"]), 1)
        self.assertIn({"field": "k", "values": {"tiny/topk": 8, "tiny/relu_l1": None, "wider/topk": 16,
                                                "wider/relu_l1": None}}, comparison["differing_sae_fields"])
        self.assertEqual(comparison["differing_run_fields"], [])

        page = self.browser.open(self.workspace / "both.html")
        self.expect_quiet(page)
        row = next(row for row in rows_of(page) if row[0] == "wider/topk")
        self.assertEqual(row[1], f"{self.figures('wider')['topk']['fvu']:.4f}")
        self.assertIn(["k", "8", "–", "16", "–"], rows_of(page))
        titles = page.evaluate("Array.from(document.querySelectorAll('figcaption b'), b => b.textContent)")
        self.assertEqual(titles[:3], ["fvu against l0", "ce_recovered_mean against l0",
                                      "ce_recovered_zero against l0"])
        self.assertEqual(page.evaluate("document.querySelector('.chart').querySelectorAll('circle').length"), 4)
        best = page.evaluate("document.querySelectorAll('td.best').length")
        self.assertEqual(best, sum(len(sae["best"]) for sae in comparison["saes"]))

    def test_runs_that_were_not_measured_alike_get_a_warning(self):
        shutil.copytree(self.workspace / "runs/tiny", self.workspace / "runs/other-text")
        shutil.copytree(self.workspace / "runs/tiny", self.workspace / "runs/not-measured")
        (self.workspace / "runs/not-measured/evaluation.json").unlink()
        path = self.workspace / "runs/other-text/evaluation.json"
        figures = json.loads(path.read_text())
        for sae in figures.values():
            sae["contexts_sha256"] = "0" * 64
        path.write_text(json.dumps(figures))
        result = self.run_here("compare", "runs/tiny", "runs/other-text", "runs/not-measured", "--html", "unlike.html")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("warning: evaluated on different held-out text, so their metrics cannot be compared (", result.stdout)
        self.assertIn("warning: not-measured has not been evaluated: `thresher eval runs/not-measured` measures it",
                      result.stdout)
        page = self.browser.open(self.workspace / "unlike.html")
        self.assertEqual(page.evaluate("document.querySelectorAll('p.warning').length"), 2)
        self.assertIn("not evaluated", page.evaluate("document.querySelector('td[title]').title"))

    def test_hostile_names_are_shown_and_do_nothing(self):
        run_dir = self.workspace / "runs" / ("<b onclick=alert(1)>" + "\x1b]0;title\x07" + "\n..")
        shutil.copytree(self.workspace / "runs/tiny", run_dir)
        config = (run_dir / "config.resolved.yaml").read_text()
        config = config.replace("name: topk", "name: " + json.dumps(HOSTILE), 1)
        config = config.replace("weights: models/tiny.gguf", "weights: " + json.dumps("../\u2028<style>*{color:red}"), 1)
        (run_dir / "config.resolved.yaml").write_text(config)
        for name in ("metrics.jsonl", "evaluation.json", "status.json"):
            text = (run_dir / name).read_text().replace('"topk"', json.dumps(HOSTILE))
            (run_dir / name).write_text(text.replace('"message": ""', '"message": ' + json.dumps("\u202e" + HOSTILE)))
        for command in (["report", run_dir], ["compare", run_dir, "runs/wider", "--html", "hostile.html"]):
            result = self.run_here(*command)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertFalse(any(ord(c) < 32 and c != "\n" for c in result.stdout + result.stderr))
        for path in (run_dir / "report.html", self.workspace / "hostile.html"):
            page = self.browser.open(path)
            self.expect_quiet(page)
            self.assertIn(HOSTILE, page.evaluate("document.body.textContent"))
            self.assertEqual(page.evaluate("document.querySelectorAll('b[onclick], body style').length"), 0)
            self.assertIn("<b onclick=alert(1)>\\x1b]0;title\\x07\\n..", page.evaluate("document.body.textContent"))

    def test_a_page_cannot_be_a_folder(self):
        result = self.run_here("compare", "runs/tiny", "--html", ".")
        self.expect_error(result, 64, "compare: --html . is a folder")
        self.assertIn("hint: --html ./comparison.html", result.stderr)

    def test_errors_of_missing_runs_are_harmless_and_clear(self):
        self.expect_error(self.run_here("report", "runs/no\x1b[2J"), 78, r"runs/no\x1b[2J: there is no run here")
        self.expect_error(self.run_here("compare", "runs/tiny", "data"), 78, "data: there is no run here")
        self.expect_error(self.run_here("compare"), 64, "thresher compare: RUN is required")


if __name__ == "__main__":
    unittest.main()
