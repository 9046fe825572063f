"""What ptxas says of every CUDA kernel: registers, spills, shared memory, as the table of docs/performance.md.

    python3 tools/ptxas_report.py [80 90]
"""

import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]


def plain(name):
    """`void ns::(anonymous namespace)::kernel<4, ns::Pairs>(...)` -> `kernel<4, Pairs>`."""
    name = name.replace("(anonymous namespace)::", "").split("(")[0].removeprefix("void ")
    return re.sub(r"[A-Za-z_]\w*::", "", name)


def kernels_of(path, arch):
    with tempfile.NamedTemporaryFile(suffix=".o") as out:
        done = subprocess.run(["nvcc", "-std=c++17", "-O3", "--fmad=false", "-Xptxas", "-v", f"-arch=sm_{arch}", f"-I{ROOT}",
                               "-c", path, "-o", out.name], capture_output=True, text=True, check=True)
    names = subprocess.run(["c++filt"], input=done.stderr, capture_output=True, text=True, check=True).stdout
    entry = None
    for line in names.splitlines():
        if match := re.search(r"Compiling entry function '(.*)' for", line):
            entry = {"name": plain(match[1])}
        elif (match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)) and entry:
            entry["spills"] = f"{match[2]} / {match[3]}"
        elif (match := re.search(r"Used (\d+) registers", line)) and entry:
            shared = re.search(r"(\d+) bytes smem", line)
            yield {**entry, "registers": match[1], "shared": shared[1] if shared else "0"}
            entry = None


def main():
    archs = sys.argv[1:] or ["80", "90"]
    rows = {}
    for path in sorted((ROOT / "kernels").glob("*_cuda.cu")):
        for arch in archs:
            for kernel in kernels_of(path, arch):
                if "Radix" in kernel["name"] or kernel["name"].startswith("EmptyKernel"):
                    continue  # CUB's own
                rows.setdefault((path.stem.removesuffix("_cuda"), kernel["name"]), {})[arch] = kernel
    heads = [f"sm_{arch}: {what}" for arch in archs for what in ("registers", "spills, B stored / loaded", "static shared, B")]
    print("| file | kernel | " + " | ".join(heads) + " |")
    print("| --- | --- |" + " ---: |" * len(heads))
    for (file, name), of_arch in rows.items():
        cells = [of_arch.get(arch, {}).get(what, "") for arch in archs for what in ("registers", "spills", "shared")]
        print(f"| {file} | `{name}` | " + " | ".join(cells) + " |")


main()
