#!/bin/sh
# tools.sh LOCK: what builds, and stays behind: uv, pip and the build back end in /opt/build. /opt/mlaas4hep is the
# environment that goes into the image; it has no pip.
set -eu
here=$(dirname "$0")
"$here/apt-install.sh" python3-venv
"$here/trust.sh"
python3 -m venv /opt/build
python3 -m venv --without-pip /opt/mlaas4hep
/opt/build/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: -r "$1"
