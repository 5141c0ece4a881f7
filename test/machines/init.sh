#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# PID 1 of a virtual machine: mounts what a system has (cgroup v2 alone), takes the steps that the third disk tells, keeps what they
# said on the fourth, and switches the machine off. A line that begins with "@@" is for the program outside, which reads the console.
export PATH=/checkout/node_modules/.bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LC_ALL=C TERM=dumb NO_COLOR=1
cd /checkout || exit 1

mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620 devpts /dev/pts
for folder in /run /tmp /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs "$folder"; done
ln -sfn /proc/self/fd /dev/fd
mkdir -p /run/lock /run/results /etc/modprobe.d /etc/sysctl.d /usr/local/bin
[ -L /var/run ] || { rm -rf /var/run && ln -s /run /var/run; }
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# as systemd has it: no process in a folder whose controllers are given to those below
mkdir /sys/fs/cgroup/system.slice
echo $$ >/sys/fs/cgroup/system.slice/cgroup.procs
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
  echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
mount --make-rshared /
hostname machine
ip link set lo up
# a machine has a network card; nobody is at its other end
modprobe dummy numdummies=0 2>/dev/null
ip link add eth0 type dummy
ip link set eth0 up
# of every node of Kubernetes: what a bridge forwards is seen by the rules. Source: Kubernetes, "Container Runtimes", Network configuration
modprobe br_netfilter

uptime_s() { cut -d ' ' -f 1 /proc/uptime; }
# What has been said so far, where the program outside finds it however the machine ends.
keep() {
  dmesg >/run/results/dmesg.log
  tar -C /run/results -cf /dev/vdd . && sync
}
# step NAME SECONDS COMMAND [ARGUMENT]...
step() {
  local name=$1 limit=$2 from code
  shift 2
  from=$(uptime_s)
  echo "@@ begin $name"
  timeout -k 10 "$limit" "$@" </dev/null 2>&1 | tee "/run/results/$name.log"
  code=${PIPESTATUS[0]}
  echo "@@ end $name $code $from $(uptime_s)"
  echo "$code" >"/run/results/$name.code"
  keep
}
# What the machine says of itself, one word and its value a line.
describe() {
  # Debian names a series in the release and the version in its build
  echo "kernel $(uname -r) $(uname -v)"
  echo "processor $(uname -m)"
  echo "cgroups $(stat -f -c %T /sys/fs/cgroup)"
  echo "iptables $(iptables --version 2>&1)"
  echo "nftables $(nft --version 2>&1)"
  echo "node $(node --version 2>&1)"
}

echo "@@ up $(uptime_s)"
# ends where its zeros begin
tr -d '\000' </dev/vdc >/run/steps.sh
describe >/run/results/machine
. /run/steps.sh
keep
echo "@@ off $(uptime_s)"
sync
echo o >/proc/sysrq-trigger
sleep 60
