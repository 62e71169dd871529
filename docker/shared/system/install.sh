#!/bin/sh
# install.sh ENVIRONMENT LOCK: exactly the versions of the lock, each file checked against its hash; nothing is compiled.
set -eu
/opt/build/bin/pip --python "$1/bin/python" install --quiet --no-cache-dir --disable-pip-version-check \
    --require-hashes --only-binary :all: -r "$2"
