#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# First program of a virtual machine: brings its two disks, root and checkout, and gives the machine to init.sh.
set -eu
bb=/bin/busybox
lost() {
  echo "@@ machine lost $*"
  $bb sleep 1
  $bb poweroff -f
}
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs dev /dev
while read -r module; do
  $bb insmod "/modules/$module" || lost "module $module cannot be loaded"
done </modules/order
tries=0
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 300 ] || lost "its disks do not come"
  $bb sleep 0.1
done
$bb mount -t ext4 -o noatime /dev/vda /root || lost "its root cannot be mounted"
$bb mkdir -p /root/checkout
$bb mount -t ext4 -o noatime /dev/vdb /root/checkout || lost "the checkout cannot be mounted"
for folder in proc sys dev; do $bb mount -o move "/$folder" "/root/$folder"; done
exec $bb switch_root /root /bin/bash /checkout/test/machines/init.sh
