#!/bin/sh
# The file system below Python's packages, the same in every image: the base, Python, trusted certificates, one user;
# no setuid file or setgid folder, no manual, no trace of the build.
set -eu
here=$(dirname "$0")
"$here/apt-install.sh" python3 ca-certificates
if [ "${KEEP_CA:-no}" = yes ]; then "$here/trust.sh"; fi
groupadd --gid "$USER_ID" mlaas4hep
useradd --uid "$USER_ID" --gid "$USER_ID" --no-create-home --home-dir /tmp --shell /usr/sbin/nologin mlaas4hep
find / -xdev ! -type l -perm /6000 -exec chmod a-s {} +
find /usr/share/doc -type f ! -name copyright -delete
find /usr/share/doc -type d -empty -delete
rm -rf /usr/share/man /usr/share/info /usr/share/locale /var/log/* /var/cache/* /etc/*- /root/.cache
