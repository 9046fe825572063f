"""How the training step's cost grows with the number of latents: a plot and the figures behind it.

    python3 bench/step_growth.py docs/images/step-growth.svg --out bench/results/step-growth-DATE.json

`thresher bench step` at each n, several turns over all of them, the fastest quiet step of each (fewest of other processes'
interruptions in it). The step costs no more than proportionally if its time a latent does not rise with n.
"""
import argparse
import datetime
import json
import math
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUIET_CORES = 0.15
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 72, 170, 24, 52

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("plot", help="an .svg file to write")
parser.add_argument("--out", help="a .json file to write")
parser.add_argument("--variant", default="topk")
parser.add_argument("--latents", default="8192,16384,32768,65536,131072")
parser.add_argument("--d", type=int, default=512)
parser.add_argument("--batch", type=int, default=2048)
parser.add_argument("--k", type=int, default=32, help="of topk and batch_topk; the --l0 of other variants")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--steps", type=int, default=5, help="a turn")
parser.add_argument("--turns", type=int, default=3)
parser.add_argument("--program", default=str(ROOT / "build/bin/thresher"))
options = parser.parse_args()


def run(n):
    command = [options.program, "bench", "step", "--variant", options.variant, "--d", options.d, "--n", n, "--batch",
               options.batch, "--k" if options.variant.endswith("topk") else "--l0", options.k, "--threads",
               options.threads, "--steps", options.steps, "--json"]
    return json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout)


def fastest(turns, key):
    pairs = [pair for turn in turns for pair in zip(turn["rounds"][key], turn["rounds"]["other_cores"])]
    return min([s for s, other in pairs if other < QUIET_CORES] or [s for s, _ in pairs])


def measure():
    sizes = [int(n) for n in options.latents.split(",")]
    turns = {n: [] for n in sizes}
    for _ in range(options.turns):
        for n in sizes:
            turns[n].append(run(n))
    first = fastest(turns[sizes[0]], "step_seconds")
    return [{"n": n, "step_seconds": fastest(turns[n], "step_seconds"),
             "encoder_product_seconds": fastest(turns[n], "encoder_product_seconds"),
             "seconds_over_proportional": fastest(turns[n], "step_seconds") / first * sizes[0] / n,
             "quiet_steps": sum(turn["quiet_steps"] for turn in turns[n]), "steps": sum(turn["steps"] for turn in turns[n]),
             "peak_rss_bytes": max(turn["memory"]["peak_rss_bytes"] for turn in turns[n])} for n in sizes]


def draw(points):
    """Both axes logarithmic; what is proportional to n rises as the dashed line does."""
    most, least = points[-1]["n"], points[0]["n"]
    proportional = points[0]["step_seconds"] * most / least
    seconds = [p[key] for p in points for key in ("step_seconds", "encoder_product_seconds")] + [proportional]
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))
    x = lambda n: LEFT + math.log(n / least) / math.log(most / least) * (WIDTH - LEFT - RIGHT)
    y = lambda s: TOP + (high - math.log10(s)) / (high - low) * (HEIGHT - TOP - BOTTOM)
    text = lambda x, y, words, more="": f'<text x="{x:.1f}" y="{y:.1f}" {more}>{words}</text>'
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for decade in range(low, high + 1):
        for part in (1, 2, 5) if decade < high else (1,):
            s = part * 10.0 ** decade
            out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(s):.1f}" y2="{y(s):.1f}" stroke="#ddd"/>')
            out.append(text(LEFT - 8, y(s) + 4, f"{1e3 * s:g}", 'text-anchor="end"'))
    out += [text(x(p["n"]), HEIGHT - BOTTOM + 18, f'{p["n"]:,}', 'text-anchor="middle"') for p in points]
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "latents", 'text-anchor="middle"'))
    out.append(text(16, HEIGHT / 2, "ms", f'transform="rotate(-90 16 {HEIGHT / 2})" text-anchor="middle"'))
    out.append(f'<line x1="{x(least):.1f}" y1="{y(points[0]["step_seconds"]):.1f}" x2="{x(most):.1f}" '
               f'y2="{y(proportional):.1f}" stroke="#888" stroke-dasharray="6 5"/>')
    labels = [(proportional, "proportional to n", "#666")]
    for key, name, colour in (("step_seconds", f"step, {options.variant}", "#0b6e99"),
                              ("encoder_product_seconds", "encoder product", "#c4501b")):
        path = " ".join(f'{x(p["n"]):.1f},{y(p[key]):.1f}' for p in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        out += [f'<circle cx="{x(p["n"]):.1f}" cy="{y(p[key]):.1f}" r="3.5" fill="{colour}"/>' for p in points]
        labels.append((points[-1][key], name, colour))
    below = 0.0  # labels of near lines must not lie on each other
    for seconds, words, colour in sorted(labels, reverse=True):
        below = max(y(seconds) + 4, below + 16)
        out.append(text(x(most) + 10, below, words, f'fill="{colour}"'))
    return "\n".join(out + ["</svg>", ""])


points = measure()
Path(options.plot).parent.mkdir(parents=True, exist_ok=True)
Path(options.plot).write_text(draw(points))
report = {"bench": "step_growth", "date": datetime.date.today().isoformat(), "variant": options.variant, "d": options.d,
          "batch": options.batch, "k": options.k, "threads": options.threads, "points": points}
if options.out:
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(report, indent=1) + "\n")
print(f"{'latents':>8} {'step ms':>9} {'product ms':>10} {'step / product':>14} {'over proportional':>17} {'quiet':>7} {'peak GiB':>8}")
for p in points:
    print(f"{p['n']:8} {1e3 * p['step_seconds']:9.1f} {1e3 * p['encoder_product_seconds']:10.1f} "
          f"{p['step_seconds'] / p['encoder_product_seconds']:14.2f} {p['seconds_over_proportional']:17.2f} "
          f"{p['quiet_steps']:3}/{p['steps']:<3} {p['peak_rss_bytes'] / 2**30:8.2f}")
