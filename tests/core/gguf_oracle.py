"""Dequantisation, bit for bit against the `gguf` package:

- numbers of all sizes as the package's own quantiser packs them, for the types that it quantises: F16, BF16, Q4_0, Q4_1,
  Q5_0, Q5_1, Q8_0 (tensors named after their type);
- random bytes with finite scales, which are valid blocks with every bit pattern of every field, for these and for the
  K-quants Q2_K to Q6_K, which the package reads and does not quantise (tensors named raw_...);
- every float16 and every bfloat16;
- the real model, and any files given as arguments."""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

DUMP = Path(os.environ["THRESHER_BIN"]) / "gguf_dump"
MODEL = Path(os.environ["THRESHER_SOURCE_DIR"]) / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def expected_lines(path):
    lines = []
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        values = np.ascontiguousarray(values, dtype=np.float32)
        shape = ",".join(str(size) for size in reversed(tensor.shape.tolist()))
        digest = hashlib.sha256(values.data).hexdigest()
        lines.append(f"{tensor.name} [{shape}] {tensor.tensor_type.name} {digest}")
    return lines


def differences(path):
    ours = subprocess.run([DUMP, path], check=True, capture_output=True, text=True).stdout.splitlines()
    theirs = expected_lines(path)
    bad = [f"  gguf {b}\n  ours {a}" for a, b in zip(ours, theirs) if a != b]
    if len(ours) != len(theirs):
        bad.append(f"  {len(ours)} tensors, the gguf package finds {len(theirs)}")
    print(f"{path}: {len(theirs)} tensors, {len(bad)} differ")
    return bad


def finite_halves(random, count):
    """Bit patterns of float16 that are neither infinite nor NaN: zeros, subnormals, both signs."""
    bits = random.integers(0, 1 << 16, count, dtype=np.uint16)
    return np.where((bits & 0x7C00) == 0x7C00, bits & 0x83FF, bits).astype(np.uint16)


QUANTISED = (Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0)
# Bytes of a block, and where its float16 numbers stand.
RAW_BLOCKS = {
    Type.Q4_0: (18, [0]), Type.Q4_1: (20, [0, 2]), Type.Q5_0: (22, [0]), Type.Q5_1: (24, [0, 2]), Type.Q8_0: (34, [0]),
    Type.Q2_K: (84, [80, 82]), Type.Q3_K: (110, [108]), Type.Q4_K: (144, [0, 2]), Type.Q5_K: (176, [0, 2]),
    Type.Q6_K: (210, [208]),
}


def raw_blocks(random, kind, rows, blocks_per_row):
    size, halves = RAW_BLOCKS[kind]
    count = rows * blocks_per_row
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for place in halves:
        blocks[:, place : place + 2] = finite_halves(random, count).reshape(count, 1).view(np.uint8)
    return blocks.reshape(rows, -1)


def is_quantised_by_the_package(kind):
    try:
        gguf.quants.quantize(np.ones((1, 256), np.float32), kind)
    except NotImplementedError:
        return False
    return True


def write_synthetic(path):
    random = np.random.default_rng(17)
    writer = gguf.GGUFWriter(path, "llama")
    normal = (random.standard_normal((48, 96)) * np.exp(random.uniform(-12, 6, (48, 1)))).astype(np.float32)
    writer.add_tensor("f32", normal)
    for kind in QUANTISED:
        packed = gguf.quants.quantize(normal, kind)
        if kind == Type.F16:
            writer.add_tensor("f16", packed)
        else:
            writer.add_tensor(kind.name.lower(), packed, raw_dtype=kind)
    every_half = np.arange(1 << 16, dtype=np.uint16)
    writer.add_tensor("every_f16", every_half.view(np.float16))
    writer.add_tensor("every_bf16", every_half.view(np.uint8), raw_dtype=Type.BF16)
    for kind in RAW_BLOCKS:
        writer.add_tensor(f"raw_{kind.name.lower()}", raw_blocks(random, kind, 64, 70), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    if not MODEL.exists():
        sys.exit(f"{MODEL} is missing: run tools/setup.sh")
    left_out = [kind.name for kind in RAW_BLOCKS if is_quantised_by_the_package(kind) != (kind in QUANTISED)]
    assert not left_out, f"the package's quantiser is not used as it could be for {left_out}"
    with tempfile.TemporaryDirectory() as folder:
        synthetic = Path(folder) / "synthetic.gguf"
        write_synthetic(synthetic)
        bad = []
        for path in (synthetic, MODEL, *map(Path, sys.argv[1:])):
            bad += differences(path)
    if bad:
        print("\n".join(bad))
        sys.exit(1)


if __name__ == "__main__":
    main()
