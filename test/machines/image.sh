#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes what a virtual machine of a Debian suite boots from: kernel, a small initramfs and a root's image, all of Debian's packages.
# Nothing is configured in it but what debian-root.sh does; initrd.sh and init.sh do the rest when it boots.
# Safe to repeat and to run twice at once. What is there is taken as it is: remove its folder to have it anew.
# usage: image.sh SUITE ARCHITECTURE PACKAGE...   prints a folder with vmlinuz, initrd, root.img, and "packages" with their versions
# environment: DEBIAN_ROOTS_DIR, as of debian-root.sh
# exit code 3 and one sentence: this machine has not the means; 1: it has, and it failed
set -eu
umask 022
here=$(cd "$(dirname "$0")" && pwd)

[ $# -ge 2 ] || { echo "usage: image.sh SUITE ARCHITECTURE PACKAGE..." >&2; exit 2; }
suite=$1
arch=$2
shift 2
PATH=$PATH:/usr/sbin:/sbin
for tool in depmod mkfs.ext4 cpio xz flock; do
  command -v "$tool" >/dev/null 2>&1 || { echo "image: Cannot make a machine of Debian $suite: there is no $tool here" >&2; exit 3; }
done

root=$(sh "$here/../../scripts/debian-root.sh" --arch "$arch" "$suite" "$@" "linux-image-cloud-$arch")
# another recipe makes other images of the same root
recipe=$(cat "$0" "$here/initrd.sh" | cksum | cut -d ' ' -f 1)
images=$(dirname "$root")/machines
image=$images/$(basename "$root")-$recipe
if [ -e "$image/complete" ]; then echo "$image"; exit 0; fi
mkdir -p "$images"
exec 9>"$images/$(basename "$root").lock"
flock 9
if [ -e "$image/complete" ]; then echo "$image"; exit 0; fi
fail() { echo "image: Cannot make a machine of Debian $suite for $arch: $*" >&2; exit 1; }
free_mb=$(df -Pm "$images" | awk 'NR == 2 { print $4 }')
[ "$free_mb" -ge 1500 ] || { echo "image: Cannot make a machine of Debian $suite: \"$images\" has $free_mb MB left, 1500 are needed" >&2; exit 3; }

# images of the same root that older recipes made
rm -rf "$images/$(basename "$root")"-*
work=$image.work
rm -rf "$work"
mkdir -p "$work/initrd/modules"
set -- "$root"/usr/lib/modules/*
[ $# = 1 ] && [ -e "$1/modules.dep" ] || fail "the root has not exactly one kernel: $*"
modules=$1
# newer packages of the kernel have it beside the modules
kernel=$root/boot/vmlinuz-${modules##*/}
[ -e "$kernel" ] || kernel=$modules/vmlinuz
cp "$kernel" "$work/vmlinuz"
cp "$root/packages" "$work/packages"

# the modules that the disks take, each after those that it needs; what is built in is not listed
: >"$work/initrd/modules/order"
for name in virtio_pci virtio_blk ext4; do
  needed=$(sed -n "s|^\(.*/$name\.ko[^:]*\): *\(.*\)|\2 \1|p" "$modules/modules.dep")
  # shellcheck disable=SC2086 # a list of paths of the kernel's own
  for path in $(printf '%s\n' $needed | awk '{ line[NR] = $0 } END { for (i = NR - 1; i > 0; i--) print line[i]; if (NR) print line[NR] }'); do
    file=$(basename "$path" | sed 's/\.ko.*$/.ko/')
    [ -e "$work/initrd/modules/$file" ] && continue
    case $path in
      *.xz) xz -dc "$modules/$path" >"$work/initrd/modules/$file" ;;
      *.ko) cp "$modules/$path" "$work/initrd/modules/$file" ;;
      *) fail "nobody here unpacks $path" ;;
    esac
    echo "$file" >>"$work/initrd/modules/order"
  done
done
mkdir -p "$work/initrd/bin" "$work/initrd/proc" "$work/initrd/sys" "$work/initrd/dev" "$work/initrd/root"
cp "$root/usr/bin/busybox" "$work/initrd/bin/busybox"
ln -s busybox "$work/initrd/bin/sh"
cp "$here/initrd.sh" "$work/initrd/init"
chmod 755 "$work/initrd/init"
(cd "$work/initrd" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz"
rm -rf "$work/initrd"
mv "$work/initrd.gz" "$work/initrd"

used_mb=$(du -sm "$root" | cut -f 1)
# a gigabyte for what the machine writes; a file system with holes takes no more than its files
truncate -s "$((used_mb * 11 / 10 + 1024))M" "$work/root.img"
mkfs.ext4 -q -F -O ^has_journal -d "$root" "$work/root.img" >&2 || fail "mkfs.ext4 could not make the root"
touch "$work/complete"
mv "$work" "$image"
echo "$image"
