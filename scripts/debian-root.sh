#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Unpacks packages of a Debian suite, with all that they depend on, into a root of its own, from the archive that this machine uses.
# Nothing is installed and no script of a package runs; the links and files that these would make, and that tests need, are made here.
# Safe to repeat and to run twice at once. A root that is there is taken as it is: remove its folder to have it anew.
# usage: debian-root.sh [--arch ARCHITECTURE] SUITE PACKAGE...
#   prints the root's path; the file "packages" in it names what was unpacked, with versions. The architecture is dpkg's name of one,
#   by default this machine's
# environment: DEBIAN_ROOTS_DIR (default /var/tmp/ambient-cni-roots)
# exit code 3 and one sentence: this machine has not the means; 1: it has, and it failed
set -eu
umask 022

arch=
if [ "${1-}" = --arch ]; then
  arch=${2-}
  shift 2
fi
[ $# -ge 2 ] || { echo "usage: debian-root.sh [--arch ARCHITECTURE] SUITE PACKAGE..." >&2; exit 2; }
case $arch in *[!a-z0-9]*) echo "debian-root: \"$arch\" is no name of an architecture" >&2; exit 2 ;; esac
suite=$1
shift
case $suite in *[!a-z]*) echo "debian-root: \"$suite\" is no name of a Debian suite" >&2; exit 2 ;; esac
dir=${DEBIAN_ROOTS_DIR:-/var/tmp/ambient-cni-roots}
case $dir in /*) ;; *) echo "debian-root: Cannot use DEBIAN_ROOTS_DIR \"$dir\": it must be an absolute path" >&2; exit 1 ;; esac
lack() { echo "debian-root: Cannot bring packages of Debian $suite: $*" >&2; exit 3; }

# roots of other packages, or of a script that makes other ones of them, are other roots
recipe=2
root=$dir/$suite-${arch:+$arch-}$(echo "$recipe $*" | cksum | cut -d ' ' -f 1)
if [ -e "$root/complete" ]; then echo "$root"; exit 0; fi

[ "$(id -u)" = 0 ] || lack "this needs root, and you are not root"
command -v apt-get >/dev/null 2>&1 || lack "there is no apt-get here"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || lack "there is no $keyring"
# the archive that this machine uses, whatever its name
archive=$(sed -n 's/^URIs: *\(\S*\/debian\)\/*$/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
[ -n "$archive" ] || archive=$(sed -n 's/^deb \(\[.*\] \)\?\(\S*\/debian\)\/* .*/\2/p' /etc/apt/sources.list 2>/dev/null | head -n 1)
[ -n "$archive" ] || lack "apt knows no Debian archive here"
mkdir -p "$dir" || lack "the folder \"$dir\" cannot be made (DEBIAN_ROOTS_DIR names another)"
free_mb=$(df -Pm "$dir" | awk 'NR == 2 { print $4 }')
[ "$free_mb" -ge 1000 ] || lack "\"$dir\" has $free_mb MB left, 1000 are needed (DEBIAN_ROOTS_DIR names another folder)"

exec 9>"$root.lock"
flock 9
if [ -e "$root/complete" ]; then echo "$root"; exit 0; fi
work=$root.work
rm -rf "$root" "$work"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
echo "deb [signed-by=$keyring${arch:+ arch=$arch}] $archive $suite main" >"$work/sources.list"
# nothing is there yet, so apt brings everything that the packages depend on
: >"$work/status"
log=$root.log
: >"$log"
failed() { tail -n 20 "$log" >&2; echo "debian-root: Cannot bring packages of Debian $suite: $* (the last lines of $log are above)" >&2; exit 1; }
# an index of sid is good for a week: of a mirror that stood still for longer it is taken all the same, signed as ever, for tests alone
apt() {
  apt-get -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::Lists="$work/lists" \
    -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -o APT::Install-Recommends=false \
    -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o Acquire::Retries=3 \
    ${arch:+-o APT::Architecture="$arch" -o APT::Architectures="$arch"} "$@" >>"$log" 2>&1 9>&- </dev/null
}
apt update || lack "this machine's archive does not serve the suite (apt's words are in $log)"
apt install -y --download-only "$@" || failed "apt-get could not fetch $*"
# Debian 12's packages still hold files beside /usr, which its installer makes links first
for folder in bin sbin lib lib64; do
  mkdir -p "$root/usr/$folder"
  ln -s "usr/$folder" "$root/$folder"
done
for package in "$work"/cache/archives/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root" >>"$log" 2>&1 || failed "$package could not be unpacked"
done
for package in "$work"/cache/archives/*.deb; do dpkg-deb --show --showformat='${Package} ${Version}\n' "$package"; done >"$root/packages"
# what the packages' own scripts make
link() { [ ! -e "$root/usr/$2/$1" ] || [ -e "$root/usr/$2/$3" ] || ln -s "$1" "$root/usr/$2/$3"; }
link dash bin sh
link mawk bin awk
link which.debianutils bin which
link gcc bin cc
for name in iptables ip6tables; do
  for tool in "" -save -restore; do
    for variant in nft legacy; do link "xtables-$variant-multi" sbin "$name-$variant$tool"; done
    link "$name-nft$tool" sbin "$name$tool"
  done
done
for modules in "$root"/usr/lib/modules/*; do
  [ -e "$modules" ] || continue
  # sbin folders are missing from the PATH of some root shells
  PATH=$PATH:/usr/sbin:/sbin depmod -b "$root" "${modules##*/}" >>"$log" 2>&1 || failed "depmod could not list the modules of linux ${modules##*/}"
done
masters=$root/usr/share/base-passwd
[ ! -e "$masters/passwd.master" ] || { cp "$masters/passwd.master" "$root/etc/passwd" && cp "$masters/group.master" "$root/etc/group"; }
mkdir -p "$root/etc" "$root/usr/local/sbin"
printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >"$root/etc/hosts"
rm -rf "$work"
touch "$root/complete"
echo "$root"
