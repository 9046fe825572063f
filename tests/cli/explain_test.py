"""`thresher features explain` against a scripted server: answers, errors, going on, and what is never sent."""
import json
import os
import shutil
import unittest

from chat_server import ChatServer, verdicts
from program import *

EXPLANATION = "Explanation: words about the sea"
# Latents that are silent in some of the store's texts, so that they can be scored.
ONE, TWO, THREE = (["--latents", list_] for list_ in ("17", "17,60", "17,60,90"))


def is_question(messages, kind):
    return {"explain": "Answer with one line", "detection": "would be active anywhere", "fuzzing": "marked tokens are those"}[
        kind] in messages[0]["content"]


def answer(messages):
    if is_question(messages, "explain"):
        return EXPLANATION
    return verdicts(messages[1]["content"], lambda text: True)


class Explain(TinyRunTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        result = run("features", "build", "runs/tiny", "--sae", "topk", cwd=cls.workspace)
        if result.returncode != 0:
            raise AssertionError(result.stderr)
        cls.store = cls.workspace / "runs/tiny/features/topk.sqlite"
        cls.untouched = cls.store.read_bytes()

    def setUp(self):
        self.store.write_bytes(self.untouched)
        shutil.rmtree(f"{self.store}.answers", ignore_errors=True)
        os.environ.pop("OPENAI_API_KEY", None)

    def explain(self, server, *more, code=0):
        result = self.run_here("features", "explain", "runs/tiny", "--sae", "topk", "--endpoint", server.url, "--model", "judge",
                               "--json", *more)
        self.assertEqual(result.returncode, code, result.stderr)
        return json.loads(result.stdout) if code == 0 else result

    def test_explains_and_scores_and_the_store_shows_it(self):
        with ChatServer(answer) as server:
            found = self.explain(server, *THREE)
        self.assertEqual(set(server.paths), {"/v1/chat/completions"})
        self.assertEqual({request["model"] for request in server.requests}, {"judge"})
        self.assertEqual(set(server.keys), {None})
        self.assertEqual(found["n_requests"], len(server.requests))
        self.assertEqual(found["summary"]["n_explained"], 3)
        for one in found["explanations"]:
            self.assertEqual(one["explanation"], "words about the sea")
            for score in (one["detection"], one["fuzzing"]):
                # A judge who always says yes is right about what is true and wrong about the rest.
                self.assertGreater(score["n_true"], 0)
                self.assertGreater(score["n_false"], 0)
                self.assertEqual((score["n_true_right"], score["n_false_right"]), (score["n_true"], 0))
                self.assertEqual(score["balanced_accuracy"], 0.5)
                self.assertEqual(score["n_unreadable"], 0)
            shown = self.run_here("features", "show", "runs/tiny", str(one["latent"]), "--sae", "topk", "--json")
            stored = json.loads(shown.stdout)["explanations"]
            self.assertEqual([(text["text"], text["model"]) for text in stored], [("words about the sea", "judge")])
        searched = self.run_here("features", "search", "runs/tiny", "about the sea", "--sae", "topk", "--json")
        self.assertTrue({one["latent"] for one in found["explanations"]} <= {
            one["latent"] for one in json.loads(searched.stdout)["latents"]})

    def test_texts_that_score_were_not_shown(self):
        with ChatServer(answer) as server:
            self.explain(server, *ONE)
        plain = lambda text: text.replace("<<", "").replace(">>", "")
        texts = lambda messages: {plain(line.split(": ", 1)[1]) for line in messages[1]["content"].splitlines()
                                  if line.startswith("Text ")}
        shown = set().union(*(texts(r["messages"]) for r in server.requests if is_question(r["messages"], "explain")))
        judged = set().union(*(texts(r["messages"]) for r in server.requests if not is_question(r["messages"], "explain")))
        self.assertGreater(len(shown), 1)
        self.assertGreater(len(judged), 1)
        self.assertFalse(shown & judged)

    def test_trouble_on_the_way_changes_nothing(self):
        with ChatServer(answer) as server:
            expected = self.explain(server, *TWO)
        self.setUp()
        troubles = {0: (429, {"Retry-After": "0"}, "{}"), 1: (503, {}, "busy"), 2: "drop", 4: ("raw", "<html>no</html>"),
                    5: ("raw", '{"choices": []}'), 7: "hang"}
        with ChatServer(answer, troubles.get) as server:
            found = self.explain(server, *TWO, "--timeout", "1", "--parallel", "1")
        self.assertEqual(found["explanations"], expected["explanations"])
        self.assertEqual(len(server.requests), expected["n_requests"] + len(troubles))

    def test_goes_on_where_it_was_stopped(self):
        with ChatServer(answer) as server:
            expected = self.explain(server, *THREE)
        self.setUp()
        down = lambda n: None if n < 4 else (500, {}, "down")
        with ChatServer(answer, down) as server:
            result = self.explain(server, *THREE, "--attempts", "1", "--parallel", "1", code=74)
            self.assertRegex(error_lines(result)[0], r"^error: endpoint http://127.0.0.1:\d+/v1: status 500: down \(after 1 attempts\)$")
            port = server.server.server_address[1]
        # Answers belong to the address that gave them.
        with ChatServer(answer, port=port) as again:
            found = self.explain(again, *THREE)
        self.assertEqual(found["explanations"], expected["explanations"])
        self.assertEqual(len(again.requests), expected["n_requests"] - 4)

    def test_the_key_comes_from_the_environment_and_is_kept_nowhere(self):
        os.environ["MY_KEY"] = "sk-secret-123"
        self.addCleanup(os.environ.pop, "MY_KEY")
        with ChatServer(answer) as server:
            self.explain(server, *ONE, "--key-env", "MY_KEY")
        self.assertEqual(set(server.keys), {"Bearer sk-secret-123"})
        kept = b"".join(path.read_bytes() for path in (self.workspace / "runs").rglob("*") if path.is_file())
        self.assertNotIn(b"sk-secret", kept)
        with ChatServer(answer, lambda n: (401, {}, '{"error": "bad key"}')) as server:
            result = self.explain(server, "--latents", "5", "--key-env", "MY_KEY", code=78)
        self.assertIn("status 401: {\"error\": \"bad key\"}", error_lines(result)[0])
        self.assertNotIn("sk-secret", result.stderr)
        self.assertEqual(len(server.requests), 1)

    def test_answers_that_cannot_be_read_are_counted(self):
        rude = lambda messages: EXPLANATION if is_question(messages, "explain") else "I would rather not say [1, 0]"
        with ChatServer(rude) as server:
            found = self.explain(server, *TWO)
        for one in found["explanations"]:
            self.assertIsNone(one["detection"]["balanced_accuracy"])
            self.assertGreater(one["detection"]["n_unreadable"], 0)
        self.assertIsNone(found["summary"]["detection"]["mean_balanced_accuracy"])
        self.setUp()
        with ChatServer(lambda messages: "") as server:
            found = self.explain(server, *ONE)
        self.assertIsNone(found["explanations"][0]["explanation"])
        self.assertEqual(found["explanations"][0]["problem"], "the answer holds no explanation")

    def test_hostile_answers_are_harmless(self):
        hostile = "\x1b[2J<script>alert(1)</script>\u202e" + "A" * 100000
        with ChatServer(lambda messages: f"Explanation: {hostile}") as server:
            result = self.run_here("features", "explain", "runs/tiny", "--sae", "topk", "--endpoint", server.url, "--model", "judge",
                                   *ONE)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertFalse(any(ord(c) < 32 and c != "\n" for c in result.stdout))
        self.assertNotIn("\u202e", result.stdout)
        self.assertLess(len(result.stdout), 5000)

    def test_nothing_is_sent_without_an_endpoint(self):
        command = ["features", "explain", "runs/tiny", "--sae", "topk"]
        self.expect_error(self.run_here(*command), 64, "features explain: no --endpoint, and nothing is sent without one")
        self.expect_error(self.run_here(*command, "--endpoint", "http://127.0.0.1:1/v1"), 64,
                          "features explain: --endpoint without --model")
        shown = self.run_here(*command, "--dry-run")
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertIn("nothing was sent", shown.stdout)
        self.assertIn("Text 1: ", shown.stdout)

    def test_latents_are_drawn_among_those_that_fire(self):
        with ChatServer(answer) as server:
            first = self.explain(server, "--limit", "4", "--scored", "0")
            again = self.explain(server, "--limit", "4", "--scored", "0")
            other = self.explain(server, "--limit", "4", "--scored", "0", "--seed", "7")
        drawn = [[one["latent"] for one in found["explanations"]] for found in (first, again, other)]
        self.assertEqual(drawn[0], sorted(set(drawn[0])))
        self.assertEqual(len(drawn[0]), 4)
        self.assertEqual(drawn[0], drawn[1])
        self.assertNotEqual(drawn[0], drawn[2])
        self.assertEqual(again["n_requests"], 0)
        self.assertIsNone(first["summary"]["detection"]["mean_balanced_accuracy"])

    def test_errors_of_the_command_line(self):
        with ChatServer(answer) as server:
            for arguments, first_line in (
                    (["--latents", "x"], "--latents: x is no number of a latent"),
                    (["--latents", "1000000"], "--latents: 1000000"),
                    (["--latents", "5-3"], "--latents: 5-3")):
                self.expect_error(self.run_here("features", "explain", "runs/tiny", "--sae", "topk", "--endpoint", server.url,
                                                "--model", "m", *arguments), 64, first_line)
        self.assertEqual(server.requests, [])
        self.expect_error(self.run_here("features", "explain", "runs/tiny", "--sae", "topk", "--endpoint", "localhost", "--model",
                                        "m"), 78, "endpoint localhost: not a URL")


if __name__ == "__main__":
    unittest.main()
