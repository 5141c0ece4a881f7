// SPDX-License-Identifier: Apache-2.0
// How the core does a job inside a network namespace: on a thread of its own that enters the namespace and ends there,
// so nothing has to be restored and nothing can fail to be restored.
#ifndef AMBIENT_NETNS_H
#define AMBIENT_NETNS_H

#include <stdbool.h>

struct netns_job {
	int netns_fd;
	bool is_new; // in place of that descriptor's: a namespace that is made for the job
	int (*run)(void *argument, const char **step);
	void *argument;
	const char *step;
	int result;
};

// What `run` returned, or -errno with `step` when it could not be started or could not enter ("setns", "unshare").
int run_in_netns(struct netns_job *job, const char **step);

#endif
