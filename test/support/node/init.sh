#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# PID 1 of a test node: makes the node's private places, runs one command, reaps orphans, ends with the command's exit code.
# When it ends the kernel kills every process of its pid namespace, and mounts and links go with the namespaces.
# usage: init.sh ID CGROUP_FOLDER COMMAND [ARGUMENT]...
set -eu
id=$1
cgroup=$2
shift 2

# "0" is the writer itself, so the cleaner outside finds everything that ever ran in here
mkdir -p "$cgroup/node"
echo 0 >"$cgroup/node/cgroup.procs"

# the name of this mount is how a process knows that it is inside
mount -t tmpfs -o mode=755 "ambient-cni-node-$id" /run
mkdir /run/netns /run/lock /run/node
echo "$cgroup" >/run/node/cgroup-folder
[ -L /var/run ] || mount --bind /run /var/run

# a new namespace has the kernel's defaults; this is for a machine that is to have others
[ ! -e /etc/sysctl.d/ambient-cni-node.conf ] || sysctl -q -p /etc/sysctl.d/ambient-cni-node.conf
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
[ ! -e /proc/sys/net/ipv6/conf/all/forwarding ] || echo 1 >/proc/sys/net/ipv6/conf/all/forwarding

# a background command would read /dev/null; descriptor 3 belongs to the control channel
exec 9<&0
"$@" <&9 9<&- &
exec 9<&-
wait $! && code=0 || code=$?
exit "$code"
