"""Draws held-out fvu against training tokens from RUN/curve.json files as one SVG, for README and reports.

    build/bin/thresher eval runs/smollm2-topk --curve
    python3 tools/plot_curve.py docs/images/held-out-fvu.svg runs/smollm2-topk runs/smollm2-relu
"""
import html
import json
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 360, 64, 150, 24, 48
COLOURS = ["#0b6e99", "#c4501b", "#4b7a2b", "#7a3e9d"]


def load(run):
    """[(name, [(tokens, fvu)])] of one run directory."""
    series = {}
    for point in json.loads((Path(run) / "curve.json").read_text()):
        series.setdefault(point["name"], []).append((point["tokens"], point["fvu"]))
    return [(name, sorted(points)) for name, points in series.items()]


def draw(series):
    most_tokens = max(t for _, points in series for t, _ in points)
    x = lambda tokens: LEFT + tokens / most_tokens * (WIDTH - LEFT - RIGHT)
    y = lambda fvu: TOP + (1 - min(fvu, 1)) * (HEIGHT - TOP - BOTTOM)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for step in range(6):
        fvu = step / 5
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(fvu):.1f}" y2="{y(fvu):.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(fvu) + 4:.1f}" text-anchor="end">{fvu:.1f}</text>')
    for step in range(5):
        tokens = most_tokens * step / 4
        out.append(f'<text x="{x(tokens):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{tokens / 1000:.0f}k</text>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">training tokens</text>')
    out.append(f'<text x="16" y="{HEIGHT / 2}" transform="rotate(-90 16 {HEIGHT / 2})" text-anchor="middle">held-out FVU</text>')
    for (name, points), colour in zip(series, COLOURS * len(series)):
        path = " ".join(f"{x(t):.1f},{y(f):.1f}" for t, f in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        out += [f'<circle cx="{x(t):.1f}" cy="{y(f):.1f}" r="3.5" fill="{colour}"/>' for t, f in points]
        tokens, fvu = points[-1]
        out.append(f'<text x="{x(tokens) + 10:.1f}" y="{y(fvu) + 4:.1f}" fill="{colour}">{html.escape(name)} {fvu:.3f}</text>')
    return "\n".join(out + ["</svg>", ""])


if len(sys.argv) < 3:
    sys.exit(f"usage: {sys.argv[0]} OUT.svg RUN...\n" + __doc__)
target = Path(sys.argv[1])
target.parent.mkdir(parents=True, exist_ok=True)
target.write_text(draw([s for run in sys.argv[2:] for s in load(run)]))
print(target)
