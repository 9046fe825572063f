"""What the tests of own activations share: a world with known features, running in a folder, reading a cache."""
import h5py
import numpy as np

from harness import *


def sparse_world(rows, width, features, mean_active, seed=1):
    """float32 rows: sums of a few of `features` random directions, a mean, and a little noise."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((features, width)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    fires = rng.random((rows, features), dtype=np.float32) < mean_active / features
    amounts = fires * rng.uniform(0.5, 1.5, (rows, features)).astype(np.float32)
    x = amounts @ directions + rng.standard_normal(width).astype(np.float32)
    return (x + 0.01 * rng.standard_normal((rows, width)).astype(np.float32)).astype(np.float32)


def run_in(folder, *arguments, check=True, ranks=None, env=None, timeout=300):
    """Runs the program with `folder` as working directory."""
    command = [str(PROGRAM), *map(str, arguments)]
    if ranks:
        command = ["mpirun", "-n", str(ranks), *command]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=folder,
                            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})})
    if check and result.returncode != 0:
        raise AssertionError(f"{' '.join(command)}\nexit {result.returncode}\n{result.stderr[-4000:]}")
    return result


def read_cache(cache):
    """(context of all rows, {hook point: rows}, what else the shards hold), as any h5py user reads them."""
    shards, values = [], {}
    for path in sorted((cache / "shards").glob("*.h5")):
        with h5py.File(path) as shard:
            for name in shard["activations"]:
                values.setdefault(name, []).append(shard["activations"][name][:])
            shards.append({name: shard[name][:] for name in ("context", "position", "document")}
                          | {"token_ids": shard["contexts/token_ids"][:, 0]})
    context = np.concatenate([shard["context"] for shard in shards])
    return context, {name: np.concatenate(parts) for name, parts in values.items()}, shards
