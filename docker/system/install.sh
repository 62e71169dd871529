#!/bin/sh
# install.sh ENVIRONMENT LOCK: exactly the versions of the lock, each file checked against its hash; nothing is compiled.
set -eu
UV_DEFAULT_INDEX=${PIP_INDEX_URL:-} /opt/build/bin/uv pip install --python "$1/bin/python" --quiet --no-cache --no-config \
    --require-hashes --only-binary :all: --compile-bytecode -r "$2"
rm -f "$1/.lock" # uv's own, which everybody could write
