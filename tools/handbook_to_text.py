#!/usr/bin/env python3
"""Turns the HTML of the Debian Administrator's Handbook (one language) into plain text, one file a section.

    python3 tools/handbook_to_text.py HTML_DIR OUT_DIR

Every HTML_DIR/NAME.html becomes OUT_DIR/NAME.txt in UTF-8: paragraphs, titles, list items, table cells and listings,
one block apart by an empty line, listings with their own line breaks. Navigation, banner, tables of contents, index
marks and pictures are left out; a page without any other text gives no file. The same input gives the same bytes.
Needs Python 3.9 or newer and nothing else.
"""

import argparse
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
BLOCKS = frozenset("body div p pre h1 h2 h3 h4 h5 h6 ul ol li dl dt dd table thead tbody tr td th blockquote".split())
SKIPPED_TAGS = frozenset("head script style object".split())
SKIPPED_CLASSES = frozenset("docnav toc indexterm mediaobject producttitle".split())
SKIPPED_IDS = frozenset("banner title".split())


class TextOfPage(HTMLParser):
    """Collects the blocks of text of one page."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.blocks = []
        self._pending = []
        self._open = []  # of (tag, is_skipped, is_preformatted)

    def handle_starttag(self, tag, attributes):
        if tag in VOID:
            if tag == "br":
                self._pending.append("\n" if self._is_preformatted() else " ")
            return
        if tag in BLOCKS:
            self._end_block()
        values = dict(attributes)
        classes = (values.get("class") or "").split()
        is_skipped = (
            self._is_skipped()
            or tag in SKIPPED_TAGS
            or values.get("id") in SKIPPED_IDS
            or not SKIPPED_CLASSES.isdisjoint(classes)
        )
        self._open.append((tag, is_skipped, self._is_preformatted() or tag == "pre"))

    def handle_startendtag(self, tag, attributes):
        if tag in VOID:
            self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        if tag not in (entry[0] for entry in self._open):
            return
        if tag in BLOCKS:
            self._end_block()
        while self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if not self._is_skipped():
            self._pending.append(data)

    def close(self):
        super().close()
        self._end_block()

    def _is_skipped(self):
        return bool(self._open) and self._open[-1][1]

    def _is_preformatted(self):
        return bool(self._open) and self._open[-1][2]

    def _end_block(self):
        text = "".join(self._pending)
        self._pending = []
        if self._is_preformatted():
            lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
            text = "\n".join(lines).strip("\n")
        else:
            text = re.sub(r"[ \t\r\n]+", " ", text).strip()
        if text.strip():
            self.blocks.append(text)


def page_to_text(html):
    page = TextOfPage()
    page.feed(html)
    page.close()
    return "".join(block + "\n\n" for block in page.blocks)[:-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("html_dir", type=Path)
    parser.add_argument("out_dir", type=Path)
    arguments = parser.parse_args()

    pages = sorted(arguments.html_dir.glob("*.html"), key=lambda path: path.name.encode())
    if not pages:
        print(f"{arguments.html_dir}: no *.html here", file=sys.stderr)
        return 66
    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    n_files = n_bytes = 0
    for page in pages:
        text = page_to_text(page.read_text(encoding="utf-8"))
        if not text:
            continue
        data = text.encode("utf-8")
        (arguments.out_dir / (page.stem + ".txt")).write_bytes(data)
        n_files += 1
        n_bytes += len(data)
    print(f"{arguments.out_dir}: {n_files} sections, {n_bytes} bytes of text")
    return 0


if __name__ == "__main__":
    sys.exit(main())
