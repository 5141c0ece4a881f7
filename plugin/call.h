// SPDX-License-Identifier: Apache-2.0
// One call of the plugin: its verb, what it knows, and how it ends.
#ifndef AMBIENT_CALL_H
#define AMBIENT_CALL_H

#include "agent.h"
#include "config.h"
#include "exempt.h"

/* Source: CNI specification 1.1.0, section "Error". */
enum cni_code {
	CNI_INCOMPATIBLE_VERSION = 1,
	CNI_INVALID_ENVIRONMENT = 4,
	CNI_IO_FAILURE = 5,
	CNI_DECODING = 6,
	CNI_INVALID_CONFIG = 7,
	CNI_TRY_AGAIN_LATER = 11,
	CNI_NOT_AVAILABLE = 50,
};

/* How the verbs differ. */
struct verb {
	const char *name;
	bool waits;           /* tries again while the agent is away */
	bool forgives;        /* succeeds whatever happens */
	bool may_pass;        /* exempt pods go on without the agent */
	bool assumes_well;    /* no answer of an agent is a good one: it succeeds, at once where nobody listens */
	uint32_t deadline_ms; /* for everything; 0: the configuration says */
	enum cni_code away_code;
};

struct call {
	const struct verb *verb;
	int64_t started_ms;
	struct bytes input;
	struct config config;
	struct pod pod;
	struct sockaddr_un address;
};

/* How the attempts to reach the agent ended. */
struct outcome {
	enum agent_state state;
	int error;
	uint32_t tries;
	int64_t waited_ms;
	uint32_t answer_ms; /* how long an answer may take */
};

/* Both print the CNI error object and return exit code 1; for a verb that forgives they print a note on stderr and return 0. */
int call_failed(const struct call *call, int code, struct bytes message, struct bytes details);
int call_failed_for(const struct call *call, const struct outcome *outcome, const struct answer *answer);

/* The agent's list of namespaces whose pods start while it is away: beside the launcher, or in the run directory. */
#define NAMESPACE_LIST_NAME "ambient-cni.exempt-namespaces"

/* Whether this is an ADD of a pod that the entry itself lets start without an agent. */
bool call_is_named(const struct call *call);
/* Whether this is an ADD of a pod that may start without the agent, as of now: that is named, or its namespace listed. */
bool call_is_exempt(const struct call *call);
/* Whether the entry lets the agent's own pods start without the agent. */
bool call_spares_agents(const struct call *call);
/* Prints prevResult as it stands, or a minimal result, and returns the exit code. */
int call_pass_on(const struct call *call);

/* Whether this answer to `POST /cni` is that of a server which does not know the path, as istio-cni's agent does not. */
bool is_istio_answer(const struct answer *answer);
/* Has istio-cni's agent decide about the pod of an ADD and capture it, as its own plugin would. Returns AGENT_DONE, AGENT_ISTIO with
 * its words in `answer`, or another state when it is no istio-cni that has the socket. */
enum agent_state istio_add(const struct call *call, int64_t deadline_ms, struct answer *answer, int *error);

#endif
