"""Damaged GGUF files, judged by our reader and by the `gguf` package: what we accept, the package reads as the same keys and
tensors; where we refuse what it reads, the reason is one of the list below. In one place we are laxer: names and strings
are bytes to us, and the package's decoder refuses those that are not UTF-8.

  gguf_differential.py [--files N]        default 4,000; the long tier takes 100,000"""

import argparse
import collections
import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import gguf
import numpy as np

DUMP = Path(os.environ["THRESHER_BIN"]) / "gguf_dump"
# Where we are stricter than the package, by what we say after the byte's place. The package checks few sizes, because it
# maps the file and lets NumPy cut what is missing.
STRICTER = {
    "a key is empty": r"metadata entry \d+ has an empty key",
    "a name is empty": r"a tensor has an empty name",
    "a name is longer than 64 bytes": r"a tensor name is \d+ bytes long",
    "a key stands twice": r"metadata '.*' stands twice in the file",
    "a name stands twice": r"tensor '.*' stands twice in the table",
    "a bool is neither 0 nor 1": r"metadata '.*' is a bool with value \d+",
    "an array of arrays": r"metadata '.*' is an array of arrays",
    "a type without meaning": r"metadata '.*' has the unknown type \d+",
    "an odd alignment": r"general\.alignment (=|is of type) .*",
    "a version that is not 2 or 3": r"(GGUF version \d+|a big-endian GGUF file)",
    "more dimensions than 4, or none": r"tensor '.*' has \d+ dimensions",
    "a dimension of 0": r"tensor '.*' has a dimension of \d+",
    "a row that does not fill its blocks": r"tensor '.*' has rows of \d+ values in .* blocks",
    "an offset that is not aligned": r"tensor '.*' starts at \d+ of the data",
    "data past the end": r"tensor '.*' of \d+ bytes at \d+ of the data goes past the end",
    "bytes of two tensors": r"tensors '.*' and '.*' share bytes",
    "the file ends inside": r"the file ends inside .*",
    "more elements than the file can hold": r"metadata '.*' is an array of \d+ elements",
    "counts that the file cannot hold": r"\d+ (tensors|metadata entries) are announced",
    "a string longer than the file": r"a (metadata key|metadata string|string of an array) is \d+ bytes long",
    "a tensor type without meaning": r"tensor '.*' has the unknown type \d+",
    "text that is not UTF-8": r".*UTF-8.*",
    "not the magic number": r"not a GGUF file",
}
EDGES = [0, 1, 2, 31, 32, 127, 255, 65535, 2**31, 2**32 - 1, 2**32, 2**62, 2**63, 2**64 - 1]


def write_seed(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("u32", 7)
    writer.add_float32("f32", 2.5)
    writer.add_bool("yes", True)
    writer.add_uint64("u64", 9)
    writer.add_array("tokens", ["a", "b", "ab", "Ġthe"])
    writer.add_array("types", [1, 1, 3])
    writer.add_tensor("f32", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("f16", np.arange(4, dtype=np.float16))
    block = gguf.quants.quantize(np.ones((2, 32), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q8_0", block, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def mutated(seed, generator):
    data = bytearray(seed)
    for _ in range(generator.randint(1, 3)):
        at = generator.randrange(len(data))
        kind = generator.randrange(6)
        if kind == 0:
            data[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            data[at] = generator.randrange(256)
        elif kind == 2:
            width = generator.choice([4, 8])
            data[at:at + width] = struct.pack("<Q", generator.choice(EDGES))[:width]
        elif kind == 3:
            start = generator.randrange(len(data))
            data[at:at] = data[start:start + generator.randint(1, 40)]
        elif kind == 4:
            del data[at:at + generator.randint(1, 16)]
        else:
            del data[at:]
        if not data:
            data = bytearray(seed)
    return bytes(data)


NOT_UTF8 = "not UTF-8"


class TooLong(Exception):
    pass


def on_alarm(*_):
    raise TooLong


def read_with_package(path):
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = gguf.GGUFReader(path)
    # Three fields of the header count among the package's.
    n_keys = len(reader.fields) - 3
    tensors = [[t.name, [int(size) for size in reversed(t.shape.tolist())], int(t.tensor_type), int(t.data_offset)]
               for t in reader.tensors]
    return n_keys, tensors


def reference(path):
    """(number of keys, tensors) as the package reads the file, or None; a hang of its own counts as a refusal."""
    try:
        signal.setitimer(signal.ITIMER_PROF, 0.5)  # processor time: a busy machine is no hang
        try:
            return read_with_package(path)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except UnicodeDecodeError:
        return NOT_UTF8
    except Exception:  # the package raises whatever its parts raise
        return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=4000)
    options = parser.parse_args()
    signal.signal(signal.SIGPROF, on_alarm)
    generator = random.Random(23)
    failures, counts, stricter = [], collections.Counter(), collections.Counter()
    with tempfile.TemporaryDirectory(prefix="thresher-gguf-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as root:
        seed_path = Path(root) / "seed.gguf"
        write_seed(seed_path)
        seed = seed_path.read_bytes()
        for first in range(0, options.files, 2000):
            folder = Path(root) / "batch"
            folder.mkdir()
            for i in range(first, min(first + 2000, options.files)):
                (folder / f"{i:06d}.gguf").write_bytes(mutated(seed, generator) if i else seed)
            lines = subprocess.run([DUMP, "check", folder], check=True, capture_output=True, text=True).stdout.splitlines()
            for line in lines:
                ours = json.loads(line)
                theirs = reference(folder / ours["file"])
                if "refused" not in ours:
                    counts["accepted"] += 1
                    if theirs == NOT_UTF8:
                        counts["laxer: not UTF-8"] += 1
                    elif theirs is None:
                        failures.append(f"{ours['file']}: we accept what the package refuses")
                    elif theirs != (ours["n_keys"], ours["tensors"]):
                        failures.append(f"{ours['file']}: ours {ours}, theirs {theirs}")
                elif theirs in (None, NOT_UTF8):
                    counts["refused by both"] += 1
                else:
                    problem = re.sub(r"^at byte \d+: ", "", ours["refused"])
                    reason = next((name for name, text in STRICTER.items() if re.fullmatch(text, problem)), None)
                    counts["stricter"] += 1
                    stricter[reason] += 1
                    if reason is None:
                        failures.append(f"{ours['file']}: the package reads it, we say: {ours['refused']}")
            shutil.rmtree(folder)
    print(f"{options.files} damaged files:", dict(counts))
    for reason, count in sorted(stricter.items(), key=lambda item: -item[1]):
        print(f"  stricter: {reason}: {count}")
    if counts["accepted"] < options.files // 20:
        failures.append("hardly any damaged file was accepted: the comparison says nothing")
    print("\n".join(failures[:40]))
    print("gguf differential:", f"FAILED ({len(failures)})" if failures else "passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
