#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs Biome's binary for this machine. The package "@biomejs/biome" is only a wrapper that names a binary for every
# system there is, and npm ci refuses a lock file wherever one of them cannot be had.
set -eu
case "$(uname -m)" in
  aarch64) arch=arm64 ;;
  *) arch=x64 ;;
esac
exec "$(dirname "$0")/../node_modules/@biomejs/cli-linux-$arch/biome" "$@"
