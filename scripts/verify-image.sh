#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks that an image's archive and its bill of materials are those that somebody signed.
# usage: verify-image.sh ARCHIVE ALLOWED_SIGNERS IDENTITY
# ALLOWED_SIGNERS: lines "IDENTITY namespaces="ambient-cni-image" KEYTYPE KEY". Prints the image's digest, by which a registry
# has to name it. Source: ssh-keygen(1), -Y verify and ALLOWED SIGNERS.
set -eu
fail() { echo "verify-image: $*" >&2; exit 1; }
[ $# = 3 ] || { sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2; }
archive=$1
for file in "$archive" "$archive.cdx.json" "$archive.sums" "$archive.sums.sig"; do
  [ -f "$file" ] || fail "there is no \"$file\""
done

# what is checked is what was read once: a file that is replaced meanwhile changes nothing
sums=$(mktemp)
trap 'rm -f "$sums"' EXIT
cat "$archive.sums" >"$sums"
ssh-keygen -q -Y verify -n ambient-cni-image -f "$2" -I "$3" -s "$archive.sums.sig" <"$sums" >/dev/null 2>&1 ||
  fail "\"$archive.sums\" is not signed by \"$3\" for an image of ambient-cni"

digest=$(sh "$(dirname "$0")/image-digest.sh" "$archive")
folder=$(dirname "$archive")
name=$(basename "$archive")
# exactly what the signer has written, for exactly these two files
expected="# ambient-cni image $digest
$(cd "$folder" && sha256sum -- "$name" "$name.cdx.json")"
[ "$(cat "$sums")" = "$expected" ] || fail "\"$archive\" or \"$archive.cdx.json\" is not what was signed"
echo "ambient-cni image $digest, signed by $3"
