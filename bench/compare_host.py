"""The host model's forward pass beside `transformers` and TransformerLens: one model, the same number of tokens, up to one hook
point, float32 and bfloat16, taking turns in one run.

    build/venv/bin/python bench/compare_host.py --weights models/SmolLM2-135M-Instruct.Q4_1.gguf --hook-block 14

Each turn is a process of its own with the same number of threads. Thresher is timed by `thresher bench harvest` (contexts of
text), the peers by their forward pass over contexts of random tokens, stopped at the same block: `transformers` by a hook that
raises, TransformerLens by run_with_cache(stop_at_layer). The GGUF is dequantised once for them. Machines are noisy: the ratio
of the medians of one run is what to quote; where others use the machine too, take --threads 1 and tokens per second of
processor time. TransformerLens comes with sae-lens; without it its rows are left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DTYPES = ("float32", "bfloat16")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--weights", default=str(ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"), help="a llama GGUF")
parser.add_argument("--text", default=str(ROOT / "data/handbook-en-US"), help="text for Thresher's contexts")
parser.add_argument("--program", default=str(ROOT / "build/bin/thresher"))
parser.add_argument("--hook-block", type=int, default=14, help="everything up to this block's hook_resid_post")
parser.add_argument("--context-tokens", type=int, default=128)
parser.add_argument("--forward-tokens", type=int, default=4096, help="as in Thresher's harvest, which has it fixed")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--passes", type=int, default=3, help="a turn, after one that is not counted")
parser.add_argument("--turns", type=int, default=3)
parser.add_argument("--peer", choices=["transformers", "transformer_lens"], help=argparse.SUPPRESS)
parser.add_argument("--dtype", choices=DTYPES, help=argparse.SUPPRESS)
parser.add_argument("--model", help=argparse.SUPPRESS)
options = parser.parse_args()


def prepare(folder):
    """The dequantised weights as a folder that the peers load."""
    sys.path.insert(0, str(ROOT / "tests/host_model"))
    from hf_twin import load_twin
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    model = load_twin(options.weights)
    if model.config.tie_word_embeddings:
        model.tie_weights()
    model.save_pretrained(folder)
    # TransformerLens wants a tokenizer although only ids are given to it.
    words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1}, unk_token="<s>"))
    special = {"bos_token": "<s>", "eos_token": "<s>", "pad_token": "<s>", "unk_token": "<s>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)


class Stopped(Exception):
    pass


def transformers_pass(dtype):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).eval()

    def stop(_module, _inputs, _output):
        raise Stopped

    model.model.layers[options.hook_block].register_forward_hook(stop)

    def run(ids):
        try:
            with torch.inference_mode():
                model(ids, use_cache=False)
        except Stopped:
            pass

    return run, model.config.vocab_size


def transformer_lens_pass(dtype):
    import torch
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    host = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = TransformerBridge.boot_transformers(options.model, hf_model=host, tokenizer=tokenizer, device="cpu",
                                                dtype=dtype)
    names = [f"blocks.{options.hook_block}.hook_out"]

    def run(ids):
        with torch.inference_mode():
            model.run_with_cache(ids, names_filter=names, stop_at_layer=options.hook_block + 1, return_type=None)

    return run, host.config.vocab_size


def time_peer():
    """Seconds of each counted pass on the wall and of processor time, as JSON."""
    import torch

    torch.set_num_threads(options.threads)
    make = {"transformers": transformers_pass, "transformer_lens": transformer_lens_pass}[options.peer]
    run, vocabulary = make(getattr(torch, options.dtype))
    shape = (options.forward_tokens // options.context_tokens, options.context_tokens)
    ids = torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(1))
    run(ids)
    seconds = []
    for _ in range(options.passes):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        run(ids)
        seconds.append((time.perf_counter() - begin, time.process_time() - cpu_begin))
    print(json.dumps(seconds))


def peer_rates(peer, dtype, model):
    """Tokens per second of wall and of processor time; None if the peer cannot run."""
    command = [sys.executable, __file__, "--peer", peer, "--dtype", dtype, "--model", model]
    for name in ("hook_block", "context_tokens", "forward_tokens", "threads", "passes"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode != 0:
        print(f"{peer} in {dtype}: {result.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    passes = json.loads(result.stdout.strip().splitlines()[-1])
    return [options.forward_tokens / statistics.median(seconds) for seconds in zip(*passes)]


def thresher_rates(dtype, folder):
    experiment = Path(folder) / "bench.yaml"
    hook_point = f"blocks.{options.hook_block}.hook_resid_post"
    experiment.write_text(json.dumps({  # JSON is YAML
        "schema": 1,
        "run": {"name": "bench", "dir": f"{folder}/runs", "threads": options.threads},
        "corpus": {"paths": [str(Path(options.text).resolve())], "context_tokens": options.context_tokens},
        "host_model": {"weights": str(Path(options.weights).resolve()), "dtype": dtype},
        "cache": {"dir": f"{folder}/cache", "hook_points": [hook_point]},
        "sae": [{"hook_point": hook_point, "type": "topk"}],
        "train": {"total_tokens": 100000},  # never started
    }))
    command = [options.program, "bench", "harvest", str(experiment), "--steps", str(options.passes)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert result["forward_tokens"] == options.forward_tokens, result["forward_tokens"]
    assert result["threads"] == options.threads, result["threads"]
    return [options.forward_tokens / result[f"forward_{kind}"]["median"] for kind in ("seconds", "cpu_seconds")]


def summary(rates):
    """Medians, and Thresher's over each peer's of the same type."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ours = {dtype: medians[f"thresher {dtype}"] for dtype in DTYPES}
    over = {name: ours[name.split()[1]] / rate for name, rate in medians.items() if not name.startswith("thresher")}
    return {"tokens_per_second": medians, "thresher_over": over,
            "thresher_bfloat16_over_float32": ours["bfloat16"] / ours["float32"]}


def main():
    wall, processor = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/model"
        prepare(model)
        for _ in range(options.turns):
            for dtype in DTYPES:
                for name in ("thresher", "transformers", "transformer_lens"):
                    rates = thresher_rates(dtype, folder) if name == "thresher" else peer_rates(name, dtype, model)
                    if rates is None:
                        continue
                    wall.setdefault(f"{name} {dtype}", []).append(rates[0])
                    processor.setdefault(f"{name} {dtype}", []).append(rates[1])
                    print(f"{name} {dtype}: {rates[0]:.0f} tokens/s, {rates[1]:.0f} a second of processor time",
                          file=sys.stderr)
    import torch
    import transformers

    print(json.dumps({
        "sizes": {k: v for k, v in vars(options).items() if k not in ("peer", "dtype", "model")},
        "wall": summary(wall), "processor": summary(processor),
        "torch_version": torch.__version__, "transformers_version": transformers.__version__,
    }, indent=2))


time_peer() if options.peer else main()
