#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds scripts/helm, Helm's own packages behind a small program, and prints the path of it: two minutes and 600 MB of Go's caches
# once; then it only looks. Safe to repeat, to interrupt and to run twice at once. Go is this machine's own, or that of Debian 13.
# usage: helm.sh
# environment: HELM_DIR (default /var/tmp/ambient-cni-helm); GO_FOLDER (where Go is looked for beside PATH; default /usr/local/go/bin);
# DEBIAN_ROOTS_DIR (see debian-root.sh)
# exit code 3 and one sentence: this machine has not the means to build it; 1: it has, and the build failed
set -eu
umask 022
cd "$(dirname "$0")/helm"

say() { echo "helm: $*" >&2; }
fail() { say "$*"; exit 1; }
lack() { say "Cannot build Helm for tests: $*"; exit 3; }

dir=${HELM_DIR:-/var/tmp/ambient-cni-helm}
case $dir in /*) ;; *) fail "Cannot use HELM_DIR \"$dir\": it must be an absolute path" ;; esac
# a change of the program or of a dependency is another program
program=$dir/helm-$(cat go.mod go.sum main.go | cksum | cut -d ' ' -f 1)
if [ -x "$program" ]; then echo "$program"; exit 0; fi

mkdir -p "$dir" || lack "the folder \"$dir\" cannot be made (HELM_DIR names another)"
exec 9>"$dir/lock"
flock 9
if [ -x "$program" ]; then echo "$program"; exit 0; fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# where Go's own archive is unpacked, which no PATH of a root shell has
PATH=$PATH:${GO_FOLDER:-/usr/local/go/bin}
# an old Go fails here, or brings the one that go.mod asks for
if ! go env GOVERSION >/dev/null 2>&1; then
  root=$(sh ../debian-root.sh trixie golang-1.24-go 2>"$log" 9>&-) || lack "there is no Go 1.24 here, and $(tail -n 1 "$log")"
  export GOROOT="$root/usr/lib/go-1.24"
  PATH=$GOROOT/bin:$PATH
fi
export CGO_ENABLED=0
go mod download >"$log" 2>&1 9>&- </dev/null || lack "its modules cannot be had: $(tail -n 1 "$log")"
say "building Helm, once: about two minutes"
# not optimised, which is a third of the time: it renders one small chart
go build -trimpath -gcflags='all=-N -l' -ldflags='-s -w' -o "$program.new" . >"$log" 2>&1 9>&- </dev/null ||
  { tail -n 20 "$log" >&2; fail "the build failed (its last lines are above)"; }
mv "$program.new" "$program"
echo "$program"
