"""A TopK SAE in plain PyTorch, and the same with Thresher's operators: only `forward` changes.

    python examples/torch_operators/train_sae.py --library build/cpu-release/lib/libthresher_operators.so

Prints both losses after the same steps from the same start, and the time of a step of each.
"""
import argparse
import time

import torch

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--library", required=True)
parser.add_argument("--d", type=int, default=256)
parser.add_argument("--n-latents", type=int, default=4096)
parser.add_argument("--k", type=int, default=16)
parser.add_argument("--batch", type=int, default=1024)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--device", default="cpu", help="cuda needs a library built with THRESHER_CUDA")
options = parser.parse_args()
torch.ops.load_library(options.library)
torch.set_default_device(options.device)


def now():
    if options.device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


class DenseSae(torch.nn.Module):
    def __init__(self):
        super().__init__()
        directions = torch.nn.functional.normalize(torch.randn(options.n_latents, options.d), dim=1)
        self.W_enc = torch.nn.Parameter(directions.clone())  # a latent a row
        self.b_enc = torch.nn.Parameter(torch.zeros(options.n_latents))
        self.W_dec = torch.nn.Parameter(directions.clone())
        self.b_dec = torch.nn.Parameter(torch.zeros(options.d))

    def forward(self, x):
        values, indices = torch.topk((x - self.b_dec) @ self.W_enc.t() + self.b_enc, options.k)
        latents = torch.zeros(len(x), options.n_latents).scatter(1, indices, values.relu())
        return latents @ self.W_dec + self.b_dec


class SparseSae(DenseSae):
    def forward(self, x):
        values, indices = torch.ops.thresher.encode_topk(x - self.b_dec, self.W_enc.t(), self.b_enc, options.k)
        return torch.ops.thresher.sparse_decode(indices, values.relu(), self.W_dec, self.b_dec)


def train(name, kind):
    torch.manual_seed(0)
    sae = kind()
    features = torch.randn(4 * options.d, options.d)
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-3, fused=True)
    seconds = []
    for _ in range(options.steps):
        codes = torch.rand(options.batch, len(features)) * (torch.rand(options.batch, len(features)) < 8 / len(features))
        x = codes @ features
        start = now()
        loss = (x - sae(x)).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(now() - start)
    print(f"{name} loss {loss.item():.6f} step {1e3 * sorted(seconds)[len(seconds) // 2]:.1f} ms")


train("dense", DenseSae)
train("thresher", SparseSae)
