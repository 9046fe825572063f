#!/usr/bin/env python3
"""Splits parallel texts by section across all languages, so that no section is trained on in one language and tested
in another.

    python3 tools/split_parallel.py OUT_DIR en=data/handbook-en-US fr=data/handbook-fr-FR es=data/handbook-es-ES \
        --labelled en,fr,es

Files of the same name are one section in several languages. A hash of the name decides whether it is held out
(--held-out, 0.3 of the sections); every language then has it on the same side:

    OUT_DIR/training/LANGUAGE/NAME.txt, OUT_DIR/held-out/LANGUAGE/NAME.txt    the texts as they are
    OUT_DIR/training.jsonl, OUT_DIR/held-out.jsonl                            labelled excerpts

An excerpt is {"text", "language", "section"} a line, one paragraph of a labelled language cut at a word to --excerpt
characters (160; paragraphs of less than half of it are left out), at most --per-section (8) a section and language,
those with the smallest hashes. Translations are never complete: listings and paragraphs nobody translated stand in
every language. So a paragraph of another language that the first language has too is no excerpt, and one of the first
language is none if all labelled languages have it.

The same input gives the same bytes. Needs Python 3.9 or newer and nothing else.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path


def fraction_of(text):
    """A number in [0, 1) that depends on the bytes alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") / 2.0**64


def paragraphs(text):
    return [block.strip() for block in text.split("\n\n") if block.strip()]


def excerpt(block, n_characters):
    """The block in one line, cut at the last word that fits."""
    line = " ".join(block.split())
    if len(line) <= n_characters:
        return line
    return line[: n_characters + 1].rsplit(" ", 1)[0][:n_characters]


def excerpts_of_section(texts, labelled, n_characters, per_section):
    """(language, text) of one section; `texts` maps a language to the section's text."""
    blocks = {language: paragraphs(texts[language]) for language in labelled if language in texts}
    first = labelled[0]
    in_first = set(blocks.get(first, []))
    in_all = set.intersection(*(set(found) for found in blocks.values())) if blocks else set()
    for language in blocks:
        unwanted = in_all if language == first else in_first
        lines = (excerpt(block, n_characters) for block in blocks[language] if block not in unwanted)
        lines = {line for line in lines if len(line) >= n_characters // 2}
        for line in sorted(lines, key=lambda line: (fraction_of(line), line))[:per_section]:
            yield language, line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("languages", nargs="+", metavar="LANGUAGE=DIR")
    parser.add_argument("--labelled", help="languages that excerpts are made of, comma-separated; all by default")
    parser.add_argument("--held-out", type=float, default=0.3)
    parser.add_argument("--excerpt", type=int, default=160)
    parser.add_argument("--per-section", type=int, default=8)
    arguments = parser.parse_args()

    folders = dict(item.split("=", 1) for item in arguments.languages)
    labelled = arguments.labelled.split(",") if arguments.labelled else list(folders)
    missing = [language for language in labelled if language not in folders]
    if missing:
        parser.error(f"no folder for {', '.join(missing)}")
    sections = {}
    for language, folder in folders.items():
        for path in sorted(Path(folder).glob("*.txt")):
            sections.setdefault(path.name, {})[language] = path.read_text(encoding="utf-8")
    if not sections:
        print(f"{', '.join(folders.values())}: no *.txt here", file=sys.stderr)
        return 66

    n_sections = {"training": 0, "held-out": 0}
    lines = {"training": [], "held-out": []}
    for name in sorted(sections):
        side = "held-out" if fraction_of(name) < arguments.held_out else "training"
        n_sections[side] += 1
        for language, text in sections[name].items():
            path = arguments.out_dir / side / language / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for language, text in excerpts_of_section(
            sections[name], labelled, arguments.excerpt, arguments.per_section
        ):
            entry = {"text": text, "language": language, "section": Path(name).stem}
            lines[side].append(json.dumps(entry, ensure_ascii=False) + "\n")
    for side in lines:
        (arguments.out_dir / f"{side}.jsonl").write_text("".join(lines[side]), encoding="utf-8")
        print(f"{arguments.out_dir}: {side}: {n_sections[side]} sections, {len(lines[side])} excerpts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
