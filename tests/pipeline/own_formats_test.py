"""Own activations in every format, over ranks and kills, and what is said about files that cannot be used."""
import json

import h5py
import numpy as np
import torch
from safetensors.torch import save_file

from harness import *
from own_data import *

ROWS, WIDTH = 6000, 24
BASE = "schema: 1\nsae: {{type: topk, k: 4{sae}}}\ncache: {{unit_tokens: 1024{cache}}}\nactivations: {{{activations}}}\n"


def error_lines(result):
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


class OwnTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="thresher-own-"))
        cls.x = sparse_world(ROWS, WIDTH, 48, mean_active=3)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def experiment(self, name, activations, cache="", sae=""):
        (self.folder / f"{name}.yaml").write_text(BASE.format(activations=activations, cache=cache, sae=sae))
        return f"{name}.yaml"

    def harvest(self, name, activations, cache="", sae=""):
        """(context, {hook point: rows}, shards) of the cache that is made."""
        run_in(self.folder, "harvest", self.experiment(name, activations, cache, sae))
        return read_cache(self.folder / "caches" / name)


class BytesTest(OwnTest):
    PATTERNS = ["caches/*/shards/*", "caches/*/MANIFEST.json", "runs/*/sae/*/*", "runs/*/metrics.jsonl",
                "runs/*/ckpt/*/*.safetensors"]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        np.save(cls.folder / "acts.npy", cls.x)
        cls.reference = cls.promised("one")

    @classmethod
    def promised(cls, place, ranks=None, extra=(), kills=()):
        folder = cls.folder / place
        folder.mkdir()
        (folder / "exp.yaml").write_text(BASE.format(activations="paths: [../acts.npy]", cache="", sae=""))
        for point in kills:
            killed = run_in(folder, "run", "exp.yaml", *extra, check=False, env={"THRESHER_FAILPOINT": point})
            if killed.returncode != -signal.SIGKILL:
                raise AssertionError(f"{point} did not kill: exit {killed.returncode}\n{killed.stderr[-2000:]}")
        run_in(folder, "run", "exp.yaml", *extra, ranks=ranks)
        found = digests(folder, cls.PATTERNS)
        figures = json.loads((folder / "runs/exp/evaluation.json").read_text())
        for sae in figures.values():
            for one in (sae, *sae["baselines"].values()):
                one.pop("tokens_per_second", None)
        return found, figures

    def test_the_reference_has_every_promised_file(self):
        self.assertEqual(sum(name.startswith("caches/exp/shards/") for name in self.reference[0]), 6)
        self.assertIn("runs/exp/sae/topk/sae_weights.safetensors", self.reference[0])

    def test_two_ranks_as_threads(self):
        self.assertEqual(self.promised("threads", extra=["--set", "comm.backend=threads", "--set", "comm.ranks=2"]),
                         self.reference)

    def test_two_ranks_under_mpirun(self):
        self.assertEqual(self.promised("mpi", ranks=2), self.reference)

    def test_killed_harvests_and_training_end_with_the_same_bytes(self):
        self.assertEqual(self.promised("killed", kills=["cache.identity.written:1", "cache.shard.half_written:2",
                                                        "cache.shard.renamed:2", "cache.commit.appended:1",
                                                        "cache.all_committed:1", "train.export:1"]),
                         self.reference)


