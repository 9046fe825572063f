"""Logits, losses and activations against `transformers` with the same dequantised weights."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from hf_twin import document_mask, load_twin, record_hook_points

SOURCE = Path(os.environ["THRESHER_SOURCE_DIR"])
DUMP = Path(os.environ["THRESHER_BIN"]) / "host_dump"
MODEL = SOURCE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_LOGIT_DIFFERENCE = 1e-3
MAX_RELATIVE_L2 = 1e-5
MAX_LOSS_DIFFERENCE = 1e-4
# Both sides put the rotary halves back in the same way; were that wrong, the loss on plain English would show it
# (5.4 instead of 3.5 within contexts).
MAX_MEAN_LOSS = 4.5


def token_ids(path, text, count):
    """The first ids of `text` in the vocabulary of a GGUF file."""
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ids = tokenizer.encode(text).ids
    assert len(ids) >= count, len(ids)
    return np.array(ids[:count], dtype=np.int64)


def make_batch(ids, contexts, tokens):
    """Contexts of one, two and three documents; positions start again with each document."""
    documents = np.zeros((contexts, tokens), dtype=np.int64)
    for row in range(contexts):
        for cut in range(row % 3):
            documents[row, tokens // 3 * (cut + 1) + 5 * row :] += 1
    positions = np.zeros_like(documents)
    for row in range(contexts):
        for column in range(1, tokens):
            same = documents[row, column] == documents[row, column - 1]
            positions[row, column] = positions[row, column - 1] + 1 if same else 0
    return np.stack([ids.reshape(contexts, tokens), positions, documents])


def run_ours(path, batch, names, folder, dtype="float32"):
    batch.tofile(folder / "batch")
    _, contexts, tokens = batch.shape
    subprocess.run([DUMP, "--dtype", dtype, path, folder / "batch", str(contexts), str(tokens), folder, *names],
                   check=True)
    ours = {name: torch.from_numpy(np.fromfile(folder / name, dtype=np.float32)) for name in [*names, "logits"]}
    ours["losses"] = torch.from_numpy(np.fromfile(folder / "losses", dtype=np.float64))
    return ours


def run_theirs(path, batch, dtype=torch.float32):
    model = load_twin(path)
    for parameter in model.parameters():  # tables of rotary positions stay float32, as from_pretrained leaves them
        parameter.data = parameter.data.to(dtype)
    ids, positions, documents = (torch.from_numpy(part) for part in batch)
    records = {}
    record_hook_points(model, records)
    with torch.no_grad():
        logits = model(input_ids=ids, position_ids=positions, attention_mask=document_mask(documents).to(dtype)).logits
    records["logits"] = logits
    flat = logits.reshape(-1, logits.shape[-1])[:-1]
    log_probabilities = torch.log_softmax(flat.double(), dim=-1)
    records["losses"] = -log_probabilities.gather(1, ids.reshape(-1)[1:, None])[:, 0]
    return records


def compare(path, batch, names, folder):
    theirs = run_theirs(path, batch)
    ours = run_ours(path, batch, names, folder)
    failures = []

    def gate(what, value, limit):
        verdict = "ok" if value <= limit else "FAILED"
        print(f"  {what}: {value:.3g} (limit {limit:g}) {verdict}")
        if not value <= limit:
            failures.append(what)

    positions = batch[0].size
    print(f"{path}: {batch.shape[1]} contexts of {batch.shape[2]} tokens")
    for name in names:
        a = ours[name].reshape(positions, -1).double()
        b = theirs[name].reshape(positions, -1).double()
        # By position, the worst of all: one sink of norm 27,000 would hide every other position.
        by_position = (a - b).norm(dim=1) / b.norm(dim=1)
        gate(f"{name}, worst position's relative L2", by_position.max().item(), MAX_RELATIVE_L2)
    a = ours["logits"].reshape(positions, -1)
    b = theirs["logits"].reshape(positions, -1)
    gate("logits, largest difference", (a - b).abs().max().item(), MAX_LOGIT_DIFFERENCE)
    gate(f"positions of {positions} with another top-1", (a.argmax(1) != b.argmax(1)).sum().item(), 0)
    gate("losses, largest difference", (ours["losses"] - theirs["losses"]).abs().max().item(), MAX_LOSS_DIFFERENCE)
    if not torch.isfinite(a).all():
        failures.append("logits are not finite")
    gate("mean next-token loss", ours["losses"].mean().item(), MAX_MEAN_LOSS)
    return failures


def main():
    if not MODEL.exists():
        sys.exit(f"{MODEL} is missing: run tools/setup.sh")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        tiny = folder / "tiny.gguf"
        maker = [sys.executable, SOURCE / "tools" / "make_tiny_host.py", tiny, folder / "text"]
        subprocess.run(maker, check=True)
        text = "".join(path.read_text() for path in sorted((folder / "text").iterdir()))
        batch = make_batch(token_ids(tiny, text, 6 * 100), 6, 100)
        sites = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
        names = ["hook_embed", *(f"blocks.{b}.hook_{s}" for b in range(4) for s in sites), "ln_final.hook_normalized"]
        failures = compare(tiny, batch, names, folder)
        batch = make_batch(token_ids(MODEL, (SOURCE / "LICENSE").read_text(), 8 * 128), 8, 128)
        names = ["hook_embed", "blocks.0.hook_resid_mid", "blocks.7.hook_resid_post", "blocks.14.hook_resid_post"]
        names += ["blocks.22.hook_resid_mid", "blocks.29.hook_resid_post"]
        failures += compare(MODEL, batch, names, folder)
    if failures:
        sys.exit("failed: " + "; ".join(failures))


if __name__ == "__main__":
    main()
