#!/bin/sh
# apt-install.sh PACKAGE...: install Debian packages, from APT_MIRROR when it is given, trusting the site's CAs when they are.
# The image's own list of sources stays as it is.
set -eu
here=$(dirname "$0")
temp=$(mktemp -d)
chmod 755 "$temp" # apt fetches as its own user
mkdir "$temp/sources.list.d"
cp -r /etc/apt/sources.list* "$temp"
touch "$temp/sources.list"
if [ -n "${APT_MIRROR:-}" ]; then
    find "$temp" -type f -exec sed -i -E "s#https?://[^/ ]+#${APT_MIRROR%/}#" {} +
fi
{
    echo "Dir::Etc::SourceList \"$temp/sources.list\";"
    echo "Dir::Etc::SourceParts \"$temp/sources.list.d\";"
    echo 'APT::Install-Recommends "false";'
    echo 'Acquire::Retries "3";'
    if [ -e "$here/site-ca.pem" ]; then echo "Acquire::https::CaInfo \"$here/site-ca.pem\";"; fi
} >"$temp/apt.conf"
export APT_CONFIG="$temp/apt.conf" DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -qq -y upgrade
apt-get -qq -y install "$@"
rm -rf "$temp" /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old
