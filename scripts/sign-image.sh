#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Signs an image's archive and its bill of materials with an SSH key: a file of their digests, and a signature of that.
# usage: sign-image.sh ARCHIVE KEY     KEY: a private key, or the public key of one that ssh-agent or a token holds
# writes ARCHIVE.sums and ARCHIVE.sums.sig; verify-image.sh checks them. Source: ssh-keygen(1), -Y sign.
set -eu
fail() { echo "sign-image: $*" >&2; exit 1; }
[ $# = 2 ] || { sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2; }
archive=$1
key=$2
[ -f "$archive" ] || fail "there is no \"$archive\"; make it with: npm run image -- --output $archive"
[ -f "$archive.cdx.json" ] || fail "there is no \"$archive.cdx.json\": npm run image writes it beside the archive"
digest=$(sh "$(dirname "$0")/image-digest.sh" "$archive")

sums=$(mktemp "$archive.XXXXXX")
trap 'rm -f "$sums" "$sums.sig"' EXIT
{
  echo "# ambient-cni image $digest"
  cd "$(dirname "$archive")"
  sha256sum -- "$(basename "$archive")" "$(basename "$archive").cdx.json"
} >"$sums"
ssh-keygen -q -Y sign -n ambient-cni-image -f "$key" "$sums" >/dev/null 2>&1 ||
  fail "ssh-keygen could not sign with \"$key\""
chmod 644 "$sums" "$sums.sig"
mv "$sums" "$archive.sums"
mv "$sums.sig" "$archive.sums.sig"
trap - EXIT
head -n 1 "$archive.sums" | cut -c3-
