#!/bin/sh
# Put the site's CAs, when there are any, into the trust store: one file a certificate, as the store wants them.
set -eu
bundle=$(dirname "$0")/site-ca.pem
if [ ! -e "$bundle" ]; then exit 0; fi
awk -v folder=/usr/local/share/ca-certificates '
    /-----BEGIN CERTIFICATE-----/ { inside = 1; file = sprintf("%s/site-%03d.crt", folder, ++n) }
    inside { print > file }
    /-----END CERTIFICATE-----/ { inside = 0; close(file) }' "$bundle"
update-ca-certificates
