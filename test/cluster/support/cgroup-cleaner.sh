#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Waits until the process at the other end of stdin is gone, however it died, then empties and removes cgroup folders: a
# kubelet needs one in every hierarchy of cgroup v1, a test node itself has one in all.
# usage: cgroup-cleaner.sh CGROUP_FOLDER...
trap '' HUP INT TERM
read -r _
for folder in "$@"; do
  sh "$(dirname "$0")/../../support/node/cleaner.sh" "$folder" </dev/null &
done
wait
