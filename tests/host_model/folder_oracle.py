"""Random small models of each family as `transformers` saves them, and the same as GGUF: logits and activations agree
with what `transformers` computes from the folder."""

import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from hf_twin import BLOCK_NAMES, record_hook_points
from host_oracle import MAX_LOGIT_DIFFERENCE, MAX_RELATIVE_L2, run_ours

CONTEXTS, TOKENS, N_BLOCKS = 3, 80, 3
SIZES = {
    "vocab_size": 211, "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": N_BLOCKS,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
}
# A base so small that heads this narrow have long waves, short ones and some between, which are blended.
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.5}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
SITES = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
HOOK_POINTS = ["hook_embed", *(f"blocks.{b}.hook_{s}" for b in range(N_BLOCKS) for s in SITES),
               "ln_final.hook_normalized"]


def make(model_class, config_class, **options):
    """A random model whose every part matters: norms and biases away from one and zero."""
    torch.manual_seed(11)
    model = model_class(config_class(**{**SIZES, **options})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith(".bias"):
                parameter.normal_(0, 0.5)
            else:
                parameter.normal_(0, 1 / parameter.shape[1] ** 0.5)
    return model


CASES = {
    "llama, llama3 rope, untied": lambda: make(LlamaForCausalLM, LlamaConfig, rope_parameters=LLAMA3_ROPE),
    "llama, llama3 rope, tied, wide heads, biases": lambda: make(
        LlamaForCausalLM, LlamaConfig, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True, head_dim=14,
        attention_bias=True, mlp_bias=True),
    "llama, linear rope": lambda: make(LlamaForCausalLM, LlamaConfig, rope_parameters=LINEAR_ROPE),
    "mistral, window of 19": lambda: make(
        MistralForCausalLM, MistralConfig, rope_parameters=PLAIN_ROPE, sliding_window=19, head_dim=16),
    "mistral, no window": lambda: make(
        MistralForCausalLM, MistralConfig, rope_parameters=PLAIN_ROPE, sliding_window=None),
    "qwen2": lambda: make(Qwen2ForCausalLM, Qwen2Config, rope_parameters=PLAIN_ROPE, tie_word_embeddings=True),
    "qwen2, window of 23 from block 1 on": lambda: make(
        Qwen2ForCausalLM, Qwen2Config, rope_parameters=PLAIN_ROPE, use_sliding_window=True, sliding_window=23,
        max_window_layers=1),
}
SHARDED = {"llama, llama3 rope, untied", "qwen2"}
AS_BFLOAT16 = {"mistral, no window"}
AS_FLOAT16 = {"llama, linear rope"}


def make_batch():
    random = np.random.default_rng(3)
    ids = random.integers(0, SIZES["vocab_size"], (CONTEXTS, TOKENS))
    positions = np.broadcast_to(np.arange(TOKENS), ids.shape)
    return np.stack([ids, positions, np.zeros_like(ids)]).astype(np.int64)


def run_theirs(model, batch):
    # Neither mask nor positions are given, so that the windows are of their making.
    records = {}
    handles = record_hook_points(model, records)
    with torch.no_grad():
        records["logits"] = model(input_ids=torch.from_numpy(batch[0]), use_cache=False).logits
    for handle in handles:
        handle.remove()
    return records


def differences(what, ours, theirs):
    """Prints the worst of each kind, returns what is over its limit."""
    positions = CONTEXTS * TOKENS
    worst = 0.0
    for name in HOOK_POINTS:
        a = ours[name].reshape(positions, -1).double()
        b = theirs[name].reshape(positions, -1).double()
        worst = max(worst, ((a - b).norm(dim=1) / b.norm(dim=1)).max().item())
    logits = (ours["logits"].reshape(positions, -1) - theirs["logits"].reshape(positions, -1)).abs().max().item()
    is_ok = worst <= MAX_RELATIVE_L2 and logits <= MAX_LOGIT_DIFFERENCE
    print(f"{what}: activations {worst:.2g} (limit {MAX_RELATIVE_L2:g}), logits {logits:.2g} "
          f"(limit {MAX_LOGIT_DIFFERENCE:g}) {'ok' if is_ok else 'FAILED'}")
    return [] if is_ok else [what]


def permute(values, n_heads):
    """As converters to GGUF do for the llama architecture: the halves of a rotary head interleaved."""
    rows = values.shape[0]
    return values.reshape(n_heads, 2, rows // n_heads // 2, -1).swapaxes(1, 2).reshape(values.shape)


def write_gguf(path, model, architecture, rope_divisors=None):
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if rope_divisors is not None:
        writer.add_tensor("rope_freqs.weight", rope_divisors)
    their_names = {theirs: ours for ours, theirs in BLOCK_NAMES.items()}
    top_names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
                 "lm_head.weight": "output.weight"}
    for name, values in model.state_dict().items():
        values = values.numpy()
        if name in top_names:
            if name != "lm_head.weight" or not config.tie_word_embeddings:
                writer.add_tensor(top_names[name], values)
            continue
        _, _, block, *part, kind = name.split(".")
        part = their_names[".".join(part)]
        if architecture == "llama" and part in ("attn_q", "attn_k"):
            heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
            values = permute(values, heads)
        writer.add_tensor(f"blk.{block}.{part}.{kind}", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_cases(folder):
    """The same families as GGUF: Llama 3 with its divisors of frequencies, Qwen2 with biases."""
    llama = make(LlamaForCausalLM, LlamaConfig, rope_parameters=LLAMA3_ROPE)
    d_head = SIZES["hidden_size"] // SIZES["num_attention_heads"]
    plain = 1.0 / (LLAMA3_ROPE["rope_theta"] ** (torch.arange(0, d_head, 2).float() / d_head))
    divisors = (plain / llama.model.rotary_emb.inv_freq).numpy()
    write_gguf(folder / "llama3.gguf", llama, "llama", divisors)
    yield "GGUF llama with rope_freqs", folder / "llama3.gguf", llama
    qwen2 = make(Qwen2ForCausalLM, Qwen2Config, rope_parameters=PLAIN_ROPE)
    write_gguf(folder / "qwen2.gguf", qwen2, "qwen2")
    yield "GGUF qwen2", folder / "qwen2.gguf", qwen2


def saved_cases(folder):
    for number, (what, maker) in enumerate(CASES.items()):
        model = maker()
        if what in AS_BFLOAT16:
            model = model.bfloat16()
        if what in AS_FLOAT16:
            model = model.half()
        path = folder / str(number)
        model.save_pretrained(path, max_shard_size="60KB" if what in SHARDED else "5GB")
        is_sharded = (path / "model.safetensors.index.json").exists()
        assert is_sharded == (what in SHARDED), what
        # Read back in float32, as both sides compute; rotary tables are made anew with it.
        yield what, path, type(model).from_pretrained(path, dtype=torch.float32).eval()


def main():
    torch.set_num_threads(1)
    batch = make_batch()
    failures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "out"
        out.mkdir()
        for cases in (saved_cases(folder), gguf_cases(folder)):
            for what, path, model in cases:
                theirs = run_theirs(model, batch)
                failures += differences(what, run_ours(path, batch, HOOK_POINTS, out), theirs)
    if failures:
        sys.exit("failed: " + "; ".join(failures))


if __name__ == "__main__":
    main()
