"""tools/handbook_to_text.py on a page with everything that the handbook's pages have."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TOOL = Path(os.environ["THRESHER_SOURCE_DIR"]) / "tools/handbook_to_text.py"
PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<html xmlns="http://www.w3.org/1999/xhtml"><head><title>not this</title><meta name="a" content="b" /></head><body>
<div id="banner"><span>nor this</span></div><p id="title"><img alt="no" src="a.png" /></p>
<ul class="docnav top"><li class="next"><strong>Next</strong></li></ul>
<div class="section"><h2 class="title"><a id="x"></a>6.2. <code>apt</code> &amp; more</h2><a class="indexterm" id="y"></a>
<div class="para">
\t\tOne  paragraph with <em>emphasis</em>,
\t\tover two lines: caf\u00e9.
\t</div><div class="toc"><dl><dt>6.2.1. Contents</dt></dl></div>
<pre class="screen">$ <strong>ls  -l</strong>
total &lt;0&gt;\x20\x20

  end</pre><ul><li><div class="para">item</div></li></ul><table><tr><td>a</td><td>b</td></tr></table></div>
<ul class="docnav"><li>Prev</li></ul></body></html>"""
TEXT = """6.2. apt & more

One paragraph with emphasis, over two lines: caf\u00e9.

$ ls  -l
total <0>

  end

item

a

b
"""


def main():
    with tempfile.TemporaryDirectory() as folder:
        pages, texts = Path(folder, "html"), Path(folder, "text")
        pages.mkdir()
        nothing = subprocess.run([sys.executable, TOOL, pages, texts], capture_output=True, text=True, check=False)
        assert nothing.returncode == 66 and "no *.html here" in nothing.stderr, nothing
        (pages / "b.html").write_text(PAGE, encoding="utf-8")
        (pages / "empty.html").write_text("<html><body><ul class='docnav'><li>Next</li></ul></body></html>")
        for _ in range(2):
            subprocess.run([sys.executable, TOOL, pages, texts], check=True, stdout=subprocess.DEVNULL)
            assert [path.name for path in texts.iterdir()] == ["b.txt"]
            found = (texts / "b.txt").read_text(encoding="utf-8")
            assert found == TEXT, f"expected\n{TEXT}\nfound\n{found}"
    print("ok")


if __name__ == "__main__":
    main()
