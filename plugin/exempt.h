// SPDX-License-Identifier: Apache-2.0
// Which pods may start while the agent is away.
#ifndef AMBIENT_EXEMPT_H
#define AMBIENT_EXEMPT_H

#include "json.h"

/* The pod a call is about; an empty name space when the call does not say. */
struct pod {
	struct bytes namespace, name;
};

/* K8S_POD_NAMESPACE and K8S_POD_NAME out of CNI_ARGS, in any order; the last of a name counts.
 * Source: containernetworking/cni pkg/types/args.go, LoadArgs. */
struct pod pod_of_args(const char *cni_args);

/* An entry is `namespace` or `namespace/pod-name-prefix`; a `*` in the namespace stands for any characters. */
bool exempt_entry_matches(struct bytes entry, const struct pod *pod);
/* `array`: a checked JSON array of strings, or absent. */
bool exempt_in_array(const struct json_value *array, const struct pod *pod);
/* Whether it names single pods, `namespace/pod-name-prefix`: the agent's own. */
bool exempt_array_names_pods(const struct json_value *array);

/* The agent's list of namespaces, which arrives in parts: lines of a verdict, a name and what the agent keeps for itself. Pods
 * of a namespace with the verdict `start` start while the agent is away; any other line says nothing to the launcher. */
struct namespace_list {
	unsigned char line[512]; /* longer than any verdict, namespace and UID; what is longer says nothing */
	size_t len;
	bool starts;
};

void namespace_list_add(struct namespace_list *list, struct bytes part, struct bytes namespace);
/* After the last part: true if the namespace's pods start. */
bool namespace_list_end(struct namespace_list *list, struct bytes namespace);
/* The same for the file at `path`; one that cannot be read has no lines. */
bool exempt_in_file(const char *path, const struct pod *pod);

#endif
