#!/bin/sh
# Runs promtool: the one on PATH, else one unpacked from Debian's package of Prometheus; neither needs root.
# Where there is none, it says so and does nothing.
set -eu
folder=.promtool
tool=$(command -v promtool || true)
if [ -z "$tool" ]; then
    tool=$(pwd)/$folder/usr/bin/promtool
    if [ ! -x "$tool" ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
        mkdir -p "$folder"
        (cd "$folder" && apt-get download -qq prometheus >/dev/null 2>&1 && dpkg-deb -x prometheus_*.deb .) || true
        rm -f "$folder"/prometheus_*.deb "$folder/usr/bin/prometheus"
    fi
fi
if [ ! -x "$tool" ]; then
    echo "promtool is not to be had here: the alert rules are not tested (install Prometheus, or put promtool on PATH)" >&2
    exit 0
fi
exec "$tool" "$@"
