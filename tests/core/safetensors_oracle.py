"""The Python package safetensors as oracle: files go both ways, and damaged files are judged by both readers.

  safetensors_oracle.py [--files N]        damaged files; default 4,000, the long tier takes 100,000"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.torch import save_file

TOOL = Path(os.environ["THRESHER_BIN"]) / "safetensors_tool"
# Where our reader is stricter than the reference, by the beginning of its message after the tensor's name.
STRICTER = ("unknown key", "shape has more than 8", "duplicate key", "__metadata__", "a tensor's name has",
            "dtype \"", "duplicate tensor")
failures = []


def expect(condition, message):
    if not condition:
        failures.append(message)
        print("FAILED:", message)


def tool(*arguments):
    return subprocess.run([TOOL, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def bytes_of(tensor):
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else tensor.reshape(1).view(
        torch.uint8).numpy().tobytes()


def check_python_to_cpp(folder):
    generator = torch.Generator().manual_seed(5)
    tensors = {
        "W_enc": torch.randn(17, 33, generator=generator),
        "half": torch.randn(5, generator=generator).half(),
        "brain": torch.randn(3, 7, generator=generator).bfloat16(),
        "f64": torch.randn(2, generator=generator).double(),
        "i64": torch.tensor([-1, 2**62]),
        "i32": torch.tensor([[-1], [2**30]], dtype=torch.int32),
        "u8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 4),
    }
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
             torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"}
    metadata = {"format": "pt", "ключ": "\"значение\"\n"}
    save_file(tensors, folder / "python.safetensors", metadata)
    found = json.loads(tool("dump", folder / "python.safetensors"))
    expect(found["metadata"] == metadata, f"metadata {found['metadata']} != {metadata}")
    expect(set(found["tensors"]) == set(tensors), f"names {sorted(found['tensors'])}")
    for name, tensor in tensors.items():
        wanted = {"dtype": names[tensor.dtype], "shape": list(tensor.shape),
                  "sha256": hashlib.sha256(bytes_of(tensor)).hexdigest()}
        expect(found["tensors"].get(name) == wanted, f"{name}: {found['tensors'].get(name)} != {wanted}")


def check_cpp_to_python(folder):
    path = folder / "cpp.safetensors"
    tool("write", path)
    doubles = torch.tensor([np.ldexp(i - 11.5, i - 12) for i in range(24)], dtype=torch.float64)
    floats = doubles.float()
    wanted = {
        "f64": doubles.reshape(2, 3, 4), "f32": floats.reshape(2, 3, 4), "f16": floats.half(),
        "bf16": floats.bfloat16().reshape(4, 6), "i64": torch.tensor([-1, 0, 2**62]),
        "i32": torch.tensor([[-1], [0], [2**30]], dtype=torch.int32),
        "u8": torch.tensor([0, 1, 255], dtype=torch.uint8), "bool": torch.tensor([False, True, True]),
        "scalar": floats[0].clone(), "empty": torch.zeros(0, 5), "näme \"x\"": torch.tensor([0], dtype=torch.uint8),
    }
    with safe_open(path, framework="pt") as file:
        expect(file.metadata() == {"format": "pt", "note": "€ \"q\"\n"}, f"metadata {file.metadata()}")
        expect(set(file.keys()) == set(wanted), f"names {sorted(file.keys())}")
        for name, tensor in wanted.items():
            found = file.get_tensor(name)
            same = found.dtype == tensor.dtype and found.shape == tensor.shape and bytes_of(found) == bytes_of(tensor)
            expect(same, f"{name}: {found} != {tensor}")


def mutated(seed, generator):
    data = bytearray(seed)
    for _ in range(generator.randint(1, 3)):
        at = generator.randrange(len(data))
        kind = generator.randrange(5)
        if kind == 0:
            data[at] = generator.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << generator.randrange(8)
        elif kind == 2:
            start = generator.randrange(len(data))
            data[at:at] = data[start:start + generator.randint(1, 30)]
        elif kind == 3:
            del data[at:at + generator.randint(1, 8)]
        else:
            digits = [i for i, byte in enumerate(data[8:], 8) if 48 <= byte <= 57]
            data[generator.choice(digits)] = 48 + generator.randrange(10)
        if len(data) < 9:
            data = bytearray(seed)
    if generator.randrange(3):  # keep the length right, so that more inputs reach the checks behind it
        header_bytes = len(data) - 8 - 26
        data[:8] = max(header_bytes, 0).to_bytes(8, "little")
    return bytes(data)


def with_length(header, data_bytes):
    return len(header).to_bytes(8, "little") + header + bytes(data_bytes)


def odd_files():
    """Files on which the two readers may part: (name, content)."""
    one = b'"dtype":"U8","shape":[1],"data_offsets":[0,1]'
    yield "unknown-key", with_length(b'{"a":{' + one + b',"x":1}}', 1)
    yield "rank-9", with_length(b'{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}', 1)
    yield "rank-8", with_length(b'{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}', 1)
    yield "null-metadata", with_length(b'{"__metadata__":null,"a":{' + one + b'}}', 1)
    yield "long-name", with_length(b'{"' + b"n" * 513 + b'":{' + one + b'}}', 1)
    yield "empty-name", with_length(b'{"":{' + one + b'}}', 1)
    yield "duplicate-tensor", with_length(b'{"a":{' + one + b'},"a":{' + one + b'}}', 1)
    yield "duplicate-dtype", with_length(b'{"a":{' + one + b',"dtype":"U8"}}', 1)
    yield "duplicate-metadata-key", with_length(b'{"__metadata__":{"k":"1","k":"2"},"a":{' + one + b'}}', 1)
    yield "f4", with_length(b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}', 1)
    yield "c64", with_length(b'{"a":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}', 8)
    yield "no-tensors", with_length(b"{}", 0)
    yield "nul", with_length(b'{"a":{' + one + b'}}\0', 1)
    yield "newline-behind", with_length(b'{"a":{' + one + b'}}\n', 1)
    yield "minus-zero", with_length(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[-0,1]}}', 1)
    yield "data-missing", with_length(b'{"a":{' + one + b'}}', 0)
    yield "data-behind", with_length(b'{"a":{' + one + b'}}', 2)
    yield "hole", with_length(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', 2)


def check_damaged_files(folder, count):
    folder.mkdir()
    header = (b'{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
              b'"b":{"dtype":"U8","shape":[2],"data_offsets":[24,26]}}')
    seed = len(header).to_bytes(8, "little") + header + bytes(26)
    generator = random.Random(11)
    verdicts = {}
    files = [(f"{i:06d}", mutated(seed, generator) if i else seed) for i in range(count)]
    files += odd_files()
    for name, data in files:
        (folder / name).write_bytes(data)
        try:
            deserialize(data)
            verdicts[name] = True
        except SafetensorError:
            verdicts[name] = False
    accepted = stricter = 0
    for line in tool("check", folder).splitlines():
        name, ours = line.split(": ", 1)
        if ours == "accepted":
            accepted += 1
            expect(verdicts[name], f"file {name}: we accept what the reference refuses")
        elif verdicts[name]:
            problem = ours.split(": ", 1)[1] if ours.startswith("tensor \"") else ours
            stricter += 1
            print(f"stricter than the reference: {name}: {ours}")
            expect(problem.startswith(STRICTER), f"file {name}: the reference accepts it, we say: {ours}")
    both = len(files) - accepted - stricter
    print(f"{len(files)} damaged files: {accepted} accepted by both, {both} refused by both, {stricter} where we are stricter")
    expect(accepted > count // 100, "hardly any damaged file was accepted: the comparison says nothing")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=4000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thresher-safetensors-") as name:
        folder = Path(name)
        check_python_to_cpp(folder)
        check_cpp_to_python(folder)
        check_damaged_files(folder / "damaged", options.files)
    print("safetensors oracle:", "FAILED" if failures else "passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
