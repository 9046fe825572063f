"""Opens shards with h5py and h5dump alone and compares them with the project's own reader, and with what the manifest
and the commit logs say about them. docs/cache-format.md describes all that is used here."""
import base64
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

TOOL = Path(os.environ["THRESHER_BIN"]) / "golden_cache_tool"
HOOKS = {"blocks.0.hook_resid_post": 12, "hook_embed": 5}
H5DUMP_TYPES = {
    "float32": "H5T_IEEE_F32LE",
    "float16": "16-bit little-endian floating-point",
    "bfloat16": "16-bit little-endian floating-point",
}
failures = []


def check(condition, message):
    if not condition:
        failures.append(message)
        print("FAILED:", message)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def compare_values(dtype, unit, shard, expected):
    for hook in HOOKS:
        data = shard[f"activations/{hook}"]
        found = data[:].astype(np.float32)
        check(data.dtype.kind == "f", f"{dtype}: h5py sees {data.dtype} for {hook}, not a float")
        check(data.chunks is None and data.compression is None, f"{dtype}: {hook} is not plain contiguous")
        check(np.array_equal(found.view(np.uint32), expected[hook].view(np.uint32)),
              f"{dtype} unit {unit} {hook}: values differ at {np.argwhere(found != expected[hook])[:5].tolist()}")


def compare_checksums(dtype, identity, record, shard, raw):
    names = [f"activations/{hook}" for hook in HOOKS] + ["context", "position", "document", "contexts/token_ids"]
    check(list(record["datasets"]) == names, f"{dtype}: datasets {list(record['datasets'])}")
    for name in names:
        place = record["datasets"][name]
        check(shard[name].id.get_offset() == place["offset"], f"{dtype} {name}: another offset")
        table = shard[f"crc32c/{name}"][:]
        row_bytes = place["bytes"] // place["rows"]
        starts = range(0, place["rows"], identity["block_rows"])
        check(len(table) == len(starts), f"{dtype} {name}: {len(table)} checksums")
        for checksum, first in zip(table, starts):
            begin = place["offset"] + first * row_bytes
            end = place["offset"] + min(first + identity["block_rows"], place["rows"]) * row_bytes
            check(crc32c(raw[begin:end]) == checksum, f"{dtype} {name}: checksum of row {first}")
        check(crc32c(table.astype("<u4").tobytes()) == place["checksums_crc32c"], f"{dtype} {name}: table checksum")


def compare_labels(dtype, identity, unit, shard):
    context, position, document = shard["context"][:], shard["position"][:], shard["document"][:]
    ids = shard["contexts/token_ids"][:]
    per_unit = identity["unit_tokens"] // identity["context_tokens"]
    check(np.array_equal(np.sort(context * 16 + position),
                         np.sort([c * 16 + p for c in range(unit * per_unit, (unit + 1) * per_unit)
                                  for p in range(1, 16)])), f"{dtype}: labels are no bijection")
    check(np.array_equal(document, context // 3), f"{dtype}: documents")
    check(np.array_equal(ids[context - unit * per_unit, position], context * 100 + position), f"{dtype}: token ids")
    check(dict(shard.attrs)["unit"] == unit and shard.attrs["dropped_first"] == per_unit, f"{dtype}: attributes")


def read_log(path):
    raw = path.read_bytes()
    at = 0
    while at < len(raw):
        length, crc = struct.unpack_from("<II", raw, at)
        text = raw[at + 8:at + 8 + length]
        check(crc32c(text) == crc, "a frame of the commit log")
        yield json.loads(text)
        at += 8 + length


def compare_moments(dtype, rows, record):
    for hook, values in rows.items():
        moments = record["moments"][hook]
        mean = np.frombuffer(base64.b64decode(moments["mean"]), "<f8")
        m2 = np.frombuffer(base64.b64decode(moments["m2"]), "<f8")
        with np.errstate(over="ignore", invalid="ignore"):
            wide = values.astype(np.float64)
            check(moments["count"] == len(wide), f"{dtype}: count")
            np.testing.assert_allclose(mean, wide.mean(0), rtol=1e-12)
            np.testing.assert_allclose(m2, ((wide - wide.mean(0)) ** 2).sum(0), rtol=1e-10)


def run(dtype, folder):
    cache = folder / dtype
    subprocess.run([TOOL, cache, dtype], check=True)
    identity = json.loads((cache / "cache.json").read_text())
    manifest = json.loads((cache / "MANIFEST.json").read_text())
    reader = np.fromfile(f"{cache}.values", np.float32)
    at, rows = 0, []
    for unit, record in enumerate(manifest["units"]):
        path = cache / "shards" / record["file"]
        raw = path.read_bytes()
        check(hashlib.sha256(raw).hexdigest() == record["sha256"] and len(raw) == record["bytes"], f"{dtype}: sha256")
        expected = {}
        for hook, width in HOOKS.items():
            expected[hook] = reader[at:at + record["rows"] * width].reshape(-1, width)
            at += record["rows"] * width
        rows.append(expected)
        with h5py.File(path, "r") as shard:
            compare_values(dtype, unit, shard, expected)
            compare_checksums(dtype, identity, record, shard, raw)
            compare_labels(dtype, identity, unit, shard)
        if unit == 0:
            header = subprocess.run(["h5dump", "-H", path], check=True, capture_output=True, text=True).stdout
            activations = header.split('GROUP "activations"')[1].split("GROUP")[0]
            check(activations.count(H5DUMP_TYPES[dtype]) == len(HOOKS), f"{dtype}: h5dump shows\n{activations}")
    check(at == len(reader), f"{dtype}: the reader gave {len(reader)} values, the shards hold {at}")
    for record in read_log(cache / "commits/w000.log"):
        compare_moments(dtype, rows[record["unit"]], record)
    whole = np.concatenate([r["hook_embed"] for r in rows]).astype(np.float64)
    np.testing.assert_allclose(manifest["statistics"]["hook_embed"]["mean"], whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(manifest["statistics"]["hook_embed"]["mean_squared_norm"], (whole ** 2).sum(1).mean(),
                               rtol=1e-12)


with tempfile.TemporaryDirectory() as folder:
    for dtype in H5DUMP_TYPES:
        run(dtype, Path(folder))
print("failures:", len(failures))
sys.exit(1 if failures else 0)
