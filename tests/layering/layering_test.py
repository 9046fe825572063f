"""A folder includes only folders above it, outside libraries stay where the table puts them, and every source file
belongs to a layer. The table is the one of docs/architecture.md."""
import os
import re
import sys
from pathlib import Path

ROOT = Path(os.environ["THRESHER_SOURCE_DIR"])
LAYERS = ["core", "comm", "kernels", "corpus", "host_model", "activation_cache", "activation_cache/harvest", "sae",
          "trainer", "evaluation", "features", "cli", "operators"]
# activation_cache itself is torch-free and knows nothing of text or models; its harvest target is where they meet.
ABOVE = {layer: set(LAYERS[:i]) for i, layer in enumerate(LAYERS)}
ABOVE["comm"] = {"core"}
ABOVE["kernels"] = {"core"}
ABOVE["corpus"] = {"core"}
ABOVE["host_model"] = {"core"}
ABOVE["activation_cache"] = {"core"}
ABOVE["activation_cache/harvest"] = {"core", "comm", "corpus", "host_model", "activation_cache"}
ABOVE["operators"] = {"core", "kernels"}
ABOVE["sae"] = {"core", "comm", "kernels", "activation_cache"}
ABOVE["trainer"] = {"core", "comm", "kernels", "activation_cache", "sae"}

# Outside headers by the folder that may name them; fmt is for implementation files everywhere.
OUTSIDE = {
    "yaml-cpp/": {"core"}, "spdlog/": {"core"}, "nlohmann/": {"core"}, "openssl/": {"core"}, "xxhash": {"core"},
    "mpi.h": {"comm"}, "nccl": {"comm"}, "cuda_runtime": {"comm", "kernels"}, "pcre2": {"corpus"}, "utf8proc": {"corpus"},
    "zlib.h": {"corpus"}, "zstd.h": {"corpus"},
    "hdf5": {"activation_cache"}, "H5": {"activation_cache"}, "CLI/": {"cli"},
    "sqlite3": {"features"}, "httplib": {"features"},
    "ATen/": {"host_model", "activation_cache/harvest", "sae", "trainer", "evaluation", "features", "cli",
              "operators"},
    "c10/": {"host_model", "activation_cache/harvest", "sae", "trainer", "evaluation", "features", "cli",
              "operators"},
    "torch/library.h": {"operators"}, "torch/csrc/": {"operators"},
}
ONLY_IN_SOURCES = ["fmt/", "yaml-cpp/", "spdlog/", "nlohmann/", "openssl/", "xxhash", "mpi.h", "nccl", "pcre2", "utf8proc",
                   "zlib.h", "zstd.h", "sqlite3", "httplib", "CLI/", "ATen/ATen.h"]
# The RAII wrapper is private to its folder (not installed), so it may name the library's handle type.
PRIVATE_HEADERS = {"activation_cache/hdf5_handle.h"}


def layer_of(path):
    relative = path.relative_to(ROOT).as_posix()
    for layer in sorted(LAYERS, key=len, reverse=True):
        if relative.startswith(layer + "/"):
            return layer
    return None


def findings():
    n_files = 0
    for path in sorted(p for layer in LAYERS if "/" not in layer for p in (ROOT / layer).rglob("*")):
        if path.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
            continue
        n_files += 1
        layer = layer_of(path)
        relative = path.relative_to(ROOT).as_posix()
        is_header = path.suffix in {".h", ".cuh"}
        text = path.read_text()
        if is_header and "#pragma once" not in text:
            yield f"{relative}: no #pragma once"
        for number, line in enumerate(text.splitlines(), 1):
            match = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
            if not match:
                continue
            name = match.group(2)
            where = f"{relative}:{number}"
            if match.group(1) == '"':
                target = layer_of(ROOT / name)
                if not (ROOT / name).exists() or target is None:
                    yield f"{where}: includes \"{name}\", which is no file of a layer; write includes from the root"
                elif target != layer and target not in ABOVE[layer]:
                    yield f"{where}: {layer} includes {name}, but {target} is not above it"
                continue
            if name == "torch/torch.h":
                yield f"{where}: torch/torch.h takes 14 s to parse; include the ATen header that is needed"
            for prefix, folders in OUTSIDE.items():
                if name.startswith(prefix):
                    if layer not in folders and layer.split("/")[0] not in (folders - {"activation_cache"}):
                        yield f"{where}: {layer} includes <{name}>; only {', '.join(sorted(folders))} may"
            if is_header and relative not in PRIVATE_HEADERS and any(name.startswith(p) for p in ONLY_IN_SOURCES):
                yield f"{where}: a header includes <{name}>; outside types stay in .cpp files"
            if is_header and name.startswith(("fmt/",)):
                yield f"{where}: a header includes <{name}>"
    if n_files < 50:
        yield f"only {n_files} source files found under {ROOT}: the test looks in the wrong place"


problems = list(findings())
print("\n".join(problems) if problems else "layering holds")
sys.exit(1 if problems else 0)
