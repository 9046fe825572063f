"""`thresher serve`: the API, the page that steers, and requests that nobody honest would send."""
import http.client
import json
import os
import signal
import socket
import subprocess
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from browser import Browser
from program import *

PROMPT = "The old sailor watched the harbour"


class Server:
    """The program, serving; `url` is where."""

    def __init__(self, workspace, *more):
        self.process = subprocess.Popen([PROGRAM, "serve", "runs/tiny", "--sae", "topk", "--port", "0", *more], cwd=workspace,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            raise AssertionError(self.process.stderr.read())
        self.host, port = self.url.removeprefix("http://").strip("/").split(":")
        self.port = int(port)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(20)
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def ask(self, method, path, body=None, headers=None):
        """(status, headers, body as text)."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        headers = dict(headers or {})
        if body is not None and not isinstance(body, (str, bytes)):
            body, headers = json.dumps(body), {"Content-Type": "application/json", **headers}
        connection.putrequest(method, path, skip_host="Host" in headers)
        if body is not None:
            body = body.encode() if isinstance(body, str) else body
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        reply = connection.getresponse()
        text = reply.read().decode()
        connection.close()
        return reply.status, reply.headers, text

    def json(self, method, path, body=None, status=200):
        found, _, text = self.ask(method, path, body)
        if found != status:
            raise AssertionError(f"{method} {path}: status {found}: {text[:500]}")
        return json.loads(text)

    def raw(self, data, ends=True):
        """What comes back for these bytes; `ends`: nothing more will be sent."""
        with socket.create_connection((self.host, self.port), timeout=20) as one:
            one.sendall(data)
            if ends:
                one.shutdown(socket.SHUT_WR)
            parts = []
            try:
                while piece := one.recv(65536):
                    parts.append(piece)
            except ConnectionResetError:
                pass
            return b"".join(parts)


class Serve(TinyRunTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        result = run("features", "build", "runs/tiny", "--sae", "topk", cwd=cls.workspace)
        if result.returncode != 0:
            raise AssertionError(result.stderr)
        cls.server = Server(cls.workspace)

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        super().tearDownClass()
        if code != 0:
            raise AssertionError(f"exit {code} after an interrupt")

    def names(self):
        facts = self.server.json("GET", "/api/facts")
        return facts["modelId"], facts["layer"]

    def test_a_feature_in_neuronpedias_shape_is_that_of_the_store(self):
        model, layer = self.names()
        self.assertEqual((model, layer), ("tiny", "2-topk"))
        for latent in (0, 3, 17):
            shown = json.loads(self.run_here("features", "show", "runs/tiny", str(latent), "--sae", "topk", "--json").stdout)
            found = self.server.json("GET", f"/api/feature/{model}/{layer}/{latent}")
            self.assertEqual((found["modelId"], found["layer"], found["index"]), (model, layer, str(latent)))
            self.assertEqual(found["frac_nonzero"], shown["density"])
            for activation in found["activations"]:
                self.assertEqual(len(activation["tokens"]), len(activation["values"]))
                self.assertEqual(activation["maxValue"], max(activation["values"]))
                self.assertEqual(activation["values"][activation["maxValueTokenIndex"]], activation["maxValue"])
            self.assertEqual(len(found["pos_str"]), len(found["pos_values"]))
            self.assertGreater(len(found["pos_str"]), 0)
            self.assertEqual(found["pos_values"], sorted(found["pos_values"], reverse=True))
            self.assertEqual(len(found["freq_hist_data_bar_values"]), len(found["freq_hist_data_bar_heights"]))
        for path in (f"/api/feature/{model}/{layer}/100000000", f"/api/feature/gpt2/{layer}/0", f"/api/feature/{model}/9-x/0",
                     f"/api/feature/{model}/{layer}/x", f"/api/feature/{model}/{layer}/-1"):
            self.assertIn("error", self.server.json("GET", path, status=404))

    def test_search_finds_what_the_command_finds(self):
        found = self.server.json("POST", "/api/explanation/search", {"query": "the"})
        expected = json.loads(self.run_here("features", "search", "runs/tiny", "the", "--sae", "topk", "--limit", "20", "--json").stdout)
        self.assertEqual([one["index"] for one in found["results"]], [str(one["latent"]) for one in expected["latents"]])
        self.assertEqual(found["resultsCount"], len(found["results"]))
        if found["hasMore"]:
            more = self.server.json("POST", "/api/explanation/search", {"query": "the", "offset": found["nextOffset"]})
            self.assertFalse({one["index"] for one in more["results"]} & {one["index"] for one in found["results"]})
        for query in ('"', "NEAR(", "a OR b", "*", "' OR 1=1 --", "tokens:a", "<script>", "\u202e"):
            self.server.json("POST", "/api/explanation/search", {"query": query})
        for body in ({}, {"query": ""}, {"query": 5}, {"query": "a" * 1001}, {"query": "a", "offset": -1}, {"query": "a", "offset": 0.5}):
            self.assertIn("error", self.server.json("POST", "/api/explanation/search", body, status=400))

    def test_steering_answers_with_both_texts(self):
        generated = json.loads(self.run_here("generate", "runs/tiny", "--prompt", PROMPT, "--max-tokens", "12", "--json").stdout)
        plain = generated["generated"][0]["text"]
        body = {"prompt": PROMPT, "n_tokens": 12, "temperature": 0, "freq_penalty": 0, "seed": 1, "strength_multiplier": 4, "features": []}
        answer = self.server.json("POST", "/api/steer", body)
        self.assertEqual(answer["DEFAULT"].replace("\n", "\\n"), plain)
        self.assertEqual(answer["STEERED"], answer["DEFAULT"])
        different = 0
        for latent in range(5):
            body["features"] = [{"modelId": "tiny", "layer": "2-topk", "index": latent, "strength": 100}]
            answer = self.server.json("POST", "/api/steer", body)
            self.assertEqual(answer["DEFAULT"].replace("\n", "\\n"), plain)
            different += answer["STEERED"] != answer["DEFAULT"]
        self.assertGreater(different, 0)

    def test_steering_refuses_what_makes_no_sense(self):
        good = {"prompt": PROMPT, "features": [{"index": 0, "strength": 1}]}
        for change in ({"prompt": ""}, {"prompt": None}, {"prompt": "a" * 20000}, {"n_tokens": 0}, {"n_tokens": 100000}, {"temperature": -1},
                       {"temperature": "hot"}, {"features": 5}, {"features": [5]}, {"features": [{"strength": 1}]},
                       {"features": [{"index": 10**9, "strength": 1}]}, {"features": [{"index": 0.5, "strength": 1}]},
                       {"features": [{"index": 0, "strength": 1e300}]}, {"features": [{"index": 0}] * 65}, {"freq_penalty": 1}):
            self.assertIn("error", self.server.json("POST", "/api/steer", {**good, **change}, status=400), change)

    def test_only_the_page_itself_may_ask(self):
        status, _, _ = self.server.ask("GET", "/api/facts", headers={"Host": "evil.example"})
        self.assertEqual(status, 403)
        for host in ("localhost", f"localhost:{self.server.port}", f"127.0.0.1:{self.server.port}"):
            self.assertEqual(self.server.ask("GET", "/api/facts", headers={"Host": host})[0], 200, host)
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            status, _, _ = self.server.ask("POST", "/api/steer", '{"prompt": "a", "features": []}', {"Content-Type": kind})
            self.assertIn(status, (400, 415), kind)
        _, headers, _ = self.server.ask("GET", "/api/facts")
        self.assertIsNone(headers["Access-Control-Allow-Origin"])
        self.assertEqual(headers["X-Content-Type-Options"], "nosniff")

    def test_no_path_leads_to_a_file(self):
        secret = self.workspace / "secret.txt"
        secret.write_text("never to be seen")
        for path in ("/secret.txt", "/../secret.txt", "/../../../../etc/passwd", "/%2e%2e/%2e%2e/secret.txt", "/..%2fsecret.txt", "//etc/passwd",
                     "/runs/tiny/features/topk.sqlite", "/api/feature/../../secret.txt", "/\\..\\secret.txt", "/%00", "/steer/../secret.txt",
                     "/api/feature/tiny/..%2f..%2fsecret/0"):
            reply = self.server.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode(), ends=False)
            self.assertRegex(reply.split(b"\r\n")[0], rb"^HTTP/1.1 40[04] ", path)
            self.assertNotIn(b"never to be seen", reply)
            self.assertNotIn(b"root:", reply)

    def test_malformed_requests_are_survived(self):
        host = b"Host: localhost\r\n"
        post = b"POST /api/explanation/search HTTP/1.1\r\n" + host + b"Content-Type: application/json\r\n"
        for data in (b"", b"\r\n\r\n", b"GET", b"GET / HTTP/9.9\r\n\r\n", b"\x00\xff" * 500, b"GET / HTTP/1.1\r\n" + host + b"X: " + b"a" * 100000 + b"\r\n\r\n",
                     b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n" + host + b"\r\n", post + b"Content-Length: 99999999999999999999\r\n\r\n{}",
                     post + b"Content-Length: -1\r\n\r\n{}", post + b"Content-Length: 50\r\n\r\n{}", post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
                     b"GET /api/facts HTTP/1.1\r\n" + host + b"Range: bytes=0-99999999999999999999,5-1,a\r\n\r\n"):
            self.server.raw(data)
            self.assertEqual(self.server.process.poll(), None, data[:60])
        for body in ("", "{", "[]", '"a"', "[" * 100000, '{"query": "a", "query": "b"}', '{"query": "\ud800"}'.encode("utf-8", "surrogatepass"), b"\xff\xfe",
                     '{"query": "a"} x'):
            status, _, text = self.server.ask("POST", "/api/explanation/search", body, {"Content-Type": "application/json"})
            self.assertEqual(status, 400, body[:50])
            self.assertIn("error", json.loads(text))
        status, _, _ = self.server.ask("POST", "/api/explanation/search", "x" * (2 << 20), {"Content-Type": "application/json"})
        self.assertEqual(status, 413)
        self.server.json("GET", "/api/facts")

    def test_many_at_once(self):
        model, layer = self.names()
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda i: self.server.json("GET", f"/api/feature/{model}/{layer}/{i % 20}")["index"], range(200)))
        self.assertEqual(found, [str(i % 20) for i in range(200)])

    def test_it_listens_on_this_machine_alone(self):
        self.assertEqual(self.server.host, "127.0.0.1")
        listening = [line.split()[1] for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
                     if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == self.server.port]
        self.assertEqual([address.split(":")[0] for address in listening], ["0100007F"])

    def test_the_page_finds_latents_and_shows_both_texts(self):
        with Browser() as browser:
            page = browser.open(self.server.url + "steer?latent=3")
            self.wait(page, "document.querySelectorAll('#chosen li').length === 1")
            page.evaluate("document.getElementById('query').value = 'the'; document.getElementById('search').click()")
            self.wait(page, "document.querySelectorAll('#found li').length > 0")
            page.evaluate("document.querySelector('#found button').click()")
            page.evaluate(f"document.getElementById('prompt').value = {json.dumps(PROMPT)}")
            page.evaluate("document.getElementById('go').click()")
            self.wait(page, "document.getElementById('steered').textContent.length > 0", 60)
            self.assertTrue(page.evaluate("document.getElementById('plain').textContent").startswith(PROMPT))
            self.assertEqual(page.problems, [])
            self.assertTrue(all(address.startswith(self.server.url) for address in page.requests), page.requests)
            if "THRESHER_SCREENSHOTS" in os.environ:
                page.screenshot(Path(os.environ["THRESHER_SCREENSHOTS"]) / "steer-page.png")
            home = browser.open(self.server.url)
            self.assertEqual(home.evaluate("document.body.dataset.ready"), "yes")
            self.assertEqual(home.problems, [])

    def wait(self, page, condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not page.evaluate(condition):
            self.assertLess(time.monotonic(), deadline, (condition, page.evaluate("document.getElementById('status').textContent")))
            time.sleep(0.1)

    def test_without_the_model_and_errors(self):
        server = Server(self.workspace, "--no-model")
        try:
            self.assertIn("without the host model", server.json("POST", "/api/steer", {"prompt": "a", "features": []}, status=503)["error"])
            result = self.run_here("serve", "runs/tiny", "--sae", "topk", "--no-model", "--port", str(server.port))
            self.expect_error(result, 74, f"serve: 127.0.0.1:{server.port} cannot be listened on")
        finally:
            self.assertEqual(server.stop(), 0)
        self.assertEqual(self.run_here("serve", "nowhere").returncode, 78)


if __name__ == "__main__":
    unittest.main()
