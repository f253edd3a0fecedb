#!/bin/sh
# Makes the launcher's virtual environment from a lock file, or brings it up to date.
# usage: scripts/venv.sh FOLDER launcher|dev
set -eu
venv=$1 lock=$2
python=${PYTHON:-python3}

fail() { echo "error [setup] $1" >&2; echo "  next: $2" >&2; exit 1; }

as_root_on_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

if ! command -v "$python" >/dev/null 2>&1; then
    as_root_on_apt || fail "There is no $python." "Install Python 3.10 or newer, with venv."
    echo "Installing Python from the distribution" >&2
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends python3 python3-venv >&2
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$python" --version) is too old." "Install Python 3.10 or newer; name it in PYTHON=."

# One at a time: two `make up` at once would build the same environment.
if command -v flock >/dev/null 2>&1; then
    exec 9>".venv.lock"
    flock 9
fi
# Whether pip is in it tells whether it was ever finished.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$venv"
    echo "Making the virtual environment $venv" >&2
    if ! "$python" -m venv "$venv" >/dev/null 2>&1; then
        rm -rf "$venv"
        as_root_on_apt || fail "$python can't make virtual environments." \
            "Install its venv module (Debian and Ubuntu: python3-venv)."
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
            apt-get -qq install -y --no-install-recommends python3-venv >&2
        "$python" -m venv "$venv"
    fi
fi

# Only when the lock changed: what is installed is what it says.
if ! cmp -s "requirements/$lock.txt" "$venv/$lock.lock"; then
    echo "Installing requirements/$lock.txt" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
        -r requirements/build.txt -r "requirements/$lock.txt" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --no-build-isolation --editable . >&2
    cp "requirements/$lock.txt" "$venv/$lock.lock"
fi
# Bytecode now, so that the launcher starts at once even where Python may not write it.
"$venv/bin/python" -m compileall -q appliance healthchecks
case $lock in
    dev) touch "$venv/.dev" ;;
    *) touch "$venv/.ready" ;;
esac
