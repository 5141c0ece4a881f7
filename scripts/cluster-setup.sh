#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the Kubernetes that test/cluster runs, from Debian packages alone: etcd as packaged, Kubernetes from Debian's
# source package with Debian's Go. 5 to 15 minutes once; everything lands in one folder and is kept there.
# Safe to repeat, to interrupt and to run twice at once; when nothing is missing it only looks.
# usage: cluster-setup.sh [--api-server]   (--api-server: content with $KUBEBUILDER_ASSETS, when that is set)
# environment: CLUSTER_DIR (default /var/tmp/ambient-cni-cluster), KUBEBUILDER_ASSETS (folder with etcd, kube-apiserver, kubectl)
# exit code 3 and one sentence: this machine has not the means to build it; 1: it has, and the build failed
set -eu
umask 022

api_only=
for arg in "$@"; do
  case $arg in
    --api-server) api_only=1 ;;
    *) echo "cluster-setup: unknown argument \"$arg\" (known: --api-server)" >&2; exit 2 ;;
  esac
done
say() { echo "cluster-setup: $*" >&2; }
fail() { say "$*"; exit 1; }
lack() { say "Cannot build a Kubernetes for tests: $*"; exit 3; }

if [ -n "$api_only" ] && [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  for program in etcd kube-apiserver kubectl; do
    [ -x "$KUBEBUILDER_ASSETS/$program" ] || fail "Cannot use KUBEBUILDER_ASSETS \"$KUBEBUILDER_ASSETS\": there is no $program in it"
  done
  exit 0
fi

dir=${CLUSTER_DIR:-/var/tmp/ambient-cni-cluster}
case $dir in /*) ;; *) fail "Cannot use CLUSTER_DIR \"$dir\": it must be an absolute path" ;; esac
bin=$dir/bin
work=$dir/work
# what is in the folder; a change here builds anew
recipe="kubernetes-1.20.2 reflect2-1.0.2 etcd-debian 1"
done_file=$dir/complete
programs="kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl"
is_complete() {
  [ "$(cat "$done_file" 2>/dev/null)" = "$recipe" ] || return 1
  # somebody may tidy up old files
  for program in etcd $programs; do [ -x "$bin/$program" ] || return 1; done
}
if is_complete; then exit 0; fi

[ "$(id -u)" = 0 ] || lack "this needs root, and you are not root"
command -v apt-get >/dev/null 2>&1 || lack "there is no apt-get here, and it is made from Debian 12's packages"
case $(dpkg --print-architecture) in
  amd64 | arm64) arch=$(dpkg --print-architecture) ;;
  *) lack "Debian's source was tried on amd64 and arm64 only" ;;
esac
mkdir -p "$bin" "$work" || lack "the folder \"$dir\" cannot be made (CLUSTER_DIR names another)"
free_mb=$(df -Pm "$dir" | awk 'NR == 2 { print $4 }')
[ "$free_mb" -ge 4000 ] || lack "\"$dir\" has $free_mb MB left, 4000 are needed (CLUSTER_DIR names another folder)"

exec 9>"$dir/lock"
flock -n 9 || { say "somebody else is building in $dir; waiting for that"; flock 9; }
if is_complete; then exit 0; fi
begun=$(date +%s)
elapsed() { echo "$(($(date +%s) - begun)) s"; }
log=$dir/build.log
: >"$log"
run() { "$@" >>"$log" 2>&1 9>&- </dev/null; }
failed() { tail -n 20 "$log" >&2; fail "$* (the last lines of $log are above)"; }

# apt with sources of its own: the machine's lists say deb, we want deb-src too; third parties are left out
apt_parts=$work/apt/parts
mkdir -p "$apt_parts" "$work/apt/lists/partial" "$work/packages"
for list in /etc/apt/sources.list.d/*.sources; do
  [ -e "$list" ] && grep -qi 'debian' "$list" && sed 's/^Types:.*/Types: deb deb-src/' "$list" >"$apt_parts/$(basename "$list")"
done
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
  [ -e "$list" ] && grep -E '^deb .*debian' "$list" | sed 'p; s/^deb /deb-src /' >"$apt_parts/$(basename "$list" .list).list"
done
[ -n "$(cat "$apt_parts"/* 2>/dev/null)" ] || lack "apt knows no Debian archive here (Ubuntu has no source package of Kubernetes)"
apt() {
  run apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt_parts" -o Dir::State::Lists="$work/apt/lists" \
    -o APT::Sandbox::User=root -o Acquire::Retries=3 "$@"
}
export DEBIAN_FRONTEND=noninteractive

say "building Kubernetes 1.20.2 into $dir, once; this takes 5 to 15 minutes (progress in $log)"
apt update || failed "apt-get update failed"
apt-cache -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt_parts" -o Dir::State::Lists="$work/apt/lists" showsrc kubernetes 2>/dev/null 9>&- |
  grep -q '^Version: 1\.20\.' || lack "the Debian archive of this machine has no source of Kubernetes 1.20 (Debian 12 has)"

want=
command -v make >/dev/null 2>&1 || want="$want make"
command -v gcc >/dev/null 2>&1 || want="$want gcc libc6-dev"
command -v rsync >/dev/null 2>&1 || want="$want rsync"
command -v dpkg-source >/dev/null 2>&1 || want="$want dpkg-dev"
command -v openssl >/dev/null 2>&1 || want="$want openssl"
[ -x /usr/lib/go-1.19/bin/go ] || want="$want golang-1.19-go"
[ -e /usr/share/gocode/src/github.com/modern-go/reflect2/reflect2.go ] || want="$want golang-github-modern-go-reflect2-dev"
if [ -n "$want" ]; then
  say "installing Debian packages:$want"
  apt install -y --no-install-recommends $want || failed "apt-get could not install:$want"
fi

# unpacked, not installed: the package would start an etcd of its own on this machine
if [ ! -x "$bin/etcd" ] || [ ! -x "$bin/etcdctl" ]; then
  say "fetching etcd"
  (cd "$work/packages" && apt download etcd-server etcd-client) || failed "apt-get could not fetch etcd"
  for package in "$work"/packages/etcd-*.deb; do dpkg-deb -x "$package" "$work/packages/etcd"; done
  for program in etcd etcdctl; do
    cp "$work/packages/etcd/usr/bin/$program" "$bin/.$program" && mv "$bin/.$program" "$bin/$program"
  done
fi

src=$work/kubernetes
if [ ! -e "$work/unpacked" ]; then
  say "fetching the source of Kubernetes"
  (cd "$work/packages" && apt source --download-only kubernetes) || failed "apt-get could not fetch the source of kubernetes"
  rm -rf "$src"
  run dpkg-source -x "$work"/packages/kubernetes_*.dsc "$src" || failed "the source of kubernetes could not be unpacked"
  # the reflect2 in the source reaches into Go's runtime in a way that crashes the API server when built with Go 1.18 or later
  vendored=$src/vendor/github.com/modern-go/reflect2
  rm -f "$vendored"/*.go "$vendored"/*.s
  cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.go /usr/share/gocode/src/github.com/modern-go/reflect2/*.s "$vendored/"
  # the build expects to be found in a GOPATH under its own name
  mkdir -p "$src/.go/src/k8s.io"
  ln -sfn ../../.. "$src/.go/src/k8s.io/kubernetes"
  touch "$work/unpacked"
fi

# the source package is no git checkout, so the version has to be told
cat >"$work/version" <<VERSION
KUBE_GIT_COMMIT='faecb196815e248d3ecfb03c680a4507229c2a56'
KUBE_GIT_TREE_STATE='archive'
KUBE_GIT_VERSION='v1.20.2'
KUBE_GIT_MAJOR='1'
KUBE_GIT_MINOR='20'
VERSION
what=
for program in $programs; do what="$what cmd/$program"; done
say "compiling ($(elapsed) so far)"
mkdir -p "$work/home"
(
  cd "$src"
  unset GOROOT GOBIN GOTOOLCHAIN MAKEFLAGS MAKELEVEL
  # Go's build cache is below HOME, so an interrupted build goes on where it was
  run env GOENV=off GOPATH="$src/.go" CGO_ENABLED=0 GOFLAGS=-mod=vendor GOPROXY=off HOME="$work/home" \
    PATH="/usr/lib/go-1.19/bin:$PATH" KUBE_GIT_VERSION_FILE="$work/version" nice -n 15 make WHAT="${what# }"
) || failed "Kubernetes did not compile"
for program in $programs; do
  cp "$src/_output/local/bin/linux/$arch/$program" "$bin/.$program" && mv "$bin/.$program" "$bin/$program" || failed "the build made no $program"
done
echo "$recipe" >"$done_file"
rm -rf "$work"
say "built in $(elapsed)"
