#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs a command with another root: programs and libraries of that root, and of this machine only kernel, devices and the checkout.
# The first program of a mount namespace of its own (unshare --mount --propagation private); nothing is written to the root, but for
# the empty folder in which the checkout is shown.
# usage: enter-root.sh ROOT CHECKOUT COMMAND [ARGUMENT]...
set -eu
root=$1
checkout=$2
shift 2

mkdir -p "$root$checkout"
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
# with all that is mounted below them, cgroups above all
for folder in proc sys dev; do mount --rbind "/$folder" "$root/$folder"; done
for folder in run tmp; do mount -t tmpfs -o mode=1777 "ambient-cni-root" "$root/$folder"; done
# a checkout may be below /tmp
mkdir -p "$root$checkout"
mount --bind "$checkout" "$root$checkout"
# not chroot: who enters this mount namespace by nsenter is to find the same root
cd "$root"
pivot_root . .
umount -l .
cd "$checkout"
exec "$@"
