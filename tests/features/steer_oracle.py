"""`thresher steer` against forward hooks of `transformers` on SmolLM2: direction, log-odds and divergence."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import torch

SOURCE = Path(os.environ["THRESHER_SOURCE_DIR"])
sys.path.insert(0, str(SOURCE / "tests" / "host_model"))
from hf_twin import load_twin  # noqa: E402

THRESHER = Path(os.environ["THRESHER_BIN"]) / "thresher"
MODEL = SOURCE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "I hate you because"
PREFIX = "I"
FIRST, SECOND = " Love", " Hate"
LAYER = 14
COEFFICIENT = 0.5
POSITIVE, NEGATIVE = [" love", " you are wonderful"], [" hate", " they are so cruel"]


def ours(*arguments):
    result = subprocess.run([THRESHER, *arguments, "--json"], check=True, capture_output=True, text=True)
    return json.loads(result.stdout)


def main():
    if not MODEL.exists():
        sys.exit(f"{MODEL} is missing: run tools/setup.sh")
    torch.set_num_threads(1)
    texts = [PROMPT, PREFIX, FIRST, SECOND, "Love", " ", *POSITIVE, *NEGATIVE]
    made = ours("generate", MODEL, *[word for text in texts for word in ("--prompt", text)], "--max-tokens", "1")
    ids = {text: one["prompt_ids"] for text, one in zip(texts, made["generated"], strict=True)}
    assert len(ids[FIRST]) < len(ids[SECOND]), "the pair was to need padding"
    arguments = [word for flag, values in (("--positive", POSITIVE), ("--negative", NEGATIVE)) for value in values
                 for word in (flag, value)]
    study = ours("steer", MODEL, "--direction", f"pair:{FIRST}|{SECOND}", "--prefix", PREFIX, "--at", str(LAYER),
                 "--coefficient", str(COEFFICIENT), "--prompt", PROMPT, *arguments, "--controls", "0",
                 "--max-tokens", "4")

    twin = load_twin(MODEL)
    state = {}

    def keep(_module, _inputs, output):
        state["kept"] = (output[0] if isinstance(output, tuple) else output).detach().clone()

    layer = twin.model.layers[LAYER]

    def rows(tokens):
        handle = layer.register_forward_hook(keep)
        with torch.no_grad():
            twin(torch.tensor([tokens]))
        handle.remove()
        return state["kept"].reshape(-1, 576)

    padding = ids[" "] * (len(ids[SECOND]) - len(ids[FIRST]))
    difference = rows(ids[PREFIX] + ids[FIRST] + padding) - rows(ids[PREFIX] + ids[SECOND])
    direction = difference[len(ids[PREFIX]) :].mean(0)

    def steer(_module, _inputs, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone().reshape(1, -1, 576)
        hidden[:, 1:] += COEFFICIENT * direction  # the first position is a sink
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def logs(tokens):
        with torch.no_grad():
            return torch.log_softmax(twin(torch.tensor([tokens])).logits[0].double(), dim=-1)

    def log_odds():
        def total(continuations):
            sums = []
            for text in continuations:
                logged = logs(ids[PROMPT] + ids[text])
                start = len(ids[PROMPT]) - 1
                sums.append(sum(logged[start + i, token].item() for i, token in enumerate(ids[text])))
            return math.log(sum(map(math.exp, sums)))

        return total(POSITIVE) - total(NEGATIVE)

    plain, plain_odds = logs(ids[PROMPT])[-1], log_odds()
    handle = layer.register_forward_hook(steer)
    steered, steered_odds = logs(ids[PROMPT])[-1], log_odds()
    handle.remove()
    divergence = (steered.exp() * (steered - plain)).sum().item()
    lone = rows(ids["Love"])[0].norm().item()
    of = {one["name"]: one for one in study["rows"]}
    failures = []
    for what, a, b in (
        ("norm of the direction", study["norms"][f"blocks.{LAYER}.hook_resid_post"], direction.norm().item()),
        ("plain log-odds", of["plain"]["log_odds"][0], plain_odds),
        ("steered log-odds", of["steered"]["log_odds"][0], steered_odds),
        ("KL(steered || plain)", of["steered"]["kl"], divergence),
    ):
        print(f"{what}: {a:.6g}, transformers {b:.6g}")
        if not abs(a - b) <= 1e-3 * max(1, abs(b)):
            failures.append(what)
    print(f"norm of a lone 'Love': {lone:.6g}")
    if not lone > 50 * direction.norm().item():
        failures.append("a lone word was to be a sink")
    # Every position but the first of the prompt, and every token of a continuation that another one follows.
    edited = len(ids[PROMPT]) - 1 + sum(len(ids[text]) - 1 for text in POSITIVE + NEGATIVE)
    if of["steered"]["edited_rows"] != edited:
        failures.append(f"{of['steered']['edited_rows']} rows were edited, not {edited}")
    if abs(steered_odds - plain_odds) < 0.1:
        failures.append("nothing was steered")
    if failures:
        sys.exit("failed: " + "; ".join(failures))


if __name__ == "__main__":
    main()
