"""Nothing in the sources runs what an input says, and the built program has the compiler's and the linker's protections."""
import ast
import os
import re
import subprocess
import unittest
from pathlib import Path

ROOT = Path(os.environ["THRESHER_SOURCE_DIR"])
PROGRAM = Path(os.environ["THRESHER_BIN"]) / "thresher"
OPERATORS = PROGRAM.parent.parent / "lib/libthresher_operators.so"
LAYERS = ["core", "comm", "kernels", "corpus", "host_model", "activation_cache", "sae", "trainer", "evaluation", "features",
          "cli", "operators"]
# A program or a library that is started or loaded by name.
STARTS = re.compile(r"\b(system|popen|execl[pe]?|execle|execv|execvp|execve|execvpe|fexecve|posix_spawnp?|dlopen|dlmopen|"
                    r"H5PLset_loading_state|H5PLappend|H5PLprepend)\s*\(\s*([^)]*)\)?")
# The only calls, with the only arguments, that are allowed.
ALLOWED = {("activation_cache/hdf5_handle.cpp", "H5PLset_loading_state", "0")}
CALLS = {"pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "joblib.load", "marshal.loads", "os.system",
         "os.popen", "eval", "exec", "yaml.load", "yaml.unsafe_load", "shelve.open", "dill.load", "dill.loads"}


def sources(*suffixes):
    for layer in LAYERS:
        yield from (path for path in sorted((ROOT / layer).rglob("*")) if path.suffix in suffixes)


def without_comments(text):
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    return re.sub(r'//[^\n]*|"(?:[^"\\\n]|\\.)*"', lambda match: '""' if match.group().startswith('"') else "", text)


def our_python():
    for folder in ("tests", "tools", "bench", "examples", "launch"):
        yield from sorted((ROOT / folder).rglob("*.py"))


class SourcesTest(unittest.TestCase):
    def test_no_program_and_no_library_is_started_by_name(self):
        found, n_files = set(), 0
        for path in sources(".cpp", ".h", ".cu", ".cuh"):
            n_files += 1
            for match in STARTS.finditer(without_comments(path.read_text())):
                found.add((path.relative_to(ROOT).as_posix(), match.group(1), match.group(2).strip()))
        self.assertGreater(n_files, 100)
        self.assertEqual(found, ALLOWED)

    def test_no_python_of_ours_reads_pickles_or_runs_text(self):
        n_files = 0
        for path in our_python():
            n_files += 1
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                    self.assertFalse({"pickle", "dill", "joblib", "marshal", "shelve"} & set(names), path)
                if not isinstance(node, ast.Call):
                    continue
                where = f"{path}:{node.lineno}"
                self.assertNotIn(ast.unparse(node.func), CALLS, where)
                arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                self.assertNotEqual(arguments.get("shell"), "True", where)
                if ast.unparse(node.func).endswith("load"):
                    self.assertNotEqual(arguments.get("allow_pickle"), "True", where)
        self.assertGreater(n_files, 20)

    def test_the_search_finds_what_it_looks_for(self):
        text = without_comments('// system(x)\nauto s = "popen(y)"; system(name.c_str());')
        self.assertEqual([match.group(1) for match in STARTS.finditer(text)], ["system"])


class ProgramTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.is_sanitized = "__asan_init" in cls.readelf("--dyn-syms") or "__tsan_init" in cls.readelf("--dyn-syms")

    @staticmethod
    def readelf(*options, file=PROGRAM):
        return subprocess.run(["readelf", "-W", *options, file], check=True, capture_output=True, text=True).stdout

    def test_it_can_lie_anywhere_in_memory(self):
        self.assertRegex(self.readelf("-h"), r"Type:\s+DYN \(Position-Independent Executable")

    def test_its_tables_are_read_only_before_main(self):
        self.assertIn("GNU_RELRO", self.readelf("-l"))
        self.assertRegex(self.readelf("-d"), r"\(FLAGS\)\s+.*BIND_NOW|\(FLAGS_1\)\s+.*NOW")

    def test_nothing_is_writable_and_executable(self):
        segments = re.findall(r"^\s+(LOAD|GNU_STACK)\s+(?:0x\S+\s+){5}([RWE ]{3})", self.readelf("-l"), re.M)
        self.assertGreaterEqual(len(segments), 3)
        self.assertTrue(any(kind == "GNU_STACK" for kind, _ in segments))
        for kind, flags in segments:
            self.assertFalse("W" in flags and "E" in flags, (kind, flags))

    def test_stacks_and_copies_are_guarded(self):
        symbols = self.readelf("--dyn-syms")
        self.assertIn("__stack_chk_fail", symbols)
        if not self.is_sanitized:
            self.assertRegex(symbols, r"__\w+_chk\b(?<!__stack_chk)")

    def test_libraries_are_looked_for_in_fixed_folders(self):
        # An empty entry is the current folder.
        for file in (PROGRAM, OPERATORS):
            for line in re.findall(r"(?:RUNPATH|RPATH)\)\s+.*\[(.*)\]", self.readelf("-d", file=file)):
                for folder in line.split(":"):
                    self.assertTrue(folder.startswith(("/", "$ORIGIN")), f"{file}: {line}")


if __name__ == "__main__":
    unittest.main()
