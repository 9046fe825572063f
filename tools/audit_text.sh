#!/usr/bin/env bash
# Fetches and splits the text of docs/auditing.md: the Debian Administrator's Handbook in six languages, by section, and
# manual pages in French and Spanish. Usage: tools/audit_text.sh [OUT_DIR], data/audit by default. Needs Debian's apt and
# dpkg-deb, and 80 MB. Nothing is installed and nothing is written outside the repository and OUT_DIR.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-data/audit}
work=build/download/audit
rm -rf "$work"
mkdir -p "$work" "$out"

packages=(debian-handbook manpages-fr manpages-es)
(cd "$work" && { apt-get download -qq "${packages[@]}" 2>/dev/null || { apt-get update -qq && apt-get download -qq "${packages[@]}"; }; })
for package in "${packages[@]}"; do
  dpkg-deb -x "$work/$package"_*.deb "$work/$package"
done

languages=()
for pair in en=en-US fr=fr-FR es=es-ES de=de-DE it=it-IT pt=pt-BR; do
  python3 tools/handbook_to_text.py "$work/debian-handbook/usr/share/doc/debian-handbook/html/${pair#*=}" "$work/text/${pair%=*}"
  languages+=("${pair%=*}=$work/text/${pair%=*}")
done
python3 tools/split_parallel.py "$out/handbook" "${languages[@]}" --labelled en,fr,es,de
python3 tools/man_pages_to_jsonl.py "$out/manpages.jsonl" \
  fr="$work/manpages-fr/usr/share/man/fr" es="$work/manpages-es/usr/share/man/es"
rm -rf "$work"
