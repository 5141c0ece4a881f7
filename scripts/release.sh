#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes what a release consists of, for this machine's architecture: the image's archive, its bill of materials, their digests and a
# signature of these. Run it on a machine of each architecture, from the same tag, with the same folder brought along: the second run
# ends with the command that makes one name of both images in a registry.
# usage: release.sh KEY FOLDER     KEY: as for sign-image.sh
# Refuses what is not committed, not tagged vVERSION, not of one version throughout, or not in CHANGELOG.md as released; everything is
# built twice, in two places, and compared before anything is signed.
set -eu
fail() { echo "release: $*" >&2; exit 1; }
[ $# = 2 ] || { sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2; }
key=$1
[ -f "$key" ] || fail "there is no key \"$key\""
mkdir -p "$2" || fail "the folder \"$2\" cannot be made"
folder=$(cd "$2" && pwd)
key=$(cd "$(dirname "$key")" && pwd)/$(basename "$key")
cd "$(dirname "$0")/.."

version=$(sed -n 's/^  "version": "\(.*\)",$/\1/p' package.json)
[ -z "$(git status --porcelain)" ] || fail "there are changes that are not committed: git status"
revision=$(git rev-parse HEAD)
[ "$(git rev-parse -q --verify "refs/tags/v$version^{commit}" || true)" = "$revision" ] ||
  fail "this commit is not tagged v$version: git tag -s v$version"
for name in version appVersion; do
  said=$(sed -n "s/^$name: *//p" deploy/chart/Chart.yaml)
  [ "$said" = "$version" ] || fail "deploy/chart/Chart.yaml has $name $said, package.json has $version"
done
heading=$(grep "^## $version" CHANGELOG.md || true)
case $heading in
  '') fail "CHANGELOG.md has no \"## $version\"" ;;
  *"not released yet"*) fail "CHANGELOG.md says \"${heading#\#\# }\": put the day in its place" ;;
esac

case $(uname -m) in
  x86_64) arch=amd64 ;;
  aarch64) arch=arm64 ;;
  *) fail "cannot build for $(uname -m)" ;;
esac
npm run -s test:reproducible >&2 || fail "two builds differ (messages above)"
archive=$folder/ambient-cni-$version-$arch.tar
npm run -s image -- --output "$archive" --revision "$revision" >&2 || fail "the image did not build (messages above)"
sh scripts/sign-image.sh "$archive" "$key" >/dev/null

references=
for other in amd64 arm64; do
  archive=$folder/ambient-cni-$version-$other.tar
  if [ -f "$archive" ]; then
    digest=$(sh scripts/image-digest.sh "$archive")
    echo "$other $digest $archive"
    references="$references REGISTRY/ambient-cni@$digest"
  else
    echo "$other missing: run this at v$version on a machine of it, with this folder"
    exit 0
  fi
done
echo "push both, then: docker buildx imagetools create -t REGISTRY/ambient-cni:$version$references"
