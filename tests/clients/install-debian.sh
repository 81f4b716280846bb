#!/bin/sh
# Installs what the clients of other languages are built with, where one of the commands or libraries is not there yet.
set -eu
packages=$(cat "$(dirname "$0")"/*/debian-packages.txt)
lacking=
for package in $packages; do
    case "$package" in
        # Other packagings of Node and of the JDK do as well.
        nodejs) command -v node >/dev/null || lacking="$lacking $package" ;;
        npm) command -v npm >/dev/null || lacking="$lacking $package" ;;
        default-jdk-headless) command -v javac >/dev/null || lacking="$lacking $package" ;;
        *) dpkg-query --show --showformat='${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed' \
            || lacking="$lacking $package" ;;
    esac
done
test -z "$lacking" && exit 0
apt-get update --quiet
# shellcheck disable=SC2086 # A list of packages.
DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends $lacking
