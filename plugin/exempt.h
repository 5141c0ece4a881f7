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

/* An entry is `namespace` or `namespace/pod-name-prefix`. */
bool exempt_entry_matches(struct bytes entry, const struct pod *pod);
/* `array`: a checked JSON array of strings, or absent. */
bool exempt_in_array(const struct json_value *array, const struct pod *pod);
/* Whether it names single pods, `namespace/pod-name-prefix`: the agent's own. */
bool exempt_array_names_pods(const struct json_value *array);

/* A list of one entry per line that arrives in parts. Space around entries, empty lines and lines with # are skipped. */
struct exempt_lines {
	unsigned char line[512]; /* longer than any namespace/name; what is longer matches nothing */
	size_t len;
	bool matched;
};

void exempt_lines_add(struct exempt_lines *lines, struct bytes part, const struct pod *pod);
/* After the last part: true if an entry matched. */
bool exempt_lines_end(struct exempt_lines *lines, const struct pod *pod);
/* The same for the file at `path`; one that cannot be read holds no entries. */
bool exempt_in_file(const char *path, const struct pod *pod);

#endif
