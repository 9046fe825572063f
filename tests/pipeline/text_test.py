"""The same text, however it comes, gives the same cache: plain files, packed JSON lines, standard input, with the
tokenizer of the GGUF or as a tokenizer.json. What is wrong with text is told once, with the right exit code."""
import gzip
import json

from harness import *


def tokenizer_json(gguf_file):
    """The tokenizer of a GGUF in the form of Hugging Face."""
    from gguf import GGUFReader
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    fields = GGUFReader(gguf_file).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"].contents()
    tokenizer.add_special_tokens([token for token, kind in zip(tokens, types) if kind == 3])
    return tokenizer.to_str()


class TextTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = make_workspace("text")
        texts = [path.read_text() for path in sorted((cls.workspace / "text").glob("*.txt"))]
        cls.lines = "".join(json.dumps({"id": i, "meta": {"body": text}}) + "\n" for i, text in enumerate(texts)).encode()
        cls.harvest("plain")
        cls.reference = digests(cls.workspace / "plain", CACHE_PATTERNS)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.workspace)

    @classmethod
    def start(cls, command, place, *settings, stdin=b"", ranks=None):
        """Runs a command with bytes as standard input; returns exit code and stderr."""
        line = [str(PROGRAM), command, *experiment(cls.workspace, place)]
        for setting in settings:
            line += ["--set", setting]
        done = subprocess.run((["mpirun", "-n", str(ranks)] if ranks else []) + line, input=stdin, capture_output=True,
                              timeout=300, check=False)
        return done.returncode, done.stderr.decode()

    @classmethod
    def harvest(cls, place, *settings, **options):
        code, stderr = cls.start("harvest", place, *settings, **options)
        if code != 0:
            raise AssertionError(f"{place}: exit {code}\n{stderr[-3000:]}")
        return stderr

    def expect_error(self, code, first_line, place, *settings, **options):
        found, stderr = self.start("harvest", place, *settings, **options)
        self.assertEqual([line for line in stderr.splitlines() if line.startswith("error: ")], [f"error: {first_line}"], stderr)
        self.assertEqual(found, code, stderr)

    def test_packed_json_lines_are_the_same_corpus(self):
        file = self.workspace / "lines.jsonl.gz"
        file.write_bytes(gzip.compress(self.lines))
        self.harvest("lines", f"corpus.paths=[{file}]", "corpus.field=meta.body")
        self.assertEqual(digests(self.workspace / "lines", CACHE_PATTERNS), self.reference)

    def test_standard_input_under_mpirun_is_the_same_corpus_and_can_be_continued(self):
        settings = ["corpus.paths=['-']", "corpus.format=jsonl", "corpus.field=meta.body"]
        self.harvest("piped", *settings, stdin=gzip.compress(self.lines), ranks=2)
        self.assertEqual(digests(self.workspace / "piped", CACHE_PATTERNS), self.reference)
        kept = self.workspace / "piped/cache.stdin"
        self.assertEqual(gzip.decompress(kept.read_bytes()), self.lines)
        # Without the pipe, the kept text serves: training, evaluation, and measuring the run again.
        code, stderr = self.start("run", "piped", *settings)
        self.assertEqual(code, 0, stderr)
        run_dir = next((self.workspace / "piped/runs").iterdir())
        evaluation = (run_dir / "evaluation.json").read_bytes()
        thresher("eval", run_dir)
        self.assertEqual(strip_speeds(json.loads((run_dir / "evaluation.json").read_bytes())),
                         strip_speeds(json.loads(evaluation)))
        self.expect_error(78, f"corpus.paths: standard input is not the text that '{kept}' keeps", "piped", *settings,
                          stdin=b'{"meta": {"body": "other text"}}\n')

    def test_standard_input_that_could_not_be_read_is_replaced(self):
        settings = ["corpus.paths=['-']", "corpus.format=jsonl", "corpus.field=meta.body"]
        packed = gzip.compress(self.lines)
        kept = self.workspace / "again/cache.stdin"
        self.expect_error(65, f"{kept}: the file ends at byte 5000 within its gzip data", "again", *settings,
                          stdin=packed[:5000])
        self.harvest("again", *settings, stdin=packed)
        self.assertEqual(digests(self.workspace / "again", CACHE_PATTERNS), self.reference)

    def test_an_empty_standard_input_is_an_error(self):
        self.expect_error(78, "corpus.paths: '-' is standard input, which is empty", "empty", "corpus.paths=['-']")

    def test_a_tokenizer_json_gives_the_same_tokens(self):
        folder = self.workspace / "hugging face <b>"
        folder.mkdir()
        (folder / "tokenizer.json").write_text(tokenizer_json(self.workspace / "tiny.gguf"))
        self.harvest("json", f"corpus.tokenizer={folder}")
        ours = {name: digest for name, digest in digests(self.workspace / "json", CACHE_PATTERNS).items() if "shards" in name}
        self.assertEqual(ours, {name: digest for name, digest in self.reference.items() if "shards" in name})

    def test_a_tokenizer_of_another_model_is_an_error(self):
        data = json.loads(tokenizer_json(self.workspace / "tiny.gguf"))
        data["model"]["vocab"] = {token: id + 5000 for token, id in data["model"]["vocab"].items()}
        for token in data["added_tokens"]:
            token["id"] += 5000
        (self.workspace / "other.json").write_text(json.dumps(data))
        _, stderr = self.start("harvest", "other", f"corpus.tokenizer={self.workspace / 'other.json'}")
        self.assertRegex(stderr, r"error: the text has token \d+, the host model embeds 459 tokens")

    def test_bad_lines_stop_or_are_counted_once(self):
        lines = self.lines.replace(b'{"id": 3,', b'{"id": 3, <script>', 1)
        file = self.workspace / "bad.jsonl"
        file.write_bytes(lines)
        settings = [f"corpus.paths=[{file}]", "corpus.field=meta.body"]
        self.expect_error(65, f"{file}:4: not valid JSON at column 11: parsing object key - invalid literal",
                          "bad", *settings)
        stderr = self.harvest("bad", *settings, "corpus.bad_lines=skip", "comm.backend=threads", "comm.ranks=2")
        self.assertEqual(stderr.count("1 bad lines were left out"), 1, stderr)

    def test_odd_bytes_are_told_once(self):
        text = self.lines.replace(b"\\n", b" caf\xe9 \0 ")
        file = self.workspace / "odd.txt"
        file.write_bytes(text)
        stderr = self.harvest("odd", f"corpus.paths=[{file}]", "corpus.held_out_fraction=0", "comm.backend=threads",
                              "comm.ranks=2")
        count = text.count(b"\0")
        self.assertEqual(stderr.count(f"the text has {count} NUL bytes, {count} bytes that are not UTF-8"), 1, stderr)

    def test_a_truncated_file_is_an_error(self):
        packed = gzip.compress(self.lines)
        file = self.workspace / "short.jsonl.gz"
        file.write_bytes(packed[:5000])
        self.expect_error(65, f"{file}: the file ends at byte 5000 within its gzip data", "short", f"corpus.paths=[{file}]",
                          "corpus.field=meta.body")


def strip_speeds(value):
    if isinstance(value, dict):
        return {key: strip_speeds(item) for key, item in value.items() if "second" not in key}
    return [strip_speeds(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    unittest.main()
