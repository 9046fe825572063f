"""The dashboard in a real browser: search, open, scroll, keys, hostile texts, ten thousand latents."""
import json
import os
import shutil
import sqlite3
import struct
import sys
import tempfile
import time
import unittest
from pathlib import Path

SOURCE = Path(os.environ["THRESHER_SOURCE_DIR"])
sys.path.insert(0, str(SOURCE / "tests/cli"))
from browser import Browser  # noqa: E402
from program import run  # noqa: E402

SCHEMA = (SOURCE / "features/store_format.cpp").read_text().split('R"sql(')[1].split(')sql"')[0]
# What must be shown and never be run, as the bytes of tokens.
LONGEST = 10_000_000
HOSTILE = [
    b"<script>window.pwned=1</script>", b"</script><script>window.pwned=1</script>", b"<img src=x onerror=window.pwned=1>",
    b"<!--<script>", b"]]>", b"\"'><svg onload=window.pwned=1>", b"{{constructor.constructor('window.pwned=1')()}}",
    b"${window.pwned=1}", b"javascript:window.pwned=1", b"&lt;b&gt;&#x3c;", b"\\u003cscript\\u003e", b"<iframe srcdoc='<script>1'>",
    b"__proto__", b"constructor", b"\x00\x01\x1b[31m\x7f", b"\xff\xfe\x80", "\u202eevil\u202c".encode(), "\u2066\u2069\u200b\ufeff".encode(),
    "\u2028\u2029".encode(), "a\u0301\u0489".encode() * 40, "\U0001f468\u200d\U0001f469".encode(), b"\n\r\t", b"x" * LONGEST,
    b"<style>*{display:none}</style>", b"<base href=//evil>", b"<meta http-equiv=refresh content=0>", b"<a href=javascript:1>",
]
# Ways out of where a page may have put a text, each with what it would do there.
HOSTILE += [(way_out + deed).encode() for way_out in ("", "\"", "'", "`", "\\", "\\\"", "-->", "--!>", "]]>", "</script>", "</style>",
                                                      "</title>", "</textarea>", "</noscript>", "</template>", "</svg>")
            for deed in ("<script>pwned=1</script>", "<img src=x onerror=pwned=1>", "<svg/onload=pwned=1>", " onclick=pwned=1 x=",
                         "+(pwned=1)+", ";pwned=1//", "<iframe src=javascript:pwned=1>", "<details open ontoggle=pwned=1>",
                         "<object data=//evil.example/x>", "<link rel=stylesheet href=//evil.example/x>",
                         "<form action=//evil.example/><input autofocus onfocus=pwned=1>", "<math><mtext></mtext><script>pwned=1")]


def make_store(path, tokens, n_latents, context_tokens=16, explanations=()):
    """A store by hand: latent i fires most on token i % len(tokens)."""
    store = sqlite3.connect(path)
    store.executescript("PRAGMA application_id=0x54485246; PRAGMA user_version=2;" + SCHEMA)
    n = len(tokens)
    facts = {"sae": "<b>made</b> by hand", "hook_point": "blocks.1.hook_resid_post", "n_latents": n_latents, "n_tokens": 100000}
    store.execute("INSERT INTO facts VALUES(?)", (json.dumps(facts),))
    store.executemany("INSERT INTO tokens VALUES(?, ?)", enumerate(tokens))
    contexts = [[(c + k) % n for k in range(context_tokens)] for c in range(n)]
    store.executemany("INSERT INTO contexts VALUES(?, ?)",
                      ((c, struct.pack(f"<{context_tokens}i", *ids)) for c, ids in enumerate(contexts)))
    for i in range(n_latents):
        silent = i % 50 == 49
        pairs = json.dumps([[(i + k) % n, 1.5 - k / 10] for k in range(10)])
        others = [[(i + k + 1) % n_latents, 0.9 - k / 20] for k in range(min(10, n_latents - 1))]
        store.execute("INSERT INTO latents VALUES(?,?,?,?,?,?,?,?,?,?,?)", (
            i, 0 if silent else 10 + i, 0 if silent else (10 + i) / 100000, 2.0, 0 if silent else 3 + (i * 7919 % 1000) / 100,
            "[]" if silent else json.dumps([[i % n, 3], [(i + 1) % n, 1]]), "[]" if silent else "[[50,4],[54,9],[58,1]]", pairs, pairs,
            json.dumps(others), json.dumps([[o, 5, 0.25, 1.5] for o, _ in others])))
        if silent:
            continue
        for place in range(20):
            c = (i + n - place % 8) % n
            store.execute("INSERT INTO examples VALUES(?,?,?,?,?,?,?,?,?,?)", (
                i, 0 if place < 10 else 1, 0 if place < 10 else (19 - place) // 2, place, 3.0 - place / 10, c, place % 8, 0, context_tokens,
                json.dumps([[place % 8, 3.0 - place / 10], [(place + 3) % context_tokens, 0.5]])))
    for i, text in enumerate(explanations):
        store.execute("INSERT INTO explanations(latent, method, model, text, scores) VALUES(?, 'chat', 'm', ?, '{}')", (i, text))
        store.execute("INSERT INTO stability VALUES(?, ?, 7, 0.75)", (i, text))
    store.execute("INSERT OR IGNORE INTO stability VALUES(?, 'runs/second', 42, 0.5)", (min(1234, n_latents - 1),))
    store.commit()
    store.close()


