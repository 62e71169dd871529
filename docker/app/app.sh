#!/bin/sh
# The application and the bill of materials under /app, laid out as in the image, so that a change of the application
# changes this small layer only.
set -eu
here=$(dirname "$0")
pip() { /opt/build/bin/pip --disable-pip-version-check "$@"; }
pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /tmp/wheel "$1"
pip --python /opt/mlaas4hep/bin/python install --quiet --no-deps --no-index --no-cache-dir \
    --no-warn-script-location --root /app /tmp/wheel/*.whl
mkdir -p /app/usr/share/doc/mlaas4hep
cp "$here/LICENSE" /app/usr/share/doc/mlaas4hep/copyright
python3 "$here/sbom.py" --packages "$here/dpkg" --python /opt/mlaas4hep --python /app/opt/mlaas4hep \
    >/app/usr/share/doc/mlaas4hep/sbom.cdx.json
