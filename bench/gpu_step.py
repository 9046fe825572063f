"""PyTorch's times on a GPU, for comparison with bench/gpu_bench.cpp: the encoder's product in bfloat16 alone, with torch.topk
behind it, and whole TopK training steps by dense autograd, compiled and not. Prints one JSON.

    python3 bench/gpu_step.py [A|B|C|G] [REPEATS]

A step is forward, backward, gradient clipping to norm 1, removal of the decoder-parallel part, Adam (fused, float32 state) and
renormalisation of decoder rows, with bfloat16 autocast and float32 weights. What does not fit in memory is left out.
"""
import json
import sys

import torch

SIZES = {"A": (512, 8192, 2048, 32), "B": (576, 9216, 4096, 64), "C": (768, 24576, 4096, 32), "G": (2304, 65536, 8192, 64)}
SIZE = sys.argv[1] if len(sys.argv) > 1 else "G"
REPEATS = int(sys.argv[2]) if len(sys.argv) > 2 else 20
D, N, ROWS, K = SIZES[SIZE]


class Sae(torch.nn.Module):
    def __init__(self):
        super().__init__()
        rows = torch.nn.functional.normalize(torch.randn(N, D, device="cuda"), dim=1)
        self.W_enc = torch.nn.Parameter(rows.clone())
        self.b_enc = torch.nn.Parameter(torch.zeros(N, device="cuda"))
        self.W_dec = torch.nn.Parameter(rows)
        self.b_dec = torch.nn.Parameter(torch.zeros(D, device="cuda"))

    def loss(self, x):
        values, indices = torch.topk((x - self.b_dec) @ self.W_enc.t() + self.b_enc, K, sorted=False)
        latents = torch.zeros(len(x), N, device="cuda", dtype=values.dtype).scatter(1, indices, values.relu())
        return (x - (latents @ self.W_dec + self.b_dec)).float().square().mean()


def time_of(work):
    """Milliseconds: median and least, after three runs that are not counted."""
    times = []
    for i in range(-3, REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        if i >= 0:
            times.append(begin.elapsed_time(end))
    times.sort()
    return {"median_ms": round(times[len(times) // 2], 4), "least_ms": round(times[0], 4)}


def dense_step(compiled):
    sae = Sae()
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-4, fused=True)
    loss_of = torch.compile(sae.loss) if compiled else sae.loss
    x = torch.randn(ROWS, D, device="cuda")

    @torch.no_grad()
    def project():
        W, g = sae.W_dec, sae.W_dec.grad
        g -= (g * W).sum(1, keepdim=True) * W

    @torch.no_grad()
    def renormalise():
        sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)

    if compiled:
        project, renormalise = torch.compile(project), torch.compile(renormalise)

    def step():
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = loss_of(x)
        loss.backward()
        project()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        renormalise()

    return step


def main():
    torch.manual_seed(0)
    times, left_out = {}, {}

    def measure(name, make):
        try:
            times[name] = time_of(make())
        except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
            left_out[name] = str(error).splitlines()[0]
        torch.cuda.empty_cache()

    def product(dtype, selects):
        x, W = (torch.randn(rows, D, device="cuda", dtype=dtype) for rows in (ROWS, N))
        if selects:
            return lambda: torch.topk(x @ W.t(), K)
        return lambda: x @ W.t()

    measure("mm_bfloat16", lambda: product(torch.bfloat16, False))
    measure("mm_and_topk_bfloat16", lambda: product(torch.bfloat16, True))
    measure("mm_float32", lambda: product(torch.float32, False))
    measure("dense_step", lambda: dense_step(False))
    measure("dense_step_compiled", lambda: dense_step(True))
    print(json.dumps({"device": torch.cuda.get_device_name(0), "torch": torch.__version__, "cuda": torch.version.cuda,
                      "size": SIZE, "d": D, "n_latents": N, "rows": ROWS, "k": K, "repeats": REPEATS, "times": times,
                      "left_out": left_out}, indent=2))


main()
