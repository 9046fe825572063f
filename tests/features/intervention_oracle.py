"""Interventions against the same edits in plain forward hooks of `transformers`, on SmolLM2's weights."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

SOURCE = Path(os.environ["THRESHER_SOURCE_DIR"])
sys.path.insert(0, str(SOURCE / "tests" / "host_model"))
from hf_twin import load_twin  # noqa: E402
from host_oracle import token_ids  # noqa: E402

TOOL = Path(os.environ["THRESHER_BIN"]) / "intervene_tool"
MODEL = SOURCE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_LOGIT_DIFFERENCE = 1e-3
TOKENS = 24
WIDTH = 576
LATENTS = 64


def module_of(model, hook_point):
    """The module whose output is that hook point, or whose input."""
    if hook_point == "hook_embed":
        return model.model.embed_tokens, False
    _, block, site = hook_point.split(".")
    layer = model.model.layers[int(block)]
    return {"hook_resid_pre": (layer, True), "hook_attn_out": (layer.self_attn, False), "hook_mlp_out": (layer.mlp, False),
            "hook_resid_post": (layer, False)}[site]


def logits_with(model, ids, hook_point, edit):
    """Logits with an edit of the rows [tokens, width] at a hook point."""
    def on_output(_module, _inputs, output):
        value = output[0] if isinstance(output, tuple) else output
        changed = edit(value[0])[None]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def on_input(_module, inputs):
        return (edit(inputs[0][0])[None], *inputs[1:])

    module, of_input = module_of(model, hook_point)
    handle = module.register_forward_pre_hook(on_input) if of_input else module.register_forward_hook(on_output)
    try:
        with torch.no_grad():
            return model(input_ids=ids).logits[0]
    finally:
        handle.remove()


def make_sae(folder):
    generator = torch.Generator().manual_seed(3)
    W_dec = torch.nn.functional.normalize(torch.randn(LATENTS, WIDTH, generator=generator), dim=1)
    state = {"W_enc": (0.7 * W_dec.T).contiguous(), "b_enc": 0.5 * torch.randn(LATENTS, generator=generator),
             "W_dec": W_dec, "b_dec": torch.randn(WIDTH, generator=generator)}
    folder.mkdir()
    save_file(state, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({
        "d_in": WIDTH, "d_sae": LATENTS, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
        "normalize_activations": "none", "reshape_activations": "none", "architecture": "standard",
        "metadata": {"hook_name": "blocks.14.hook_resid_post", "sae_lens_version": "6.54.12"}}))
    return state


def encode(sae, x):
    return torch.relu((x - sae["b_dec"]) @ sae["W_enc"] + sae["b_enc"])


def edits(direction, sae):
    """Name, our arguments, and the edit of rows x by hand."""
    unit = direction / direction.norm()
    latent = 11
    return [
        ("add", "add", ["3.5", "direction"], lambda x: x + 3.5 * direction),
        ("clamp", "clamp", ["20", "direction"], lambda x: x + (20 - x @ unit)[:, None] * unit),
        ("scale", "scale", ["-4", "direction"], lambda x: x - 5 * (x @ unit)[:, None] * unit),
        ("project out", "project", ["1", "direction"], lambda x: x - (x @ unit)[:, None] * unit),
        ("splice", "splice", ["1", "sae"], lambda x: encode(sae, x) @ sae["W_dec"] + sae["b_dec"]),
        ("clamp a latent", "clamp", ["30", "sae", str(latent)],
         lambda x: x + (30 - encode(sae, x)[:, latent])[:, None] * sae["W_dec"][latent]),
    ]


def main():
    if not MODEL.exists():
        sys.exit(f"{MODEL} is missing: run tools/setup.sh")
    torch.set_num_threads(1)
    model = load_twin(MODEL)
    ids = token_ids(MODEL, (SOURCE / "LICENSE").read_text(), TOKENS)
    failures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids.tofile(folder / "ids")
        sae = make_sae(folder / "sae")
        direction = 5 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(7))
        direction.numpy().tofile(folder / "direction")
        all_edits = edits(direction, sae)
        # The first position, a sink, stays.
        cases = [("blocks.14.hook_resid_post", "all", slice(1, TOKENS), edit) for edit in all_edits]
        cases += [(point, "all", slice(1, TOKENS), all_edits[0]) for point in
                  ("hook_embed", "blocks.0.hook_resid_pre", "blocks.9.hook_attn_out", "blocks.20.hook_mlp_out")]
        cases += [("blocks.10.hook_resid_post", positions, rows, all_edits[0]) for positions, rows in
                  (("last", slice(TOKENS - 1, TOKENS)), ("end", slice(TOKENS - 1, TOKENS)), ("0:7", slice(1, 7)))]
        with torch.no_grad():
            plain = model(input_ids=torch.from_numpy(ids)[None]).logits[0]
        for point, positions, rows, (title, kind, values, by_hand) in cases:
            def edit(x, rows=rows, by_hand=by_hand):
                out = x.clone()
                out[rows] = by_hand(x[rows])
                return out

            theirs = logits_with(model, torch.from_numpy(ids)[None], point, edit)
            arguments = [folder / value if value in ("direction", "sae") else value for value in values]
            counts = subprocess.run([TOOL, MODEL, folder / "ids", folder / "logits", kind, point, positions, *arguments],
                                    check=True, capture_output=True, text=True).stdout.split()
            ours = torch.from_numpy(np.fromfile(folder / "logits", dtype=np.float32)).reshape(TOKENS, -1)
            difference = (ours - theirs).abs().max().item()
            effect = (plain - theirs).abs().max().item()
            verdict = difference <= MAX_LOGIT_DIFFERENCE < effect / 10 and int(counts[0]) == rows.stop - rows.start
            print(f"{title} at {point}, {positions}: largest difference {difference:.2g}, effect {effect:.2g}, "
                  f"{counts[0]} rows {'ok' if verdict else 'FAILED'}")
            if not verdict:
                failures.append(f"{title} at {point}")
    if failures:
        sys.exit("failed: " + "; ".join(failures))


if __name__ == "__main__":
    main()
