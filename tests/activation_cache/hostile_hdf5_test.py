"""HDF5 files that somebody else made to do harm: each is refused with one line before a value is read, and no file outside
its folder is opened (strace sees every call; without strace a missing target would still show as another message)."""
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np

TOOL = Path(os.environ["THRESHER_BIN"]) / "table_tool"
LINK = 'it is a link, which may lead to another file'
ELSEWHERE = 'its values lie in other files'
NO_NUMBERS = 'its elements are no numbers'
OUTSIDE = 'do not lie inside the file'
ROWS = np.arange(48, dtype=np.float32).reshape(12, 4)
OPENED = re.compile(r'open(?:at2?)?\((?:AT_FDCWD, )?"([^"]+)"')


def dataset(file, name, shape, dtype, layout=None, change=None):
    """A dataset that is made with the low-level interface, which refuses less."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if layout is not None:
        creation.set_layout(layout)
    if change is not None:
        change(creation)
    space = h5py.h5s.create_simple(shape)
    return h5py.h5d.create(file.id, name.encode(), dtype, space, creation)


def chunked(chunk, filter_id=None):
    def change(creation):
        creation.set_chunk(chunk)
        if filter_id is not None:
            creation.set_filter(filter_id, h5py.h5z.FLAG_OPTIONAL, (1,))
    return change


F32 = h5py.h5t.IEEE_F32LE


class Files:
    """One method a hostile file: makes it and gives (name of the table, what the error says)."""

    def __init__(self, folder, outside):
        self.folder, self.outside = folder, outside

    def new(self, name):
        return h5py.File(self.folder / f"{name}.h5", "w")

    def external_link(self, file):
        file["x"] = h5py.ExternalLink(str(self.outside), "/secret")
        return "x", LINK

    def external_link_relative(self, file):
        file["x"] = h5py.ExternalLink("../outside/secret.h5", "/secret")
        return "x", LINK

    def external_link_to_no_hdf5(self, file):
        file["x"] = h5py.ExternalLink("/etc/passwd", "/")
        return "x", LINK

    def external_link_of_a_group(self, file):
        file["g"] = h5py.ExternalLink(str(self.outside), "/")
        return "g/secret", LINK

    def external_link_that_is_listed(self, file):
        file["x"] = h5py.ExternalLink(str(self.outside), "/secret")
        return None, ""

    def soft_link(self, file):
        file["real"] = ROWS
        file["x"] = h5py.SoftLink("/real")
        return "x", LINK

    def soft_link_of_a_group(self, file):
        file["real/x"] = ROWS
        file["g"] = h5py.SoftLink("/real")
        return "g/x", LINK

    def soft_link_to_itself(self, file):
        file["x"] = h5py.SoftLink("/x")
        return "x", LINK

    def soft_link_to_an_external_link(self, file):
        file["far"] = h5py.ExternalLink(str(self.outside), "/secret")
        file["x"] = h5py.SoftLink("/far")
        return "x", LINK

    def external_storage(self, file):
        file.create_dataset("x", (12, 4), "f4", external=[(str(self.outside), 0, h5py.h5f.UNLIMITED)])
        return "x", ELSEWHERE

    def external_storage_of_a_system_file(self, file):
        file.create_dataset("x", (12, 4), "u1", external=[("/etc/passwd", 0, 48)])
        return "x", ELSEWHERE

    def external_storage_relative(self, file):
        file.create_dataset("x", (12, 4), "f4", external=[("../outside/secret.h5", 0, 192)])
        return "x", ELSEWHERE

    def external_storage_in_pieces(self, file):
        file.create_dataset("x", (12, 4), "f4", external=[("a.bin", 0, 96), ("/etc/passwd", 0, 96)])
        return "x", ELSEWHERE

    def virtual(self, file):
        layout = h5py.VirtualLayout(shape=(12, 4), dtype="f4")
        layout[:] = h5py.VirtualSource(str(self.outside), "secret", shape=(12, 4))
        file.create_virtual_dataset("x", layout)
        return "x", ELSEWHERE

    def virtual_of_many_files(self, file):
        layout = h5py.VirtualLayout(shape=(12, 4), dtype="f4")
        for row in range(12):
            layout[row] = h5py.VirtualSource("../outside/secret.h5", "secret", shape=(12, 4))[row]
        file.create_virtual_dataset("x", layout)
        return "x", ELSEWHERE

    def virtual_of_itself(self, file):
        layout = h5py.VirtualLayout(shape=(12, 4), dtype="f4")
        layout[:] = h5py.VirtualSource(".", "x", shape=(12, 4))
        file.create_virtual_dataset("x", layout)
        return "x", ELSEWHERE

    def unknown_filter(self, file):
        dataset(file, "x", (12, 4), F32, h5py.h5d.CHUNKED, chunked((4, 4), 32015))
        return "x", "it is compressed with"

    def filter_of_another_library(self, file):
        file.create_dataset("x", data=ROWS, chunks=(4, 4), compression="lzf")
        return "x", "it is compressed with lzf (filter 32000), which is not built in"

    def variable_length_strings(self, file):
        file.create_dataset("x", data=["a", "b"], dtype=h5py.string_dtype())
        return "x", NO_NUMBERS

    def variable_length_numbers(self, file):
        file.create_dataset("x", (3,), dtype=h5py.vlen_dtype(np.float32))
        return "x", NO_NUMBERS

    def compound(self, file):
        file.create_dataset("x", data=np.zeros(12, dtype=[("a", "f4"), ("b", "i8")]))
        return "x", NO_NUMBERS

    def array_elements(self, file):
        dataset(file, "x", (12,), h5py.h5t.array_create(F32, (4,)), h5py.h5d.CONTIGUOUS)
        return "x", NO_NUMBERS

    def enumeration(self, file):
        file.create_dataset("x", (12, 4), dtype=h5py.enum_dtype({"a": 1}, "u1"))
        return "x", NO_NUMBERS

    def opaque(self, file):
        file.create_dataset("x", data=np.zeros((12, 4), dtype="V7"))
        return "x", NO_NUMBERS

    def references(self, file):
        file.create_dataset("x", (2, 2), dtype=h5py.ref_dtype)
        return "x", NO_NUMBERS

    def floats_of_ten_bytes(self, file):
        file.create_dataset("x", data=ROWS.astype(np.longdouble))
        return "x", NO_NUMBERS

    def larger_than_the_file(self, file):
        dataset(file, "x", (1 << 40, 1 << 20), F32, h5py.h5d.CONTIGUOUS)
        return "x", OUTSIDE

    def larger_than_any_memory(self, file):
        dataset(file, "x", (1 << 60,), F32, h5py.h5d.CONTIGUOUS)
        return "x", OUTSIDE

    def never_written(self, file):
        dataset(file, "x", (12, 4), F32, h5py.h5d.CONTIGUOUS)
        return "x", OUTSIDE

    def chunks_never_written(self, file):
        dataset(file, "x", (1 << 40, 4), F32, h5py.h5d.CHUNKED, chunked((1 << 20, 4)))
        return "x", f"only 0 of its {1 << 20} chunks were ever written"

    def huge_chunks(self, file):
        dataset(file, "x", (1 << 30, 4), F32, h5py.h5d.CHUNKED, chunked((1 << 27, 4)))
        return "x", "a chunk has more than 1073741824 bytes"

    def a_name_that_leaves(self, file):
        file["x"] = ROWS
        return "../outside/secret", 'there is no "../outside/secret" in this file'

    def cut_off(self, file):
        file["x"] = np.zeros((10_000, 4), np.float32)
        file.close()
        path = Path(self.folder / "cut_off.h5")
        path.write_bytes(path.read_bytes()[:9000])
        return "x", "opening it as an HDF5 file failed"

    def no_hdf5(self, file):
        file.close()
        (self.folder / "no_hdf5.h5").write_text("neither an HDF5 file\n" * 400)
        return "x", "opening it as an HDF5 file failed"

    def empty(self, file):
        file.close()
        (self.folder / "empty.h5").write_bytes(b"")
        return "x", "opening it as an HDF5 file failed"

    def damaged_tree(self, file):
        file["x"] = ROWS
        file.close()
        path = Path(self.folder / "damaged_tree.h5")
        path.write_bytes(path.read_bytes().replace(b"TREE", b"TRE\xff").replace(b"HEAP", b"\xffEAP"))
        return "x", "damaged_tree.h5"


MAKERS = [name for name, member in vars(Files).items() if callable(member) and name not in ("__init__", "new")]


class HostileHdf5Test(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = Path(tempfile.mkdtemp(prefix="thresher-hostile-"))
        cls.folder = cls.root / "inside"
        outside = cls.root / "outside" / "secret.h5"
        cls.folder.mkdir()
        outside.parent.mkdir()
        with h5py.File(outside, "w") as file:
            file["secret"] = ROWS
        cls.files = Files(cls.folder, outside)
        cls.has_strace = shutil.which("strace") is not None and subprocess.run(
            ["strace", "-o", "/dev/null", "true"], capture_output=True).returncode == 0

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.root)

    def run_tool(self, *arguments):
        command = [str(TOOL), *map(str, arguments)]
        trace = self.root / "trace"
        if self.has_strace:
            command = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2,execve", "-o", str(trace), *command]
        result = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, timeout=120)
        return result, (trace.read_text() if self.has_strace else "")

    def expect_nothing_outside(self, trace):
        opened = OPENED.findall(trace)
        self.assertFalse([name for name in opened if "passwd" in name or "outside" in name])
        self.assertEqual(trace.count("execve("), 1 if self.has_strace else 0)
        allowed = ("/lib", "/usr/lib", "/etc/ld.so", "/proc/", "/sys/", "/dev/null", "/dev/shm", str(self.folder))
        for name in opened:
            path = os.path.normpath(os.path.join(self.folder, name))
            self.assertTrue(path.startswith(allowed), f"{name} was opened")

    def test_there_are_thirty_files_and_more(self):
        self.assertGreaterEqual(len(MAKERS), 30)

    def test_each_is_refused_with_its_own_line_and_opens_nothing_else(self):
        for name in MAKERS:
            with self.subTest(name):
                file = self.files.new(name)
                table, problem = getattr(self.files, name)(file)
                file.close()
                if table is None:
                    result, trace = self.run_tool("list", f"{name}.h5")
                    self.assertEqual((result.returncode, result.stdout), (0, ""), result.stderr)
                else:
                    result, trace = self.run_tool("read", f"{name}.h5", table)
                    self.assertIn(result.returncode, (65, 78), result.stderr)
                    first = result.stderr.splitlines()[0]
                    self.assertTrue(first.startswith(f"error: {name}.h5"), first)
                    self.assertIn(problem, first)
                    self.assertEqual(result.stdout, "")
                self.expect_nothing_outside(trace)

    def test_honest_files_are_read(self):
        with self.files.new("honest") as file:
            file["plain"] = ROWS
            file.create_dataset("group/packed", data=ROWS, chunks=(5, 3), compression="gzip", shuffle=True, fletcher32=True)
            file["again"] = file["plain"]
            file["group/up"] = file["/"]
        digest = hashlib.sha256(ROWS.tobytes()).hexdigest()
        for table in ("plain", "group/packed", "again"):
            result, trace = self.run_tool("read", "honest.h5", table)
            self.assertEqual(result.stdout, f"float32 [12, 4] {digest}\n", result.stderr)
            self.expect_nothing_outside(trace)
        result, _ = self.run_tool("list", "honest.h5")
        self.assertEqual(result.stdout.splitlines(), ['"again" float32 [12, 4]', '"group/packed" float32 [12, 4]'])


if __name__ == "__main__":
    unittest.main()
