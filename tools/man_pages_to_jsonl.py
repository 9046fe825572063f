#!/usr/bin/env python3
"""Turns translated manual pages into labelled excerpts, as tools/split_parallel.py makes them of other texts.

    python3 tools/man_pages_to_jsonl.py OUT.jsonl fr=DIR es=DIR

DIR is searched for man*/*.gz. A line of OUT.jsonl is {"text", "language", "section"}, where the section is the page's
name, the same in all languages. Paragraphs of running text only (three quarters letters and spaces), without requests,
fonts and comments of roff; one that stands in several languages of a page was not translated and is left out, and so is
one that begins as on more than five pages (who translated it, the licence). The same input gives the same bytes. Needs Python 3.9 or newer and nothing else.
"""

import argparse
import gzip
import json
import re
import sys
from collections import Counter
from pathlib import Path

from split_parallel import excerpt, fraction_of

CHARACTERS = {"aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "em": "—", "en": "–", "bu": "•",
              "rs": "\\", "co": "©", "Fo": "«", "Fc": "»", "ha": "^", "ti": "~", "ga": "`"}
WITH_TEXT = frozenset("B I BI BR IB IR RB RI".split())


def plain(line):
    """Text of a line of roff without its escapes."""
    line = re.sub(r'\\".*', "", line)
    line = re.sub(r"\\f(\[[^\]]*\]|\(..|.)", "", line)
    line = re.sub(r"\\\((..)", lambda match: CHARACTERS.get(match[1], ""), line)
    line = re.sub(r"\\\[([^\]]*)\]", lambda match: CHARACTERS.get(match[1], ""), line)
    line = re.sub(r"\\s[-+]?\d", "", line)
    line = line.replace("\\-", "-").replace("\\ ", " ").replace("\\~", " ").replace("\\e", "\\")
    return re.sub(r"\\.", "", line)


def paragraphs_of_page(source):
    """Each run of text lines between requests that end a paragraph."""
    pending, is_skipping = [], False
    for line in source.split("\n"):
        if line.startswith((".", "'")):
            request, _, rest = line[1:].strip().partition(" ")
            if request in ("nf", "EX", "TS"):
                is_skipping = True
            if request in WITH_TEXT and not is_skipping:
                pending.append(plain(rest.replace('"', "")))
                continue
            if pending:
                yield " ".join(pending)
            pending = []
            if request in ("fi", "EE", "TE"):
                is_skipping = False
        elif line.strip() and not is_skipping:
            pending.append(plain(line))
        elif pending:
            yield " ".join(pending)
            pending = []
    if pending:
        yield " ".join(pending)


def is_running_text(line):
    return sum(c.isalpha() or c == " " for c in line) >= 0.75 * len(line) and line.count(" ") >= len(line) // 12


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("languages", nargs="+", metavar="LANGUAGE=DIR")
    parser.add_argument("--excerpt", type=int, default=160)
    parser.add_argument("--per-page", type=int, default=2)
    arguments = parser.parse_args()

    pages = {}
    for item in arguments.languages:
        language, folder = item.split("=", 1)
        for path in sorted(Path(folder).rglob("man[0-9]*/*.gz")):
            source = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
            lines = {excerpt(text, arguments.excerpt) for text in paragraphs_of_page(source)}
            lines = {line for line in lines if len(line) >= arguments.excerpt // 2 and is_running_text(line)}
            pages.setdefault(path.name[: -len(".gz")], {})[language] = lines
    if not pages:
        print(f"{' '.join(arguments.languages)}: no manual pages here", file=sys.stderr)
        return 66
    beginnings = Counter(line[:40] for page in pages.values() for lines in page.values() for line in lines)
    count = 0
    with open(arguments.out, "w", encoding="utf-8") as out:
        for name in sorted(pages):
            for language, lines in pages[name].items():
                others = set().union(*(found for other, found in pages[name].items() if other != language))
                own = (line for line in lines - others if beginnings[line[:40]] <= 5)
                chosen = sorted(own, key=lambda line: (fraction_of(line), line))[: arguments.per_page]
                for line in chosen:
                    entry = {"text": line, "language": language, "section": name}
                    out.write(json.dumps(entry, ensure_ascii=False) + "\n")
                count += len(chosen)
    print(f"{arguments.out}: {count} excerpts of {len(pages)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
