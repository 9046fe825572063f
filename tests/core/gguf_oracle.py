"""Dequantisation, bit for bit against the `gguf` package: made-up blocks of every type, and the real model."""

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


def raw_blocks(random, header_halves, payload_bytes, rows, blocks_per_row):
    count = rows * blocks_per_row
    header = finite_halves(random, count * header_halves).reshape(count, header_halves).view(np.uint8)
    payload = random.integers(0, 256, (count, payload_bytes), dtype=np.uint8)
    return np.concatenate([header, payload], axis=1).reshape(rows, -1)


def write_synthetic(path):
    random = np.random.default_rng(17)
    writer = gguf.GGUFWriter(path, "llama")
    normal = (random.standard_normal((48, 96)) * np.exp(random.uniform(-12, 6, (48, 1)))).astype(np.float32)
    writer.add_tensor("f32", normal)
    for kind in (Type.F16, Type.BF16, Type.Q4_1, Type.Q8_0):
        packed = gguf.quants.quantize(normal, kind)
        if kind == Type.F16:
            writer.add_tensor("f16", packed)
        else:
            writer.add_tensor(kind.name.lower(), packed, raw_dtype=kind)
    every_half = np.arange(1 << 16, dtype=np.uint16)
    writer.add_tensor("every_f16", every_half.view(np.float16))
    writer.add_tensor("every_bf16", every_half.view(np.uint8), raw_dtype=Type.BF16)
    writer.add_tensor("raw_q4_1", raw_blocks(random, 2, 16, 64, 70), raw_dtype=Type.Q4_1)
    writer.add_tensor("raw_q8_0", raw_blocks(random, 1, 32, 64, 1100), raw_dtype=Type.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    if not MODEL.exists():
        sys.exit(f"{MODEL} is missing: run tools/setup.sh")
    with tempfile.TemporaryDirectory() as folder:
        synthetic = Path(folder) / "synthetic.gguf"
        write_synthetic(synthetic)
        bad = differences(synthetic) + differences(MODEL)
    if bad:
        print("\n".join(bad))
        sys.exit(1)


if __name__ == "__main__":
    main()
