#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Waits until the process at the other end of stdin is gone, however it died, then ends what is left in a node's cgroup
# folder and removes the folder. It must run in its own session, or the Ctrl-C that ends the node would end it too.
# usage: cleaner.sh CGROUP_FOLDER
trap '' HUP INT TERM
read -r _

tries=0
while [ -d "$1" ] && [ "$tries" -lt 400 ]; do
  # 0 stands for a process of another pid namespace; kill would take it for our own group
  pids=$(find "$1" -name cgroup.procs -exec cat {} + 2>/dev/null | grep -v '^0$')
  # shellcheck disable=SC2086 # one argument for each process
  [ -z "$pids" ] || kill -KILL $pids 2>/dev/null
  find "$1" -depth -type d -exec rmdir {} + 2>/dev/null
  [ ! -d "$1" ] || sleep 0.02
  tries=$((tries + 1))
done
