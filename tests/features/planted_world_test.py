"""The program on a world in which it is known which latent means what (planted_world.py)."""
import json
import os
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

sys.path[:0] = [str(Path(os.environ["THRESHER_SOURCE_DIR"]) / "tests" / part) for part in ("cli", "features")]
import planted_world  # noqa: E402
from program import run  # noqa: E402


class PlantedWorld(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = Path(tempfile.mkdtemp(prefix="thresher-world-"))
        cls.truth = planted_world.make(cls.world)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.world)

    def program(self, *arguments, **options):
        """The JSON that a command prints about the true dictionary."""
        command, *rest = arguments
        result = run(command, "dictionary", "--host-model", "world.gguf", *rest, "--json", cwd=self.world, **options)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def test_a_word_activates_the_latents_planted_in_it_and_no_others(self):
        planted = {}
        for latent, words in self.truth["latents"].items():
            for word in words:
                planted.setdefault(self.truth["word_ids"][word], set()).add(int(latent))
        text = json.loads((self.world / "texts.jsonl").read_text().splitlines()[0])["text"]
        tokens = self.program("encode", "--text", text, "--top", "64")["tokens"]
        self.assertEqual(len(tokens), planted_world.WORDS_PER_TEXT)
        for token in tokens[1:]:  # the first position is dropped
            found = {entry["latent"] for entry in token["saes"]["dictionary"]["latents"]}
            self.assertEqual(found, planted[token["id"]], token["text"])


if __name__ == "__main__":
    unittest.main()
