"""`thresher generate` against `transformers`' greedy generation with the same dequantised weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from hf_twin import load_twin

SOURCE = Path(os.environ["THRESHER_SOURCE_DIR"])
THRESHER = Path(os.environ["THRESHER_BIN"]) / "thresher"
MODEL = SOURCE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
NEW_TOKENS = 24
PROMPTS = [
    "I hate you because",
    "Paris",
    "The quick brown fox jumps over the lazy dog. The dog, who had been sleeping in the sun all afternoon,",
    "La capitale de la France est",
    "def fibonacci(n):\n    if n < 2:\n",
]


def main():
    if not MODEL.exists():
        sys.exit(f"{MODEL} is missing: run tools/setup.sh")
    arguments = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    result = subprocess.run(
        [THRESHER, "generate", MODEL, *arguments, "--max-tokens", str(NEW_TOKENS), "--no-stop", "--json"],
        check=True, capture_output=True, text=True)
    ours = json.loads(result.stdout)["generated"]
    torch.set_num_threads(1)
    twin = load_twin(MODEL)
    twin.generation_config.eos_token_id = None
    twin.generation_config.pad_token_id = 0
    for prompt, text in zip(PROMPTS, ours, strict=True):
        ids = torch.tensor([text["prompt_ids"]])
        theirs = twin.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS)
        theirs = theirs[0, ids.shape[1]:].tolist()
        print(f"{len(text['prompt_ids']):3} tokens, {prompt!r}: {text['text']!r}")
        if text["token_ids"] != theirs:
            sys.exit(f"transformers gives {theirs}, thresher {text['token_ids']}")
        if len(theirs) != NEW_TOKENS:
            sys.exit(f"transformers stopped after {len(theirs)} tokens")
    if len({len(text["prompt_ids"]) for text in ours}) < 4:
        sys.exit("the prompts were to be of different lengths")


if __name__ == "__main__":
    main()