class Dashboard(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="thresher-dashboard-"))
        words = [f" word{i}".encode() for i in range(3000)]
        explanations = [text.decode("utf-8", "replace").replace("\0", "")[:4000] for text in HOSTILE]
        make_store(cls.folder / "hostile.sqlite", HOSTILE, 2 * len(HOSTILE), 8, explanations)
        make_store(cls.folder / "large.sqlite", words, 10000)
        for name in ("hostile", "large"):
            result = run("dashboard", f"{name}.sqlite", f"{name}.html", cwd=cls.folder, timeout=500)
            if result.returncode != 0:
                raise AssertionError(result.stderr)
        cls.browser = Browser().__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.browser.__exit__()
        shutil.rmtree(cls.folder)

    def open(self, name, **options):
        page = self.browser.open(self.folder / f"{name}.html", **options)
        self.assertEqual(page.evaluate("document.body.dataset.ready"), "yes")
        return page

    def key(self, page, key, code=0, text=None):
        page.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **({"text": text} if text else {}))
        page.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def wait(self, page, expression, expected=True):
        deadline = time.monotonic() + 60
        while (value := page.evaluate(expression)) != expected:
            self.assertLess(time.monotonic(), deadline, f"{expression}: {value}")
            time.sleep(0.02)

    def search(self, page, words):
        page.evaluate("document.getElementById('search').focus()")
        page.evaluate("document.getElementById('search').select()")
        page.call("Input.insertText", text=words)
        self.wait(page, "document.body.dataset.searched || ''", words.strip().lower())

    def rows(self, page):
        return page.evaluate("[...document.querySelectorAll('.row')].sort((a, b) => a.getAttribute('aria-posinset') - "
                             "b.getAttribute('aria-posinset')).map(row => Number(row.firstChild.textContent))")

    def expect_peace(self, page):
        self.assertEqual(page.problems, [])
        self.assertEqual(page.requests, [])
        self.assertIsNone(page.evaluate("window.pwned"))
        self.assertEqual(page.evaluate("document.querySelectorAll('iframe,img,base,object,embed,link,article script,main style').length"), 0)

    def test_ten_thousand_latents_are_listed_searched_sorted_and_scrolled(self):
        page = self.open("large")
        self.assertIn("9,800 of 10,000", page.evaluate("document.getElementById('count').textContent"))
        self.assertLess(page.evaluate("document.querySelectorAll('.row').length"), 40)
        self.assertEqual(self.rows(page)[:3], [0, 1, 2])
        page.evaluate("document.getElementById('list').scrollTop = 52 * 5000")
        self.wait(page, "[...document.querySelectorAll('.row')].some(row => row.id === 'row-5102')")
        self.assertLess(page.evaluate("document.querySelectorAll('.row').length"), 40)
        page.evaluate("(s => { s.value = 'density'; s.dispatchEvent(new Event('change')); })(document.getElementById('sort'))")
        self.assertEqual(self.rows(page)[:3], [9998, 9997, 9996])
        page.evaluate("document.getElementById('alive').click()")
        self.assertEqual(page.evaluate("document.getElementById('count').textContent"), "10,000 latents")
        self.search(page, "word1234")
        self.assertEqual(self.rows(page)[:2], [1234, 4234])
        self.search(page, "777")
        self.assertEqual(self.rows(page)[0], 777)
        self.search(page, "nowhere")
        self.assertEqual(self.rows(page), [])
        self.expect_peace(page)

    def test_a_latent_opens_with_everything_that_is_known(self):
        page = self.open("large")
        page.evaluate("location.hash = '#1234'")
        self.wait(page, "document.querySelector('#detail h2')?.textContent", "Latent 1234")
        self.assertEqual(page.evaluate("document.querySelectorAll('#detail .examples li').length"), 20)
        self.assertEqual(page.evaluate("document.querySelector('#detail .examples .l4').dataset.value"), "3")
        self.assertEqual(page.evaluate("document.querySelectorAll('#detail svg rect').length"), 3)
        self.assertEqual(page.evaluate("document.querySelectorAll('#detail ol.bars').length"), 5)
        self.assertEqual(page.evaluate("document.querySelector('#detail [aria-label=\"other runs\"] li').textContent"),
                         "runs/second, latent 420.5")
        self.assertEqual(page.evaluate("document.querySelector('#detail .bars .chip').textContent"), " word1234")
        page.evaluate("document.querySelector('#detail .link').click()")
        self.assertEqual(page.evaluate("document.querySelector('#detail h2').textContent"), "Latent 1235")
        self.assertEqual(page.evaluate("location.hash"), "#1235")
        self.expect_peace(page)

    def test_the_keyboard_is_enough(self):
        page = self.open("large")
        self.key(page, "j")
        self.key(page, "ArrowDown", 40)
        self.key(page, "k")
        self.assertEqual(page.evaluate("document.querySelector('[aria-selected=true]').id"), "row-0")
        self.key(page, "End", 35)
        self.assertEqual(page.evaluate("document.querySelector('[aria-selected=true]').id"), "row-9998")
        self.key(page, "Enter", 13)
        self.assertEqual(page.evaluate("document.querySelector('#detail h2').textContent"), "Latent 9998")
        page.evaluate("document.querySelector('.examples li').focus()")
        self.key(page, "ArrowRight", 39)
        self.assertEqual(page.evaluate("document.querySelectorAll('.text .at').length"), 1)
        self.assertIn("3 (1 of 2)", page.evaluate("document.querySelector('.readout').textContent"))
        self.key(page, "Escape", 27)
        self.assertIsNone(page.evaluate("document.querySelector('#detail h2')"))
        self.key(page, "/")
        self.assertEqual(page.evaluate("document.activeElement.id"), "search")
        page.call("Input.insertText", text="word77")
        self.wait(page, "document.body.dataset.searched || ''", "word77")
        self.key(page, "Enter", 13)
        self.assertEqual(page.evaluate("document.querySelector('#detail h2').textContent"), "Latent 77")
        self.expect_peace(page)

    def test_a_click_in_the_plot_opens_the_latent(self):
        page = self.open("large")
        box = page.evaluate("(b => [b.left, b.top, b.width, b.height])(document.getElementById('plot').getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            page.call("Input.dispatchMouseEvent", type=kind, x=box[0] + box[2] - 40, y=box[1] + box[3] / 2, button="left", clickCount=1)
        self.assertTrue(page.evaluate("document.querySelector('#detail h2').textContent").startswith("Latent "))

    def test_hostile_texts_are_shown_and_never_run(self):
        page = self.open("hostile")
        self.expect_peace(page)
        self.assertEqual(page.evaluate("document.getElementById('title').textContent"), "<b>made</b> by hand")
        shown = []
        for latent in range(len(HOSTILE)):
            if latent == 150:  # Chromium stops a page after 200 changes of its address in ten seconds
                self.expect_peace(page)
                page = self.open("hostile")
            page.evaluate(f"location.hash = '#{latent}'")
            self.wait(page, "document.querySelector('#detail h2')?.textContent", f"Latent {latent}")
            shown.append(page.evaluate("document.querySelector('#detail .bars .chip').textContent"))
            self.assertLess(page.evaluate("document.getElementById('detail').scrollWidth - document.getElementById('detail').clientWidth"), 2)
        self.expect_peace(page)
        for word, text in zip(HOSTILE, shown):
            if word.isascii() and word.decode().isprintable() and len(word) < 200:
                self.assertEqual(text, word.decode().replace("\\", "\\\\"))
        self.assertEqual(shown[HOSTILE.index(b"x" * LONGEST)], "x" * 200 + "… (10000000 bytes)")
        self.assertIn("\\u{202e}evil\\u{202c}", shown)
        self.assertIn("\\x00\\x01\\x1b[31m\\x7f", shown)
        self.assertIn("\\xff\\xfe\\x80", shown)
        everything = page.evaluate("document.body.innerText")
        for character in "\u202e\u2066\u200b\u2028\x00\x1b":
            self.assertNotIn(character, everything)

    def test_a_hostile_search_is_only_text(self):
        page = self.open("hostile")
        for word in HOSTILE[:14] + [b"(((", b"\\", b"[a-z", b"*", b"\"", b"%00"]:
            self.search(page, word.decode())
        self.search(page, "<script>window.pwned=1</script>")
        self.assertIn(0, self.rows(page))
        self.expect_peace(page)

    def test_asks_for_nothing_and_forbids_all(self):
        html = (self.folder / "hostile.html").read_text()
        self.assertIn("default-src 'none'; script-src 'sha256-", html)
        self.assertNotIn("innerHTML", html.replace("document.body.innerText", ""))
        self.assertEqual(run("dashboard", "hostile.sqlite", "again.html", cwd=self.folder).returncode, 0)
        self.assertEqual((self.folder / "again.html").read_text(), html)

    def test_a_narrow_window_shows_one_thing_at_a_time(self):
        page = self.open("large", width=420, height=800)
        self.assertEqual(page.evaluate("getComputedStyle(document.getElementById('detail')).display"), "none")
        page.evaluate("document.querySelector('.row').click()")
        self.assertEqual(page.evaluate("getComputedStyle(document.getElementById('side')).display"), "none")
        self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), 420)


if __name__ == "__main__":
    if shutil.which("chromium") is None:
        print("SKIP: no chromium")
        sys.exit(77)
    unittest.main()
