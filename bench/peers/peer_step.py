"""Times one library's own training step on rows in memory; prints one JSON line. bench/compare_step.py runs it.

    build/peers-main/bin/python bench/peers/peer_step.py --peer sae_lens --variant topk --rows rows.npy --n 8192 --batch 2048 --k 32

What is timed is the library's own loop with its defaults, from one request for a batch to the next: forward, loss,
backward, clipping, optimiser, schedule, upkeep of decoder norms and what it counts on the way. plain is the shortest
dense PyTorch SAE. No latent is dead in any run, so auxiliary losses of dead latents cost nothing here.
"""
import argparse
import contextlib
import importlib.metadata
import io
import json
import math
import os
import resource
import sys
import tempfile

from step_clock import StepClock, make_rows

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--make-rows", metavar="FILE", help="write rows (--d, --batch) and stop")
parser.add_argument("--peer")
parser.add_argument("--variant", choices=["topk", "batch_topk", "relu_l1", "jumprelu"])
parser.add_argument("--rows", help="float32 [4 batches, d] as .npy")
parser.add_argument("--d", type=int)
parser.add_argument("--n", type=int)
parser.add_argument("--batch", type=int)
parser.add_argument("--k", type=int, default=32)
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--warm", type=int, default=2)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--verbose", action="store_true", help="let the library print")
options = parser.parse_args()
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(options.threads)
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "WANDB_MODE": "disabled",
               "SPARSIFY_DISABLE_TRITON": "1"}  # its Triton decoder needs a GPU

import numpy
import torch

torch.set_num_threads(options.threads)
torch.manual_seed(0)
clock = StepClock()
N_STEPS = options.warm + options.steps


def batches(rows):
    """N_STEPS batches, the clock marked at every request."""
    n = rows.shape[0] // options.batch
    for step in range(N_STEPS):
        clock.mark()
        first = step % n * options.batch
        yield rows[first:first + options.batch]
    clock.mark()


def sae_lens(rows):
    import sae_lens as library
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    common = {"d_in": options.d, "d_sae": options.n, "dtype": "float32", "device": "cpu"}
    if options.variant == "topk":
        sae = library.TopKTrainingSAE(library.TopKTrainingSAEConfig(k=options.k, **common))
    elif options.variant == "batch_topk":
        sae = library.BatchTopKTrainingSAE(library.BatchTopKTrainingSAEConfig(k=options.k, **common))
    elif options.variant == "jumprelu":
        sae = library.JumpReLUTrainingSAE(library.JumpReLUTrainingSAEConfig(**common))
    else:
        sae = library.StandardTrainingSAE(library.StandardTrainingSAEConfig(l1_coefficient=1.0, **common))
    config = SAETrainerConfig(total_training_samples=N_STEPS * options.batch, train_batch_size_samples=options.batch,
                              lr=3e-4, lr_end=3e-5, logger=LoggingConfig(log_to_wandb=False), autocast=False)
    provider = batches(rows)
    SAETrainer(cfg=config, sae=sae, data_provider=provider).fit()
    next(provider, None)  # the last mark
    return "sae-lens"


def dictionary_learning(rows):
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer
    from dictionary_learning.training import trainSAE

    trainers = {"topk": TopKTrainer, "batch_topk": BatchTopKTrainer, "relu_l1": StandardTrainer,
                "jumprelu": JumpReluTrainer}
    config = {"trainer": trainers[options.variant], "steps": 100000, "activation_dim": options.d,
              "dict_size": options.n, "layer": 0, "lm_name": "x", "device": "cpu"}
    if options.variant in ("topk", "batch_topk"):
        config["k"] = options.k
    trainSAE(data=batches(rows), trainer_configs=[config], steps=10**9, device="cpu")
    return "dictionary-learning"


def overcomplete(rows):
    from overcomplete.sae import SAE, BatchTopKSAE, JumpSAE, TopKSAE, mse_l1, train_sae

    common = {"nb_concepts": options.n, "device": "cpu"}
    if options.variant == "topk":
        sae = TopKSAE(options.d, top_k=options.k, **common)
    elif options.variant == "batch_topk":
        sae = BatchTopKSAE(options.d, top_k=options.k * options.batch, **common)
    else:
        sae = (JumpSAE if options.variant == "jumprelu" else SAE)(options.d, **common)

    def squared_error(x, x_hat, pre_codes, codes, dictionary):
        return (x - x_hat).square().mean()

    loss = squared_error if options.variant in ("topk", "batch_topk") else mse_l1
    train_sae(sae, batches(rows), loss, torch.optim.Adam(sae.parameters(), lr=5e-4), nb_epochs=1, device="cpu")
    return "overcomplete"


