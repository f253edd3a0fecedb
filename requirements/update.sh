#!/bin/sh
# Remakes the lock files from pyproject.toml, for every platform and Python that is supported.
# Needs `uv`. Run it from anywhere: `requirements/update.sh [--upgrade]`.
set -eu
cd "$(dirname "$0")/.."
compile() { # compile OUTPUT [OPTION ...]
    out=$1; shift
    uv pip compile --universal --python-version 3.10 --generate-hashes --no-annotate \
        --no-emit-index-url --no-header --quiet "$@" --output-file "requirements/$out"
}
lock() { # lock OUTPUT [OPTION ...]
    compile "$@" pyproject.toml
}
lock launcher.txt "$@"
lock image.txt --extra image --constraint requirements/launcher.txt "$@"
lock dev.txt --extra dev --constraint requirements/launcher.txt "$@"
# Not beside the launcher, so not with its dependencies: the group alone.
compile eval.txt --group eval "$@"
# The group alone, at the launcher's versions: the same probes run from both.
compile smoke.txt --group smoke --constraint requirements/launcher.txt "$@"
printf 'hatchling\n' | compile build.txt - "$@"
