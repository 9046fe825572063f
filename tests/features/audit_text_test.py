"""The tools that prepare labelled text: tools/split_parallel.py and tools/man_pages_to_jsonl.py."""
import gzip
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TOOLS = Path(os.environ["THRESHER_SOURCE_DIR"]) / "tools"


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class AuditText(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="thresher-audit-"))

    def run_tool(self, name, *arguments):
        subprocess.run([sys.executable, TOOLS / name, *map(str, arguments)], check=True, capture_output=True, cwd=self.folder)

    def test_a_section_is_on_one_side_in_all_languages(self):
        for language in ("en", "fr"):
            (self.folder / language).mkdir()
            for i in range(60):
                own = f"{'An English' if language == 'en' else 'Un paragraphe'} paragraph number {i} that is long enough"
                text = f"{own}\n\nshared listing {i} that nobody ever translates\n\nshort\n"
                (self.folder / language / f"s{i}.txt").write_text(text)
        self.run_tool("split_parallel.py", "out", "en=en", "fr=fr", "--excerpt", 40)
        sides = {}
        for side in ("training", "held-out"):
            names = [{path.name for path in (self.folder / "out" / side / language).iterdir()} for language in ("en", "fr")]
            self.assertEqual(*names)
            sides[side] = names[0]
            entries = lines_of(self.folder / f"out/{side}.jsonl")
            self.assertEqual({entry["section"] + ".txt" for entry in entries}, names[0])
            self.assertEqual(len(entries), 2 * len(names[0]))  # neither the shared paragraph nor the short one
            for entry in entries:
                self.assertLessEqual(len(entry["text"]), 40)
                self.assertTrue(entry["text"].startswith("An E" if entry["language"] == "en" else "Un p"), entry)
        self.assertEqual(len(sides["training"] | sides["held-out"]), 60)
        self.assertTrue(sides["training"].isdisjoint(sides["held-out"]))
        self.assertTrue(8 <= len(sides["held-out"]) <= 28)

    def test_manual_pages_become_running_text(self):
        page = (".\\\" a comment that is long enough to be text but is none at all\n.TH X 1\n.SH NOM\n"
                "Le \\fBprogramme\\fP fait quelque chose d\\(aqutile avec ses fichiers\n.B et\nses dossiers\n.nf\n"
                "un exemple de commande qui est assez long pour compter\n.fi\n{[|]} -- 12345 67890 +-*/ 12345 67890 [][][]\n.PP\n"
                "This paragraph was never translated by anybody at all\n")
        other = page.replace("Le ", "El ")
        for language, text in (("fr", page), ("es", other)):
            path = self.folder / language / "man1/x.1.gz"
            path.parent.mkdir(parents=True)
            path.write_bytes(gzip.compress(text.encode()))
        self.run_tool("man_pages_to_jsonl.py", "out.jsonl", "fr=fr", "es=es", "--excerpt", 80)
        text = "programme fait quelque chose d'utile avec ses fichiers et ses dossiers"
        self.assertEqual(lines_of(self.folder / "out.jsonl"),
                         [{"text": f"Le {text}", "language": "fr", "section": "x.1"},
                          {"text": f"El {text}", "language": "es", "section": "x.1"}])


if __name__ == "__main__":
    unittest.main()
