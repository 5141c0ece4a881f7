#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Unpacks the iptables of a newer Debian, with the libraries it needs, into a root of its own: its rules have other bytes than those of
# this machine's iptables, and test/netfilter holds the engine to both. Nothing is installed. Safe to repeat and to run twice at once.
# usage: newer-iptables.sh [SUITE]   (default trixie); prints the root's path
# environment: NEWER_IPTABLES_DIR (default /var/tmp/ambient-cni-iptables)
# exit code 3 and one sentence: this machine has not the means; 1: it has, and it failed
set -eu
umask 022

suite=${1:-trixie}
case $suite in *[!a-z]*) echo "newer-iptables: \"$suite\" is no name of a Debian suite" >&2; exit 2 ;; esac
dir=${NEWER_IPTABLES_DIR:-/var/tmp/ambient-cni-iptables}
case $dir in /*) ;; *) echo "newer-iptables: Cannot use NEWER_IPTABLES_DIR \"$dir\": it must be an absolute path" >&2; exit 1 ;; esac
root=$dir/$suite
work=$dir/work-$suite
packages="iptables libip4tc2 libip6tc2 libxtables12 libnetfilter-conntrack3 libnfnetlink0 libmnl0 libnftnl11 libc6 netbase"
lack() { echo "newer-iptables: Cannot bring the iptables of Debian $suite: $*" >&2; exit 3; }
if [ -e "$root/complete" ]; then echo "$root"; exit 0; fi

[ "$(id -u)" = 0 ] || lack "this needs root, and you are not root"
command -v apt-get >/dev/null 2>&1 || lack "there is no apt-get here"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || lack "there is no $keyring"
# the archive that this machine uses, whatever its name
archive=$(sed -n 's/^URIs: *\(\S*\/debian\)\/*$/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
[ -n "$archive" ] || archive=$(sed -n 's/^deb \(\[.*\] \)\?\(\S*\/debian\)\/* .*/\2/p' /etc/apt/sources.list 2>/dev/null | head -n 1)
[ -n "$archive" ] || lack "apt knows no Debian archive here"

mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9
if [ -e "$root/complete" ]; then echo "$root"; exit 0; fi
rm -rf "$root" "$work"
mkdir -p "$root" "$work/lists/partial" "$work/cache/archives/partial" "$work/packages"
echo "deb [signed-by=$keyring] $archive $suite main" >"$work/sources.list"
: >"$work/status"
log=$dir/$suite.log
apt() {
  apt-get -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::Lists="$work/lists" \
    -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -o Acquire::Retries=3 "$@" \
    >>"$log" 2>&1 9>&- </dev/null
}
: >"$log"
apt update || lack "its archive has no suite $suite (the last lines are in $log)"
# shellcheck disable=SC2086
(cd "$work/packages" && apt download $packages) || { tail -n 20 "$log" >&2; exit 1; }
for package in "$work"/packages/*.deb; do dpkg-deb -x "$package" "$root"; done
# where /lib is a link into /usr, packages of before hold files beside it
[ -e "$root/lib64" ] || ln -s usr/lib64 "$root/lib64"
[ -e "$root/lib" ] || ln -s usr/lib "$root/lib"
for name in iptables ip6tables; do
  for variant in nft legacy; do
    for tool in "" -save -restore; do
      link=$root/usr/sbin/$name-$variant$tool
      [ -e "$link" ] || ln -s "xtables-$variant-multi" "$link"
    done
  done
done
chroot "$root" /usr/sbin/iptables-nft --version >>"$log" 2>&1 || { tail -n 5 "$log" >&2; exit 1; }
rm -rf "$work"
touch "$root/complete"
echo "$root"
