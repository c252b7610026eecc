# Shared by the scripts in this folder: where caches live, how a step reports progress, how Debian packages are
# installed only when missing. Sourced, never run.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/weir
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$CACHE/target}
VENV=$CACHE/venv
VENV_AIOMOQT=$CACHE/venv-aiomoqt
PEERS=$CACHE/peers
mkdir -p "$CACHE/logs"
cd "$ROOT"

if [ -f "$HOME/.cargo/env" ] && ! command -v cargo >/dev/null 2>&1; then
  # shellcheck disable=SC1091
  . "$HOME/.cargo/env"
fi

fail() {
  printf 'error: %s\n' "$1" >&2
  if [ -n "${2:-}" ]; then printf 'help: %s\n' "$2" >&2; fi
  exit 1
}

# step TITLE COMMAND…: runs a quiet command with one progress line (seconds and the last line it printed); its output
# is shown only when it fails.
step() {
  local title=$1 log started pid status last
  shift
  log=$(mktemp "$CACHE/logs/step.XXXXXX")
  started=$SECONDS
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  if [ -t 2 ]; then
    while kill -0 "$pid" 2>/dev/null; do
      last=$(tail -n 1 "$log" 2>/dev/null | tr -d '\r' | cut -c1-60)
      printf '\r\033[K  %s … %d s  %s' "$title" $((SECONDS - started)) "$last" >&2
      sleep 0.3
    done
    printf '\r\033[K' >&2
  else
    printf '  %s …\n' "$title" >&2
  fi
  status=0
  wait "$pid" || status=$?
  if [ "$status" -ne 0 ]; then
    cat "$log" >&2
    rm -f "$log"
    fail "$title did not succeed (exit status $status)"
  fi
  rm -f "$log"
  printf '  %s: done in %d s\n' "$title" $((SECONDS - started)) >&2
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null 2>&1; then
    sudo "$@"
  else
    fail "installing Debian packages needs root" "run this once as root, or install sudo"
  fi
}

apt_refresh() { as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq; }
apt_add() { as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; }

