"""The program on a host model from a Hugging Face folder, and in bfloat16."""
import json
import sys

from harness import *

sys.path.insert(0, str(SOURCE / "tests/host_model"))
from hf_twin import load_twin  # noqa: E402


class HostFolder(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.workspace = make_workspace("host-folder")
        model = load_twin(cls.workspace / "tiny.gguf")
        model.save_pretrained(cls.workspace / "tiny-1.5", max_shard_size="100KB")
        cls.folder = ["--set", f"host_model.weights={cls.workspace / 'tiny-1.5'}",
                      "--set", f"corpus.tokenizer={cls.workspace / 'tiny.gguf'}"]
        cls.bfloat16 = ["--set", "host_model.dtype=bfloat16"]

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.workspace)

    def harvest(self, place, *options, **how):
        thresher("harvest", *experiment(self.workspace, place), *options, **how)
        return digests(self.workspace / place / "cache", ["shards/*"])

    def test_a_sharded_folder_gives_the_shards_of_the_gguf_file(self):
        self.assertTrue((self.workspace / "tiny-1.5/model.safetensors.index.json").exists())
        from_gguf = self.harvest("gguf")
        self.assertGreater(len(from_gguf), 1)
        self.assertEqual(self.harvest("folder", *self.folder), from_gguf)

    def test_bfloat16_gives_the_same_bytes_on_any_number_of_ranks_and_threads(self):
        alone = self.harvest("one", *self.bfloat16)
        self.assertEqual(self.harvest("two", *self.bfloat16, ranks=2), alone)
        self.assertEqual(self.harvest("threads", *self.bfloat16, "--set", "run.threads=2"), alone)
        self.assertNotEqual(self.harvest("float32"), alone)

    def test_a_cache_of_the_other_type_is_refused(self):
        self.harvest("kept")
        result = thresher("harvest", *experiment(self.workspace, "kept"), *self.bfloat16, check=False)
        self.assertEqual(result.returncode, 78, result.stderr)
        self.assertIn("host_model.dtype: absent, \"bfloat16\"", result.stderr)

    def test_a_whole_run_in_bfloat16_names_its_model(self):
        short = ["--set", "train.total_tokens=60k", "--set", "train.warmup_tokens=5k", "--set", "train.decay_tokens=10k",
                 "--set", "evaluation.tokens=1024"]
        thresher("run", *experiment(self.workspace, "whole"), *self.folder, *self.bfloat16, *short)
        run_dir = self.workspace / "whole/runs/tiny"
        self.assertIn('"tiny-1.5"', (run_dir / "sae/topk/cfg.json").read_text())
        evaluation = json.loads((run_dir / "evaluation.json").read_text())["topk"]
        self.assertLess(evaluation["ce_clean"], 3)
        self.assertGreater(evaluation["ce_zero_ablated"], evaluation["ce_clean"])

    def test_contexts_longer_than_the_model_knows_are_refused(self):
        result = thresher("harvest", *experiment(self.workspace, "long"), "--set", "corpus.context_tokens=1024", check=False)
        self.assertEqual(result.returncode, 78, result.stderr)
        self.assertIn("error: corpus.context_tokens = 1024: the host model knows 512 positions\n", result.stderr)

    def test_a_tokenizer_of_another_model_is_refused(self):
        import gguf
        other = self.workspace / "other.gguf"
        reader = gguf.GGUFReader(self.workspace / "tiny.gguf")
        writer = gguf.GGUFWriter(other, "llama")
        tokens = reader.fields["tokenizer.ggml.tokens"].contents()
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        # The same words at numbers that the model does not embed.
        shift = 300
        writer.add_token_list([f"<unused{i}>" for i in range(shift)] + tokens)
        writer.add_token_types([gguf.TokenType.CONTROL] * shift + reader.fields["tokenizer.ggml.token_type"].contents())
        writer.add_token_merges(reader.fields["tokenizer.ggml.merges"].contents())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        result = thresher("harvest", *experiment(self.workspace, "foreign"), "--set", f"corpus.tokenizer={other}", check=False)
        self.assertEqual(result.returncode, 78, result.stderr)
        self.assertRegex(result.stderr, r"error: the text has token \d+, the host model embeds 459 tokens\n")


if __name__ == "__main__":
    unittest.main()
