"""The same model in `transformers`: a GGUF file's weights, dequantised by the `gguf` package, in LlamaForCausalLM."""

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def unpermute(weight, n_heads):
    """GGUF keeps the two halves of a rotary head interleaved."""
    rows, columns = weight.shape
    return weight.reshape(n_heads, rows // n_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def load_twin(path, attention="sdpa"):
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith("llama.")}
    n_heads = fields["llama.attention.head_count"]
    n_kv_heads = fields["llama.attention.head_count_kv"]
    state = {}
    for tensor in reader.tensors:
        values = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        parts = tensor.name.split(".")
        if parts[0] == "blk":
            if parts[2] == "attn_q":
                values = unpermute(values, n_heads)
            if parts[2] == "attn_k":
                values = unpermute(values, n_kv_heads)
            name = f"model.layers.{parts[1]}.{BLOCK_NAMES[parts[2]]}.weight"
        else:
            name = {
                "token_embd.weight": "model.embed_tokens.weight",
                "output_norm.weight": "model.norm.weight",
                "output.weight": "lm_head.weight",
            }[tensor.name]
        state[name] = torch.from_numpy(np.ascontiguousarray(values))
    tied = "lm_head.weight" not in state
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    vocabulary, d_model = state["model.embed_tokens.weight"].shape
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=d_model,
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads,
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=fields["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        tie_word_embeddings=tied,
        attn_implementation=attention,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(state, strict=True, assign=True)
    # Buffers are not part of the state: made again on the CPU, from the same configuration.
    rotary = type(model.model.rotary_emb)(config)
    model.model.rotary_emb = rotary
    return model.float().eval()


def record_hook_points(model, records):
    """Fills `records` with activations under their TransformerLens names as the model runs."""

    def keep(name, of_input):
        def hook(_module, inputs, output):
            value = inputs[0] if of_input else output
            records[name] = (value[0] if isinstance(value, tuple) else value).detach().clone()

        return hook

    handles = [model.model.embed_tokens.register_forward_hook(keep("hook_embed", False))]
    for index, layer in enumerate(model.model.layers):
        for module, site, of_input in (
            (layer.input_layernorm, "hook_resid_pre", True),
            (layer.self_attn, "hook_attn_out", False),
            (layer.post_attention_layernorm, "hook_resid_mid", True),
            (layer.mlp, "hook_mlp_out", False),
            (layer, "hook_resid_post", False),
        ):
            handles.append(module.register_forward_hook(keep(f"blocks.{index}.{site}", of_input)))

    def keep_normalized(module, _inputs, output):
        records["ln_final.hook_normalized"] = (output / module.weight).detach()

    handles.append(model.model.norm.register_forward_hook(keep_normalized))
    return handles


def document_mask(documents):
    """Additive mask [contexts, 1, tokens, tokens]: causal, and within a document."""
    n = documents.shape[1]
    visible = (documents[:, :, None] == documents[:, None, :]) & torch.ones(n, n, dtype=torch.bool).tril()
    mask = torch.full(visible.shape, torch.finfo(torch.float32).min)
    return mask.masked_fill(visible, 0.0)[:, None]
