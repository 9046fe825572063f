"""The program on a world in which it is known which latent means what (planted_world.py)."""
import json
import os
import shutil
import sqlite3
import struct
import sys
import tempfile
import unittest
from pathlib import Path

sys.path[:0] = [str(Path(os.environ["THRESHER_SOURCE_DIR"]) / "tests" / part) for part in ("cli", "features")]
import planted_world  # noqa: E402
import numpy as np  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from program import run  # noqa: E402

TRAINED = """
schema: 1
run: {name: world, dir: runs, seed: 1, threads: 1}
corpus: {paths: [texts.jsonl], context_tokens: 64, held_out_fraction: 0.1}
host_model: {weights: world.gguf}
cache: {dir: caches/world, hook_points: [blocks.1.hook_resid_post], unit_tokens: 4096, drop_norm_above: 0}
sae: {name: topk, hook_point: blocks.1.hook_resid_post, type: topk, expansion_factor: 1, k: 3,
      dead_window_tokens: 20000}
train: {total_tokens: 600k, batch_tokens: 512, learning_rate: 3.0e-3, warmup_tokens: 20k, decay_tokens: 150k,
        checkpoint_every_tokens: 300k}
evaluation: {tokens: 1024}
"""


COEFFICIENT = 8  # the planted directions have unit norm, and a word has SCALE = 8 of each of its own


def precision_and_recall(found, true):
    return len(found & true) / max(1, len(found)), len(found & true) / len(true)