def llamascopium(rows):
    from llamascopium.models.sae import SAEConfig, SparseAutoEncoder
    from llamascopium.trainer import Trainer, TrainerConfig

    activation = {"relu_l1": "relu", "batch_topk": "batchtopk"}.get(options.variant, options.variant)
    sae = SparseAutoEncoder(SAEConfig(
        sae_type="sae", d_model=options.d, expansion_factor=options.n / options.d, act_fn=activation,
        top_k=options.k, hook_point_in="x", hook_point_out="x", device="cpu", dtype=torch.float32))
    sae.init_parameters(encoder_uniform_bound=options.d ** -0.5, decoder_uniform_bound=options.n ** -0.5,
                        init_log_jumprelu_threshold_value=math.log(0.1))
    sae.set_dataset_average_activation_norm({"x": options.d ** 0.5})
    sparsity = {}
    if options.variant in ("relu_l1", "jumprelu"):  # tanh-quad, its JumpReLU loss, fails on batches of two dimensions
        sparsity = {"sparsity_loss_type": "power", "p": 1}
    if options.variant == "jumprelu":
        sparsity["lp_coefficient"] = 3e-6
    mask, tokens = torch.ones(options.batch, dtype=torch.bool), torch.zeros(options.batch, dtype=torch.long)

    class Stream:
        was_asked = False

        def __iter__(self):
            if not self.was_asked:  # it looks at one batch to learn the size
                self.was_asked = True
                yield {"x": rows[:options.batch], "mask": mask, "tokens": tokens}
                return
            for batch in batches(rows):
                yield {"x": batch, "mask": mask, "tokens": tokens}

    with tempfile.TemporaryDirectory() as folder:
        Trainer(TrainerConfig(amp_dtype=torch.float32, lr=4e-4, k_warmup_steps=0, initial_k=options.k,
                              total_training_tokens=10**9, n_checkpoints=0, exp_result_path=folder,
                              **sparsity)).fit(sae, Stream())
    return "llamascopium"


def sparsify(rows, optimiser="signum"):
    """Its trainer runs a model and hooks it: the model here is an embedding that holds the rows, one gather a step."""
    from sparsify import SaeConfig, TrainConfig, Trainer
    from transformers import PretrainedConfig, PreTrainedModel

    context = 128

    class Config(PretrainedConfig):
        model_type = "rows"
        num_hidden_layers = 1

    class Rows(PreTrainedModel):
        config_class = Config
        base_model_prefix = "none"

        def __init__(self, config):
            super().__init__(config)
            self.embed = torch.nn.Embedding(*rows.shape, _weight=rows)

        @property
        def dummy_inputs(self):
            return {"input_ids": torch.zeros(1, 4, dtype=torch.long)}

        def forward(self, input_ids=None, **_):
            if input_ids.shape[0] > 1:
                clock.mark()
            return self.embed(input_ids)

    contexts = torch.arange(rows.shape[0]).view(-1, context)

    class Contexts(torch.utils.data.Dataset):
        def __len__(self):
            return (N_STEPS + 1) * (options.batch // context)

        def __getitem__(self, i):
            return {"input_ids": contexts[i % len(contexts)]}

    with tempfile.TemporaryDirectory() as folder:
        Trainer(TrainConfig(SaeConfig(activation="topk", num_latents=options.n, k=options.k),
                            batch_size=options.batch // context, hookpoints=["embed"], optimizer=optimiser,
                            lr_warmup_steps=10, log_to_wandb=False, save_dir=folder, save_every=10**9),
                Contexts(), Rows(Config())).fit()
    return "eai-sparsify"


def plain(rows, fused=None):
    from torch.nn import Parameter, functional

    W_enc = Parameter(torch.randn(options.n, options.d) / options.d ** 0.5)
    W_dec = Parameter(functional.normalize(W_enc.detach(), dim=1).clone())
    b_enc, b_dec = Parameter(torch.zeros(options.n)), Parameter(rows[:options.batch].mean(0).clone())
    parameters = [W_enc, W_dec, b_enc, b_dec]
    adam = torch.optim.Adam(parameters, lr=1e-4, fused=fused)
    for x in batches(rows):
        acts = torch.relu(functional.linear(x - b_dec, W_enc, b_enc))
        if options.variant == "topk":
            values, chosen = acts.topk(options.k, dim=-1, sorted=False)
            acts = torch.zeros_like(acts).scatter(-1, chosen, values)
        elif options.variant == "batch_topk":
            flat = acts.flatten()
            values, chosen = flat.topk(options.k * x.shape[0], sorted=False)
            acts = torch.zeros_like(flat).scatter(-1, chosen, values).view_as(acts)
        loss = (acts @ W_dec + b_dec - x).pow(2).sum(-1).mean()
        if options.variant == "relu_l1":
            loss = loss + 1e-3 * acts.sum(-1).mean()
        loss.backward()
        with torch.no_grad():
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            W_dec /= W_dec.norm(dim=1, keepdim=True)
    return "torch"


PEERS = {
    "sae_lens": sae_lens, "dictionary_learning": dictionary_learning, "overcomplete": overcomplete,
    "llamascopium": llamascopium, "sparsify": sparsify, "sparsify_adam": lambda rows: sparsify(rows, "adam"),
    "plain": plain, "plain_fused_adam": lambda rows: plain(rows, True),
}


def main():
    rows = torch.from_numpy(numpy.load(options.rows))
    options.d = rows.shape[1]
    quiet = contextlib.ExitStack()
    if not options.verbose:
        quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
        quiet.enter_context(contextlib.redirect_stderr(io.StringIO()))
    with quiet:
        distribution = PEERS[options.peer](rows)
    print(json.dumps({
        "peer": options.peer, "variant": options.variant, "version": importlib.metadata.version(distribution),
        "step_seconds": clock.seconds()[options.warm:], "step_cpu_seconds": clock.cpu_seconds()[options.warm:],
        "other_cores": clock.other_cores()[options.warm:],
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }))


if options.make_rows:
    make_rows(options.make_rows, options.d, 4 * options.batch)
elif options.peer in PEERS:
    main()
else:
    sys.exit(f"--peer: one of {', '.join(PEERS)}")