class FormatsTest(OwnTest):
    def expect_rows(self, found, wanted, hook="activations"):
        context, values, _ = found
        self.assertGreater(len(context), 0.7 * ROWS)
        self.assertEqual(values[hook].dtype, wanted.dtype)
        np.testing.assert_array_equal(values[hook], wanted[context])

    def test_npy_of_every_version_and_type(self):
        for dtype, kept in (("float16", "float16"), ("float32", "float32"), ("float64", "float32")):
            with self.subTest(dtype):
                np.save(self.folder / f"{dtype}.npy", self.x.astype(dtype))
                self.expect_rows(self.harvest(f"npy-{dtype}", f"paths: [{dtype}.npy]"), self.x.astype(dtype).astype(kept))
        for version in ((1, 0), (2, 0), (3, 0)):
            with self.subTest(version):
                with open(self.folder / "version.npy", "wb") as file:
                    np.lib.format.write_array(file, self.x, version=version)
                self.expect_rows(self.harvest(f"version-{version[0]}", "paths: [version.npy]"), self.x)

    def test_the_dtype_can_be_chosen(self):
        np.save(self.folder / "acts.npy", self.x)
        found = self.harvest("chosen", "paths: [acts.npy]", cache=", dtype: bfloat16")
        self.expect_rows(found, torch.from_numpy(self.x).to(torch.bfloat16).float().numpy())

    def test_shards_in_a_folder_by_pattern_and_by_name(self):
        (self.folder / "parts").mkdir()
        for i, part in enumerate(np.array_split(self.x, 7)):
            np.save(self.folder / f"parts/part-{i}.npy", part)
        (self.folder / "parts/notes.txt").write_text("not activations")
        names = ", ".join(f"parts/part-{i}.npy" for i in range(7))
        caches = []
        for name, paths in (("folder", "parts"), ("pattern", "'parts/part-?.npy'"), ("names", names)):
            self.expect_rows(self.harvest(f"by-{name}", f"paths: [{paths}]"), self.x)
            caches.append(digests(self.folder / f"caches/by-{name}", ["shards/*", "cache.json"]))
        self.assertEqual(caches[0], caches[1])
        self.assertEqual(caches[0], caches[2], "where a file lies does not matter")

    def test_safetensors(self):
        x = torch.from_numpy(self.x)
        save_file({"acts": x.to(torch.bfloat16), "tokens": torch.arange(ROWS) % 999}, self.folder / "bf16.safetensors")
        found = self.harvest("safetensors", "paths: [bf16.safetensors], token_ids: tokens")
        self.expect_rows(found, x.to(torch.bfloat16).float().numpy())
        save_file({"a": x.half(), "b": x}, self.folder / "two.safetensors")
        self.expect_rows(self.harvest("named", "paths: [two.safetensors], datasets: [a]"), self.x.astype(np.float16))

    def test_hdf5_contiguous_chunked_compressed_and_big_endian(self):
        with h5py.File(self.folder / "a.h5", "w") as file:
            file["plain"] = self.x
            file.create_dataset("group/chunked", data=self.x, chunks=(100, 7), compression="gzip", shuffle=True)
            file["big_endian"] = self.x.astype(">f8")
        for name in ("plain", "group/chunked", "big_endian"):
            with self.subTest(name):
                found = self.harvest(name.replace("/", "-"), f"paths: [a.h5], datasets: [{name}]")
                self.expect_rows(found, self.x)

    def test_hdf5_of_many_levels(self):
        with h5py.File(self.folder / "deep.h5", "w") as file:
            file["a/" * 64 + "x"] = self.x
        self.expect_rows(self.harvest("deep-searched", "paths: [deep.h5]"), self.x)
        with h5py.File(self.folder / "deeper.h5", "w") as file:
            file["a/" * 65 + "x"] = file["beside"] = self.x
        for name in ("beside", "a/" * 65 + "x"):
            found = self.harvest(f"deeper-{len(name)}", f"paths: [deeper.h5], datasets: [{name}]")
            self.expect_rows(found, self.x)

    def test_several_hook_points_share_their_rows(self):
        wide = np.concatenate([self.x, self.x[:, :8]], axis=1)
        with h5py.File(self.folder / "several.hdf5", "w") as file:
            file["layer/8"], file["layer/12"] = self.x, wide
        found = self.harvest("several", "paths: [several.hdf5], datasets: [layer/8, layer/12]",
                             sae=", hook_point: layer.8")
        self.assertEqual(set(found[1]), {"layer.8", "layer.12"})
        self.expect_rows(found, self.x, "layer.8")
        self.expect_rows(found, wide, "layer.12")
        renamed = self.harvest("renamed", "paths: [several.hdf5], datasets: [layer/8, layer/12]",
                               cache=", hook_points: [a, b]", sae=", hook_point: b")
        self.expect_rows(renamed, wide, "b")

    def test_token_ids_and_whole_documents(self):
        np.save(self.folder / "acts.npy", self.x)
        tokens = np.random.default_rng(0).integers(0, 50000, ROWS).astype(np.uint16)
        documents = np.repeat(np.arange(0, ROWS // 20), 20)[::-1].copy()
        np.save(self.folder / "tokens.npy", tokens)
        np.save(self.folder / "documents-0.npy", documents[:2500])
        np.save(self.folder / "documents-1.npy", documents[2500:])
        activations = "paths: [acts.npy], token_ids: tokens.npy, document_ids: 'documents-?.npy', held_out_fraction: 0.2"
        found = self.harvest("documents", activations)
        self.expect_rows(found, self.x)
        context, _, shards = found
        held_out = np.setdiff1d(np.arange(ROWS), context)
        self.assertEqual(set(documents[held_out]) & set(documents[context]), set(), "a document stands on one side")
        self.assertTrue(0.1 < len(held_out) / ROWS < 0.3)
        first = 0
        for shard in shards:
            np.testing.assert_array_equal(shard["document"], documents[shard["context"]])
            np.testing.assert_array_equal(shard["token_ids"], tokens[first:first + len(shard["token_ids"])])
            first += len(shard["token_ids"])
        run_in(self.folder, "run", "documents.yaml", "--set", "run.name=other-seed", "--set", "run.seed=7", "--set",
               "train.epochs=1", "--set", "cache.dir=caches/other-seed")
        other = read_cache(self.folder / "caches/other-seed")[0]
        self.assertEqual(set(other), set(context), "the seed moves no row to the other side")
        self.assertFalse(np.array_equal(other, context), "but it decides their order")

    def test_a_few_rows_still_hold_something_out(self):
        np.save(self.folder / "few.npy", self.x[:600])
        context = self.harvest("few", "paths: [few.npy], held_out_fraction: 0.0001, held_out_block_rows: 100")[0]
        self.assertEqual(len(context), 500)

    def test_norms_may_be_limited(self):
        x = self.x.copy()
        x[100] *= 1000
        np.save(self.folder / "loud.npy", x)
        context = self.harvest("loud", "paths: [loud.npy]", cache=", drop_norm_above: 10")[0]
        self.assertNotIn(100, context)
        manifest = json.loads((self.folder / "caches/loud/MANIFEST.json").read_text())
        self.assertLessEqual(manifest["dropped"]["norm"], 1)
        self.assertEqual(sum(manifest["dropped"].values()) + len(context), ROWS)


class RefusalTest(OwnTest):
    n = 0

    def refuse(self, activations, code, first_line, cache="", hint=""):
        type(self).n += 1
        result = run_in(self.folder, "harvest", self.experiment(f"bad{self.n}", activations, cache), check=False)
        self.assertEqual(error_lines(result), [f"error: {first_line}"], result.stderr)
        self.assertEqual(result.returncode, code)
        self.assertIn(hint, result.stderr)

    def save(self, name, array):
        np.save(self.folder / name, array, allow_pickle=True)
        return f"paths: [{name}]"

    def test_arrays_that_are_no_matrix_of_numbers(self):
        self.refuse(self.save("cube.npy", np.zeros((2, 3, 4), np.float32)), 65,
                    "cube.npy: an array of shape [2, 3, 4] is no matrix")
        self.refuse(self.save("line.npy", np.zeros(5, np.float32)), 65, "line.npy: an array of shape [5] is no matrix")
        self.refuse(self.save("whole.npy", np.zeros((4, 4), np.int64)), 65, "whole.npy: its elements are int64")
        self.refuse(self.save("objects.npy", np.array([[object()]], dtype=object)), 65,
                    "objects.npy: it holds Python objects (a pickle), which are never read")
        self.refuse(self.save("fortran.npy", np.asfortranarray(np.zeros((4, 5), np.float32))), 65,
                    "fortran.npy: the array is in Fortran order, column by column")
        self.refuse(self.save("empty.npy", np.zeros((0, 5), np.float32)), 65, "empty.npy: 0 rows in all")

    def test_files_that_are_cut_off_or_lie(self):
        self.save("whole.npy", np.zeros((100, 4), np.float32))
        data = (self.folder / "whole.npy").read_bytes()
        (self.folder / "cut.npy").write_bytes(data[:-1])
        self.refuse("paths: [cut.npy]", 65,
                    "cut.npy: its header announces [100, 4] float32, 1600 bytes, but 1599 are there")
        (self.folder / "lie.npy").write_bytes(data.replace(b"(100, 4)", b"(999, 4)"))
        self.refuse("paths: [lie.npy]", 65,
                    "lie.npy: its header announces [999, 4] float32, 15984 bytes, but 1600 are there")
        with h5py.File(self.folder / "whole.h5", "w") as file:
            file["x"] = np.zeros((1000, 4), np.float32)
            file.create_dataset("hollow", (1000, 4), np.float32, chunks=(100, 4))
        (self.folder / "cut.h5").write_bytes((self.folder / "whole.h5").read_bytes()[:8000])
        result = run_in(self.folder, "harvest", self.experiment("cut-h5", "paths: [cut.h5]"), check=False)
        self.assertEqual((result.returncode, len(error_lines(result))), (65, 1), result.stderr)
        self.assertTrue(error_lines(result)[0].startswith("error: cut.h5: opening it as an HDF5 file failed: "))
        self.refuse("paths: [whole.h5], datasets: [hollow]", 65,
                    'whole.h5: "hollow": only 0 of its 10 chunks were ever written')

    def test_rows_that_are_not_finite_or_do_not_fit(self):
        x = np.ones((3000, 4), np.float32)
        np.save(self.folder / "first.npy", x)
        x[2345, 3] = np.nan
        np.save(self.folder / "second.npy", x)
        self.refuse("paths: [first.npy, second.npy]", 65, "second.npy: row 2345 holds nan in column 3")
        x[2345, 3] = -np.inf
        self.refuse(self.save("inf.npy", x), 65, "inf.npy: row 2345 holds -inf in column 3")
        wide = x.astype(np.float64)
        wide[2345, 3] = 1e300
        self.refuse(self.save("far.npy", wide), 65, "far.npy: row 2345 holds inf in column 3")
        x[2345, 3] = 70000
        self.refuse(self.save("large.npy", x), 65, "large.npy: row 2345: magnitude 70000 does not fit float16",
                    cache=", dtype: float16", hint="set cache.dtype: bfloat16")

    def test_names_that_are_not_there(self):
        save_file({"acts": torch.zeros(9, 4), "ids": torch.zeros(9, dtype=torch.int64)}, self.folder / "a.safetensors")
        self.refuse("paths: [a.safetensors], datasets: [acs]", 78, 'a.safetensors: there is no "acs" in this file',
                    hint='hint: the file holds "ids" int64 [9], "acts" float32 [9, 4]')
        with h5py.File(self.folder / "b.h5", "w") as file:
            file["x/y"], file["z"] = np.zeros((9, 4), np.float32), np.zeros((9, 4), np.float32)
            file["far"] = h5py.ExternalLink("/etc/passwd", "/x")
        self.refuse("paths: [b.h5], datasets: [w]", 78, 'b.h5: there is no "w" in this file',
                    hint='the file holds "x/y" float32 [9, 4], "z" float32 [9, 4]')
        self.refuse("paths: [b.h5]", 78, "b.h5: the file holds 2 matrices, and activations.datasets names none")
        self.refuse("paths: [b.h5], datasets: [far]", 65,
                    'b.h5: "far": it is a link, which may lead to another file')
        self.refuse("paths: [none.npy]", 74, "activations.paths: 'none.npy' does not exist")
        self.refuse("paths: ['no-*.npy']", 74, "activations.paths: 'no-*.npy' does not exist")
        (self.folder / "hollow").mkdir(exist_ok=True)
        self.refuse("paths: [hollow]", 78,
                    "activations.paths: folder 'hollow' has no *.npy, *.safetensors, *.h5 or *.hdf5")
        (self.folder / "a.pt").write_bytes(b"x")
        self.refuse("paths: [a.pt]", 78, "a.pt: a file of this kind cannot be read")

    def test_an_hdf5_file_of_many_levels_is_not_searched(self):
        with h5py.File(self.folder / "deep.h5", "w") as file:
            file["a/" * 65 + "x"] = self.x
        message = "deep.h5: its groups are nested deeper than 64 levels"
        self.refuse("paths: [deep.h5]", 65, message,
                    hint="hint: activations.datasets names the one to read, without a search")
        self.refuse("paths: [deep.h5], datasets: [none]", 65, message)

    def test_files_that_do_not_fit_each_other(self):
        acts = self.save("acts.npy", np.zeros((900, 4), np.float32))
        np.save(self.folder / "tokens.npy", np.zeros(899, np.int64))
        self.refuse(acts + ", token_ids: tokens.npy", 65, "tokens.npy: 899 token_ids in all")
        np.save(self.folder / "tokens.npy", np.full(900, -3))
        self.refuse(acts + ", token_ids: tokens.npy", 65, "tokens.npy: row 0: -3 cannot be one of token_ids")
        np.save(self.folder / "tokens.npy", np.zeros(900, np.float32))
        self.refuse(acts + ", token_ids: tokens.npy", 65, "tokens.npy: float32 of shape [900] cannot be token_ids")
        np.save(self.folder / "wide.npy", np.zeros((900, 5), np.float32))
        self.refuse("paths: [acts.npy, wide.npy]", 65, "wide.npy: its rows have 5 values")
        self.refuse("paths: [acts.npy, ./acts.npy]", 78, "activations.paths: './acts.npy' is named twice")
        self.refuse(acts + ", held_out_block_rows: 1000", 78,
                    "activations.held_out_fraction: 0.05 leaves no rows for training: all 900 stand in held-out blocks")

    def test_a_single_row_and_equal_rows(self):
        self.refuse(self.save("one.npy", np.ones((1, 4), np.float32)), 78,
                    "activations.held_out_fraction: 0.05 leaves no rows for training: there is one row in all",
                    hint="expected: at least two rows")
        name = self.experiment("equal", self.save("equal.npy", np.ones((900, 4), np.float32)))
        result = run_in(self.folder, "run", name, check=False)
        self.assertEqual(error_lines(result), ["error: sae topk: the activations of activations cannot be scaled: their "
                                               "rows are all equal"], result.stderr)
        self.assertNotIn("scale_inputs", result.stderr)
        result = run_in(self.folder, "run", name, "--set", "sae.scale_inputs=false", check=False)
        self.assertEqual(error_lines(result),
                         ["error: sae topk: all sampled activations of activations are equal"], result.stderr)

    def test_settings_that_need_a_text(self):
        acts = self.save("acts.npy", np.zeros((900, 4), np.float32))
        self.refuse(acts, 78, f"bad{self.n + 1}.yaml:3:{len('cache: {unit_tokens: 1024, drop_first_positions: ') + 1}: "
                    "cache.drop_first_positions needs a text: own activations have no positions and no tokenizer",
                    cache=", drop_first_positions: 1")
        (self.folder / "both.yaml").write_text(BASE.format(activations=acts, cache="", sae="") + "corpus: {paths: [x]}\n")
        result = run_in(self.folder, "run", "both.yaml", check=False)
        self.assertEqual(error_lines(result),
                         ["error: both.yaml:5:9: the sections corpus and activations exclude each other"])

    def test_a_run_needs_rows_to_measure_on_before_it_trains(self):
        name = self.experiment("unmeasured", self.save("acts.npy", self.x) + ", held_out_fraction: 0")
        result = run_in(self.folder, "run", name, check=False)
        self.assertEqual(error_lines(result),
                         ["error: activations.held_out_fraction: 0 leaves no rows to measure on"])
        self.assertFalse((self.folder / "caches/unmeasured").exists())

    def test_a_changed_file_is_noticed(self):
        name = self.experiment("changing", self.save("changing.npy", self.x))
        run_in(self.folder, "run", name, "--set", "train.epochs=1")
        x = self.x.copy()
        x[17, 3] += 1
        np.save(self.folder / "changing.npy", x)
        for command, message in ((["eval", "runs/changing"], "caches/changing: the cache was made from other "
                                                             "activations: files[0].sha256: "),
                                 (["harvest", name], "caches/changing/cache.json: this cache was made with other "
                                                     "settings: corpus.files[0].sha256: ")):
            result = run_in(self.folder, *command, check=False)
            self.assertEqual(result.returncode, 78, result.stderr)
            self.assertTrue(error_lines(result)[0].startswith(f"error: {message}"), result.stderr)

    def test_paths_with_hostile_names(self):
        name = "a\x1b[31m\n<script>.npy"
        np.save(self.folder / name, np.full((900, 4), np.nan, np.float32))
        (self.folder / "hostile").mkdir(exist_ok=True)
        path = json.dumps("hostile/../" + name)
        self.refuse(f"paths: [{path}]", 65, "hostile/../a\\x1b[31m\\n<script>.npy: row 0 holds nan in column 0")
        np.save(self.folder / name, self.x)
        experiment = self.experiment("hostile", f"paths: [{path}]")
        result = run_in(self.folder, "run", experiment, "--set", "train.epochs=1")
        self.assertNotIn("\x1b[31m", result.stdout + result.stderr)
        self.assertTrue((self.folder / "runs/hostile/evaluation.json").exists())
        resolved = run_in(self.folder, "config", "show", "runs/hostile/config.resolved.yaml", "--json").stdout
        self.assertEqual(json.loads(resolved)["activations"]["paths"], ["hostile/../" + name])


if __name__ == "__main__":
    unittest.main()
