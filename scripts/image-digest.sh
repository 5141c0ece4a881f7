#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prints the digest of the manifest in an image's archive, by its content and not by what the archive's index says of it.
# usage: image-digest.sh ARCHIVE
# Source: OCI Image Format Specification 1.1, image-layout.md.
set -eu
[ $# = 1 ] || { sed -n 's/^# usage: /usage: /p' "$0" >&2; exit 2; }
named=$(tar -xOf "$1" index.json | sed -n 's/.*"mediaType":"application\/vnd.oci.image.manifest.v1+json","digest":"sha256:\([0-9a-f]\{64\}\)".*/\1/p')
[ -n "$named" ] || { echo "image-digest: \"$1\" is no archive of npm run image" >&2; exit 1; }
found=$(tar -xOf "$1" "blobs/sha256/$named" | sha256sum | cut -c1-64)
[ "$found" = "$named" ] || { echo "image-digest: the manifest in \"$1\" is not what its index names" >&2; exit 1; }
echo "sha256:$named"
