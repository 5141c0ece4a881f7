// SPDX-License-Identifier: Apache-2.0
// What the launcher itself wants to know of the network configuration on stdin; all else is the agent's.
#ifndef AMBIENT_CONFIG_H
#define AMBIENT_CONFIG_H

#include "json.h"

#define DEFAULT_RUN_DIR "/var/run/istio-cni"
#define DEFAULT_WAIT_MS 10000
#define MAX_WAIT_MS 120000
#define DEFAULT_ANSWER_MS 60000
#define MIN_ANSWER_MS 100
#define MAX_ANSWER_MS 600000

/* Values point into the text that was read. After a fault all that was good up to there is kept, the rest has its default. */
struct config {
	char version[32];    /* "cniVersion", "" when absent or no version-like text */
	char run_dir[4096];  /* "cni_agent_run_dir" */
	uint32_t wait_ms;    /* "agent_wait_seconds", 0 to 120 s */
	uint32_t answer_ms;  /* "agent_answer_seconds", 0.1 to 600 s */
	struct json_value exempt;      /* an array of strings, or absent */
	struct json_value prev_result; /* as it stands; JSON_NULL is turned into absent */
	/* What an entry of istio-cni says instead of "exempt", used only where that is absent. Source: istio/istio
	 * cni/pkg/plugin/plugin.go, Config and isCNIPod. */
	struct json_value excluded;      /* "exclude_namespaces": an array, or absent */
	struct json_value own_namespace; /* "pod_namespace": a string, or absent */
};

/* Reads the top-level keys of `input`; of a name given twice the last counts, as with JSON.parse.
 * Returns 0, or a CNI error code (6: no JSON object, 7: a value that cannot be used) with the reason in `why`. */
int config_read(struct config *config, struct bytes input, struct text *why);

/* True for the versions of the specification that we take part in. */
bool cni_version_supported(const char *version);

#endif
