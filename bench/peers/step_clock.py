"""What every peer's run shares: rows to train on, and a clock that sees what other processes take of the machine."""
import os
import time


def make_rows(path, d, n_rows, seed=0):
    """Writes n_rows activations [n_rows, d] as float32 .npy: each the sum of 16 of 8 d unit directions (popularity
    ~ rank^-0.7, amplitude 0.2 + Exp(1)), one mean for all, noise; mean norm sqrt(d). As `thresher bench step` makes its own."""
    import numpy
    import torch

    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(8 * d, d, generator=generator), dim=1)
    popularity = 1.0 / torch.arange(1, 8 * d + 1, dtype=torch.float32) ** 0.7
    chosen = torch.multinomial(popularity, n_rows * 16, replacement=True, generator=generator).view(n_rows, 16)
    amplitudes = torch.empty(n_rows, 16).exponential_(1.0, generator=generator) + 0.2
    rows = torch.nn.functional.embedding_bag(chosen, directions, per_sample_weights=amplitudes, mode="sum")
    rows += 0.05 * torch.randn(n_rows, d, generator=generator) + 0.1 * torch.randn(1, d, generator=generator)
    rows *= d ** 0.5 / rows.norm(dim=1).mean()
    numpy.save(path, rows.numpy())


def busy_seconds():
    """Of all processors since the machine started; iowait and idle are not work."""
    with open("/proc/stat") as file:
        ticks = [int(value) for value in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


class StepClock:
    """mark() at the same point of every step; what lies between two marks is a whole step of the peer's loop."""

    JUDGED_SECONDS = 0.5  # the kernel counts in ticks of 10 ms: short steps are judged with their neighbours

    def __init__(self):
        self.marks = []

    def mark(self):
        self.marks.append((time.perf_counter(), time.process_time(), busy_seconds()))

    def seconds(self):
        return [after[0] - before[0] for before, after in zip(self.marks, self.marks[1:])]

    def cpu_seconds(self):
        return [after[1] - before[1] for before, after in zip(self.marks, self.marks[1:])]

    def other_cores(self):
        """Cores that other processes used, a step."""
        out, last = [], len(self.marks) - 1
        for step in range(last):
            a, b = step, step + 1
            while self.marks[b][0] - self.marks[a][0] < self.JUDGED_SECONDS and (a > 0 or b < last):
                a, b = max(a - 1, 0), min(b + 1, last)
            wall, own, busy = (y - x for x, y in zip(self.marks[a], self.marks[b]))
            out.append(max(0.0, (busy - own) / wall))
        return out
