// SPDX-License-Identifier: Apache-2.0
// Threads of the addon that visit network namespaces and come home again. Node's own threads are not among them: a namespace in which
// the kernel answers slowly keeps no file and no name waiting.
#ifndef AMBIENT_VISITOR_H
#define AMBIENT_VISITOR_H

#include <stdbool.h>
#include <sys/types.h>

// One visit. Belongs to the visitor from visit_netns() until `done`, which is called once, from its thread.
struct visit {
	struct visit *next;
	int netns_fd;
	dev_t netns_dev; // which namespace it is, once the visit is queued
	ino_t netns_ino;
	bool is_new;    // in place of that descriptor's: a namespace that is made for the visit
	bool is_urgent; // does not wait for those that are not
	int (*run)(struct visit *visit, const char **step); // in the namespace
	void (*done)(struct visit *visit);
	int result; // what `run` returned, or -errno when the namespace could not be entered ("setns", "unshare")
	const char *step;
};

// 0, or -errno when there is no thread for it; nothing is called then. Called from threads that are at home.
int visit_netns(struct visit *visit);

#endif