# debian_packages TEST:PACKAGE…: installs the packages whose test fails. A test is a command name, or a path when it
# starts with a slash; nothing is asked of apt when all tests pass.
debian_packages() {
  local pair probe missing=()
  for pair in "$@"; do
    probe=${pair%%:*}
    case $probe in
      /*) [ -e "$probe" ] || missing+=("${pair#*:}") ;;
      *) command -v "$probe" >/dev/null 2>&1 || missing+=("${pair#*:}") ;;
    esac
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null 2>&1 ||
    fail "missing programs, and this is not Debian: ${missing[*]}" "install them with this system's package tool"
  if [ "$(id -u)" -ne 0 ] && command -v sudo >/dev/null 2>&1; then sudo -v; fi
  step "refreshing Debian's package lists" apt_refresh
  step "installing ${missing[*]}" apt_add "${missing[@]}"
}

need_rust_and_node() {
  command -v cargo >/dev/null 2>&1 || fail "cargo is not on PATH" "install Rust with rustup; the toolchain is pinned in rust-toolchain.toml"
  command -v node >/dev/null 2>&1 || fail "node is not on PATH" "install Node.js 20 or newer"
  command -v npm >/dev/null 2>&1 || fail "npm is not on PATH" "install npm beside Node.js"
  local major
  major=$(node -p 'process.versions.node.split(".")[0]')
  [ "$major" -ge 20 ] || fail "Node.js $major is too old" "install Node.js 20 or newer"
}

# python_312: prints a Python of 3.12 or newer that can make environments; prints nothing when there is none. Looks at
# WEIR_PYTHON, at PATH, and at pyenv's versions, whose shims refuse to run a version that is not the active one.
python_312() {
  local candidate
  for candidate in ${WEIR_PYTHON:-} python3.14 python3.13 python3.12 python3 \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3 /usr/local/bin/python3; do
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return 0
    fi
  done
}

# debian_python_312: installs one from Debian, where this release has one.
debian_python_312() {
  local version
  command -v apt-get >/dev/null 2>&1 || return 0
  step "refreshing Debian's package lists" apt_refresh
  for version in 3.14 3.13 3.12; do
    if apt-cache show "python$version-venv" >/dev/null 2>&1; then
      step "installing python$version" apt_add "python$version" "python$version-venv"
      return 0
    fi
  done
}

# pip_install VENV REQUIREMENTS PYTHON: an environment that holds exactly this file; nothing to do when it did already.
pip_install() {
  local venv=$1 requirements=$2 python=$3
  if [ -f "$venv/.weir-requirements" ] && cmp -s "$requirements" "$venv/.weir-requirements"; then return 0; fi
  step "making a Python environment" "$python" -m venv --clear "$venv"
  step "installing $requirements" "$venv/bin/pip" install -q --disable-pip-version-check -r "$requirements"
  cp "$requirements" "$venv/.weir-requirements"
}

# peer_crate NAME VERSION: a program of crates.io with the lockfile it was published with, at
# $PEERS/NAME-VERSION/bin/NAME. Unoptimised, without debug information: it is there to speak, not to be fast.
peer_crate() {
  local name=$1 version=$2 root=$PEERS/$1-$2
  [ ! -x "$root/bin/$name" ] || return 0
  step "building $name $version" env CARGO_TARGET_DIR="$PEERS/target" CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0 \
    cargo install --locked --debug --quiet --root "$root" --version "=$version" "$name"
}

# rival_relay: moq-relay optimised as we are, at $MOQ_RELAY. Its published lockfile names webpki-roots 1.0.11, which is not in
# every registry; that one entry (used on Android only) is set back, everything else stays locked.
MOQ_RELAY_VERSION=0.17.10
MOQ_RELAY=${WEIR_BENCH_MOQ_RELAY:-$PEERS/moq-relay-$MOQ_RELAY_VERSION/bin/moq-relay}
rival_relay() {
  [ ! -x "$MOQ_RELAY" ] || return 0
  local root=$PEERS/moq-relay-$MOQ_RELAY_VERSION source=$PEERS/moq-relay-src fetch
  fetch=$(mktemp -d)
  mkdir -p "$source" "$fetch/src"
  : >"$fetch/src/lib.rs"
  printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\nmoq-relay = { version = "=%s", default-features = false }\n[workspace]\n' \
    "$MOQ_RELAY_VERSION" >"$fetch/Cargo.toml"
  step "fetching moq-relay $MOQ_RELAY_VERSION" cargo fetch --manifest-path "$fetch/Cargo.toml"
  rm -rf "$fetch" "${source:?}/moq-relay-$MOQ_RELAY_VERSION"
  cp -r "$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"moq-relay-$MOQ_RELAY_VERSION" | head -1)" "$source/"
  source=$source/moq-relay-$MOQ_RELAY_VERSION
  step "locking webpki-roots 1.0.10" cargo update --manifest-path "$source/Cargo.toml" \
    -p webpki-roots@1.0.11 --precise 1.0.10
  step "building moq-relay $MOQ_RELAY_VERSION (ten minutes on two quiet cores)" \
    env CARGO_TARGET_DIR="$PEERS/moq-relay-target" CARGO_PROFILE_RELEASE_LTO=thin CARGO_PROFILE_RELEASE_CODEGEN_UNITS=4 \
    cargo install --locked --root "$root" --no-default-features --features noq,jemalloc --path "$source"
  rm -rf "$PEERS/moq-relay-target"
}

# npm_install FOLDER: `npm ci` when the lockfile changed since the last one.
npm_install() {
  local folder=$1 stamp=$1/node_modules/.weir-lock
  if [ -f "$stamp" ] && cmp -s "$folder/package-lock.json" "$stamp"; then return 0; fi
  step "installing npm packages of $folder" npm ci --prefix "$folder" --no-audit --no-fund
  mkdir -p "$folder/node_modules"
  cp "$folder/package-lock.json" "$stamp"
}

# build_web: the player and its pages, which the binary embeds; nothing to do when no source is newer than the build.
# The stamp lies outside dist, since everything in there is served.
build_web() {
  npm_install relay/web
  local newer=missing stamp=relay/web/node_modules/.weir-built
  if [ -d relay/web/dist ] && [ -f "$stamp" ]; then
    newer=$(find relay/web -path relay/web/node_modules -prune -o -path relay/web/dist -prune \
      -o -type f -newer "$stamp" -print -quit)
  fi
  [ -n "$newer" ] || return 0
  step "building the player and its pages" npm run --prefix relay/web build
  touch "$stamp"
}

# measured_node: builds for release and starts a node of its own on free ports, which ends with the script. Sets $bin,
# $node (its process) and $work (its folder).
measured_node() {
  scripts/setup run
  build_web
  cargo build --release --locked -p weir -p weir-bench
  bin=$CARGO_TARGET_DIR/release
  work=$(mktemp -d)
  "$bin/weir" up --data-dir "$work/data" --ready-file "$work/ready.json" --http 127.0.0.1:0 --https 127.0.0.1:0 \
    --quic 127.0.0.1:0 --rtmp 127.0.0.1:0 --rtmps 127.0.0.1:0 --srt 127.0.0.1:0 --whip 127.0.0.1:0 >"$work/log" 2>&1 &
  node=$!
  trap 'kill -INT "$node" 2>/dev/null; wait "$node"; rm -rf "$work"' EXIT
  until [ -s "$work/ready.json" ]; do
    kill -0 "$node" 2>/dev/null || { cat "$work/log" >&2; fail "the node does not start"; }
    sleep 0.1
  done
}