class PlantedWorld(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = Path(tempfile.mkdtemp(prefix="thresher-world-"))
        cls.truth = planted_world.make(cls.world)
        cls.concepts = [latent for latents in cls.truth["topics"].values() for latent in latents]
        cls.spare = cls.truth["spare"]

    def words(self, latent):
        return self.truth["latents"][str(latent)]

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

    def probe(self, *more):
        return self.program("probe", "--texts", "texts.jsonl", "--label-field", "topic", "--key-field", "section",
                            "--control-field", "coin", "--best", "34", "--resamples", "200", *more)

    def test_probe_finds_the_planted_latents_and_nothing_on_a_label_without_any(self):
        report = self.probe("--contrast", "bread:foxes", "--page", "page.html")
        tasks = {task["name"]: task for task in report["tasks"]}
        self.assertEqual(set(tasks), {*planted_world.TOPICS, "bread against foxes", "control: 1"})
        n_right = n_found = n_planted = 0
        for topic, planted in self.truth["topics"].items():
            found = [one for one in tasks[topic]["latents"] if one["p_holm"] <= 0.05]
            self.assertEqual(len(found), tasks[topic]["discoveries_holm"])
            n_found += len(found)
            n_planted += len(planted)
            n_right += len({one["latent"] for one in found} & set(planted))
            for one in found:
                self.assertGreater(one["tests"]["held-out"]["auroc_interval"][0], 0.75)
        self.assertGreaterEqual(n_right / n_found, 0.95)
        self.assertGreaterEqual(n_right / n_planted, 0.95)
        self.assertEqual({one["latent"] for one in tasks["bread against foxes"]["latents"][:3]},
                         set(self.truth["topics"]["bread"]))

        control = tasks["control: 1"]
        self.assertEqual(control["discoveries_holm"], 0)
        for figure in control["probes"]:
            low, high = figure["tests"]["held-out"]["auroc_interval"]
            self.assertLess(low, 0.55, figure)
            self.assertGreater(high, 0.45, figure)
        for task in tasks.values():
            chance = task["shuffled_labels"]["tests"]["held-out"]["mean_auroc"]
            self.assertAlmostEqual(chance, 0.5, delta=0.05, msg=task["name"])
        self.assertIn("bread against foxes", (self.world / "page.html").read_text())

    def test_a_plan_says_what_options_say_and_options_go_over_it(self):
        plan = {"texts": "texts.jsonl", "label_field": "topic", "key_field": "section", "control_field": "coin",
                "best": 34, "resamples": 200, "contrasts": ["maps:gears"]}
        (self.world / "probe.yaml").write_text(json.dumps(plan))  # JSON is YAML
        self.assertEqual(self.program("probe", "--plan", "probe.yaml", "--contrast", "bread:foxes"),
                         self.probe("--contrast", "bread:foxes"))
        (self.world / "bad.yaml").write_text("texts: texts.jsonl\nlable_field: topic\n")
        result = run("probe", "dictionary", "--host-model", "world.gguf", "--plan", "bad.yaml", cwd=self.world)
        self.assertEqual(result.returncode, 78, result.stderr)
        self.assertIn("bad.yaml:2:1: unknown key lable_field", result.stderr)

    def test_a_given_direction_tells_what_it_is_of(self):
        rows = load_file(self.world / "dictionary/sae_weights.safetensors")["W_dec"]
        np.save(self.world / "bread.npy", rows[self.truth["topics"]["bread"]].sum(0))
        save_file({"spare": rows[self.spare[0]]}, self.world / "spare.safetensors")
        words = {topic: self.words(planted[0]) for topic, planted in self.truth["topics"].items()}
        pairs = zip(words["bread"], words["foxes"])
        (self.world / "means.txt").write_text("".join(f" {a} {a}| {b} {b}\n" for a, b in pairs))
        names = ["bread.npy", "spare.safetensors", "means:means.txt", f"latent:{self.truth['topics']['bread'][0]}"]
        report = self.probe("--contrast", "bread:foxes", *[word for name in names for word in ("--direction", name)])
        tasks = {task["name"]: task for task in report["tasks"]}
        for task, least in (("bread against foxes", {"bread.npy", "means:means.txt", names[3]}), ("control: 1", set())):
            figures = {one["method"]: one["tests"]["held-out"] for one in tasks[task]["probes"]
                       if one["family"] == "direction"}
            self.assertEqual(list(figures), names)
            for name, figure in figures.items():
                if name in least:
                    self.assertGreater(figure["auroc"], 0.9, name)
                else:
                    self.assertLess(figure["auroc_interval"][0], 0.6, name)
        self.expect_error(64, "bread.npz is no direction", "--texts", "texts.jsonl", "--label-field", "topic",
                          "--direction", "bread.npz")

    def test_probe_says_where_a_latent_is_no_better(self):
        """One word tells the topics apart, so counting tokens is as good as any latent."""
        lines = [json.dumps({"text": text + f" {i}", "label": label}) for i in range(40)
                 for text, label in ((" bread" * 9, "a"), (" maps" * 9, "b"))]
        (self.world / "easy.jsonl").write_text("\n".join(lines))
        task = self.program("probe", "--texts", "easy.jsonl")["tasks"][0]
        outcomes = {one["baseline"]: one["outcome"] for one in task["best_latent_against"]["held-out"]}
        self.assertEqual(outcomes["tokens, logistic"], "no better")
        self.assertIn("It is NO BETTER than", task["sentences"][0])

    def test_the_same_command_gives_the_same_bytes(self):
        self.assertEqual(self.probe(), self.probe())
        self.assertNotEqual(self.probe(), self.probe("--seed", "1"))

    def test_geometry_of_orthogonal_directions(self):
        true, random = self.program("geometry")["decoders"]
        self.assertEqual((true["name"], true["directions"], true["width"]), ("dictionary", 64, 64))
        self.assertEqual((random["is_random"], random["directions"]), (True, 64))
        self.assertLess(true["nearest_cosine"]["max"], 1e-5)
        self.assertGreater(random["nearest_cosine"]["median"], 0.2)
        self.assertAlmostEqual(random["mean_squared_cosine"], 1 / 64, delta=0.002)
        self.assertEqual(sum(true["cosine_counts"]), 64 * 63 // 2)

    def test_word_pairs_find_the_concept_that_tells_them_apart(self):
        """The words of two concepts of one topic, with the same background: the unembedding's rows differ in nothing
        else, and their direction tells the topics apart."""
        words = {topic: [self.truth["latents"][str(latent)] for latent in planted]
                 for topic, planted in self.truth["topics"].items()}
        pairs = [pair for concept in range(3) for pair in zip(words["bread"][concept], words["foxes"][concept])]
        (self.world / "bread-foxes.txt").write_text("".join(f"{a} {b}\n" for a, b in pairs) + "ba bo\n")
        concept = self.program("geometry", "--word-pairs", "bread-foxes.txt")["word_pairs"][0]
        self.assertEqual((concept["name"], concept["pairs"]), ("bread-foxes", 24))
        self.assertGreater(concept["alignment"], concept["random_alignment_p95"])
        report = self.probe("--contrast", "foxes:bread", "--word-pairs", "bread-foxes.txt")
        tasks = {task["name"]: task for task in report["tasks"]}
        for task, is_found in (("foxes against bread", True), ("control: 1", False)):
            figures = [one for one in tasks[task]["probes"] if one["family"] == "direction"]
            self.assertEqual([one["method"] for one in figures],
                             ["bread-foxes (reading)", "bread-foxes (inverse covariance)"])
            for one in figures:
                figure = one["tests"]["held-out"]["auroc"]
                self.assertGreater(figure, 0.95) if is_found else self.assertLess(figure, 0.7)
        (self.world / "few.txt").write_text("ba bo\n")
        self.expect_error(78, "few.txt: 0 pairs of words that are one token each", "--texts", "texts.jsonl",
                          "--label-field", "topic", "--word-pairs", "few.txt")

    def build_store(self, store, *subject):
        result = run("features", "build", *subject, "--text", "texts.jsonl", "--out", store, "--top", "1000",
                     cwd=self.world)
        self.assertEqual(result.returncode, 0, result.stderr)

    def rows(self, store, query):
        database = sqlite3.connect(self.world / store)
        found = database.execute(query).fetchall()
        database.close()
        return found

    def contexts(self, store):
        """{(latent, context)} of the strongest contexts, of which the store was told to keep all."""
        return set(self.rows(store, "SELECT latent, context FROM examples WHERE kind = 0"))

    def firings(self, store, latents):
        """{(latent, context)}: where a word of a latent stands, read off the tokens of the store's contexts."""
        latents_of = {id: [latent for latent in latents if word in self.words(latent)]
                      for word, id in self.truth["word_ids"].items()}
        out = set()
        for context, blob in self.rows(store, "SELECT id, token_ids FROM contexts"):
            ids = struct.unpack(f"<{len(blob) // 4}i", blob)
            out |= {(latent, context) for id in ids[1:] for latent in latents_of[id]}  # the first is dropped
        return out

    def show(self, store, latent):
        result = run("features", "show", store, latent, "--json", cwd=self.world)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def test_the_store_of_the_true_dictionary_holds_the_contexts_in_which_a_feature_is_on(self):
        self.build_store("true.sqlite", "dictionary", "--host-model", "world.gguf")
        contexts, true = self.contexts("true.sqlite"), self.firings("true.sqlite", self.concepts)
        self.assertEqual({latent for latent, _ in contexts}, set(self.concepts + self.truth["backgrounds"]))
        found = {(latent, context) for latent, context in contexts if latent in self.concepts}
        for figure in precision_and_recall(found, true):
            self.assertGreaterEqual(figure, 0.95)
        following = dict(zip(self.concepts, self.concepts[1:] + self.concepts[:1]))
        wrong = {(following[latent], context) for latent, context in true}
        self.assertLess(precision_and_recall(found, wrong)[0], 0.9)  # another latent's contexts are other ones
        for latent in self.concepts[:3]:
            words, shown = set(self.words(latent)), self.show("true.sqlite", latent)
            top = [example for example in shown["examples"] if example["kind"] == "top"]
            self.assertGreater(len(top), 20)
            for example in top:
                on = {token.strip() for token, value in zip(example["tokens"], example["activations"]) if value > 0}
                self.assertTrue(on and on <= words, (latent, on))
            self.assertEqual({token["token"].strip() for token in shown["promoted"] if token["effect"] > 0.1}, words)
        shown = self.show("true.sqlite", self.spare[0])
        self.assertEqual(shown["n_fired"], 0)
        self.assertLess(max(abs(token["effect"]) for token in shown["promoted"]), 1e-5)

    def steer(self, first, others, subject=("dictionary", "--host-model", "world.gguf"), latent_of=None):
        """The study that steers by `first`, with the matrix of the others; an attribute is a concept's words against
        those of all others. Prompts end in words without a concept. `latent_of` says which latent of the subject
        stands for a planted one."""
        direction = {one: f"latent:{latent_of[one] if latent_of else one}" for one in [first, *others]}
        attributes = [{"name": str(latent), "positive": [f" {word}" for word in self.words(latent)],
                       "negative": [f" {word}" for other in self.concepts if other != latent
                                    for word in self.words(other)]}
                      for latent in [first, *(one for one in self.concepts if one != first)]
                      if latent in self.concepts]
        background = [word for word in self.truth["word_ids"] if not any(word in self.words(one)
                                                                         for one in self.concepts)]
        plan = {"direction": direction[first], "others": [direction[one] for one in others],
                "coefficients": [str(COEFFICIENT)], "points": [planted_world.HOOK_POINT], "attributes": attributes,
                "prompts": [f"{self.words(self.concepts[i])[0]} {word}" for i, word in enumerate(background)],
                "max_tokens": 8, "temperature": 1, "most_perplexity": 1000, "controls": 99}
        (self.world / "plan.yaml").write_text(json.dumps(plan))  # JSON is YAML
        result = run("steer", *subject, "--plan", "plan.yaml", "--json", cwd=self.world)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def moved(self, study, directions):
        """{(direction, concept)}: which concepts' odds rise by a nat or more, and all effects."""
        effects = {(direction, int(name)): effect for direction, row in zip(directions, study["matrix"])
                   for name, effect in zip(study["attributes"], row["effects"])}
        return {pair for pair, effect in effects.items() if effect >= 1}, effects

    def share_of_words(self, study, latent, name):
        texts = next(row for row in study["rows"] if row["name"] == name)["texts"]
        made = [word for text in texts for word in text.split()]
        return sum(word in self.words(latent) for word in made) / len(made)

    def test_steering_along_a_planted_direction_raises_its_concept_and_no_other(self):
        first, *rest = self.concepts
        study = self.steer(first, rest + self.spare)
        found, effects = self.moved(study, [first, *rest, *self.spare])
        for figure in precision_and_recall(found, {(latent, latent) for latent in self.concepts}):
            self.assertGreaterEqual(figure, 0.95)
        for spare in self.spare:
            for concept in self.concepts:
                self.assertAlmostEqual(effects[spare, concept], 0, delta=0.05)
        self.assertEqual(study["control"]["random_pairs_below"], 99)
        self.assertEqual(study["control"]["isotropic_below"], 99)
        self.assertGreater(self.share_of_words(study, first, "steered"), 0.5)
        self.assertLess(self.share_of_words(study, first, "plain"), 0.3)

    def test_steering_along_an_unplanted_direction_is_chance(self):
        study = self.steer(self.spare[0], [])
        self.assertGreater(study["control"]["isotropic_below"], 20)
        self.assertLess(study["control"]["isotropic_below"], 80)

    def test_a_trained_sae_has_a_latent_for_every_planted_direction(self):
        (self.world / "world.yaml").write_text(TRAINED)
        result = run("run", "world.yaml", cwd=self.world, timeout=240)
        self.assertEqual(result.returncode, 0, result.stderr)
        result = run("probe", "runs/world", "--texts", "texts.jsonl", "--label-field", "topic", "--key-field", "section",
                     "--control-field", "coin", "--best", "64", "--resamples", "100", "--json", cwd=self.world)
        tasks = {task["name"]: task for task in json.loads(result.stdout)["tasks"]}
        true = load_file(self.world / "dictionary/sae_weights.safetensors")["W_dec"]
        learned = load_file(self.world / "runs/world/sae/topk/sae_weights.safetensors")["W_dec"]
        cosines = learned @ true.T
        n_found = n_right = n_planted = 0
        right = set()
        for topic, planted in self.truth["topics"].items():
            found = [one["latent"] for one in tasks[topic]["latents"] if one["p_holm"] <= 0.05]
            pairs = {(latent, int(cosines[latent].argmax())) for latent in found if cosines[latent].max() > 0.9}
            n_found += len(found)
            n_planted += len(planted)
            n_right += sum(direction in planted for _, direction in pairs)
            right |= {direction for _, direction in pairs if direction in planted}
        print(f"trained SAE: recall {len(right) / n_planted:.2f}, precision {n_right / n_found:.2f}", file=sys.stderr)
        self.tell_store_and_steering(dict(enumerate(cosines.argmax(0).tolist())))
        self.assertGreaterEqual(len(right) / n_planted, 0.95)
        self.assertEqual(tasks["control: 1"]["discoveries_holm"], 0)

    def tell_store_and_steering(self, latent_of):
        """The figures of the tests above with the learned latents nearest to the planted ones."""
        self.build_store("trained.sqlite", "runs/world")
        contexts = self.contexts("trained.sqlite")
        found = {(latent, context) for latent in self.concepts for one, context in contexts if one == latent_of[latent]}
        stored = precision_and_recall(found, self.firings("trained.sqlite", self.concepts))
        study = self.steer(self.concepts[0], self.concepts[1:], ("runs/world",), latent_of)
        steered = precision_and_recall(self.moved(study, self.concepts)[0], {(one, one) for one in self.concepts})
        for what, (precision, recall) in (("contexts", stored), ("steering", steered)):
            print(f"trained SAE, {what}: recall {recall:.2f}, precision {precision:.2f}", file=sys.stderr)

    def expect_error(self, code, first_line, *arguments):
        result = run("probe", "dictionary", "--host-model", "world.gguf", *arguments, cwd=self.world)
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertIn(f"error: {first_line}", result.stderr.splitlines())

    def test_mistakes_are_named(self):
        texts = ["--texts", "texts.jsonl", "--label-field", "topic"]
        self.expect_error(64, "thresher probe: labelled texts come either by --texts or by --group")
        self.expect_error(64, "--group fr", "--group", "fr")
        self.expect_error(78, "probe: there is no label brad", *texts, "--contrast", "brad:foxes")
        self.expect_error(65, "texts.jsonl:1: no field label", "--texts", "texts.jsonl")
        self.expect_error(78, "probe: the training documents have 1 label(s)", "--group", "x=texts.jsonl")


if __name__ == "__main__":
    unittest.main()
