// SPDX-License-Identifier: Apache-2.0
// How a call fails: the CNI error object, and sentences that name cause and remedy, as containerd shows users nothing else.
#include "call.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "io.h"

enum { MESSAGE_BYTES = 2048, SHOWN_BYTES = 256 };

static void print_error(const char *version, int code, struct bytes message, struct bytes details)
{
	/* Escaping makes at most six bytes of one. */
	static char buffer[2 * 6 * MESSAGE_BYTES + 512];
	struct text out = TEXT_IN(buffer);

	text_add(&out, "{\"cniVersion\":");
	text_add_json(&out, bytes_of(version[0] != 0 ? version : "1.1.0"));
	text_add(&out, ",\"code\":");
	text_add_number(&out, (uint64_t)code);
	text_add(&out, ",\"msg\":");
	text_add_json(&out, message);
	if (details.len > 0) {
		text_add(&out, ",\"details\":");
		text_add_json(&out, details);
	}
	text_add(&out, "}\n");
	write_all(STDOUT_FILENO, text_bytes(&out));
}

int call_failed(const struct call *call, int code, struct bytes message, struct bytes details)
{
	static char buffer[4096];
	struct text note = TEXT_IN(buffer);

	if (!call->verb->forgives) {
		print_error(call->config.version, code, message, details);
		return 1;
	}
	text_add(&note, "ambient-cni: ");
	text_add(&note, call->verb->name);
	text_add(&note, " succeeds all the same, but: ");
	text_add_json(&note, message);
	text_add(&note, "\n");
	write_note(text_bytes(&note));
	return 0;
}

static void add_what(struct text *message, const struct call *call)
{
	text_add(message, " (");
	text_add(message, call->verb->name);
	if (call->pod.name.len > 0) {
		text_add(message, " of pod ");
		text_add_bytes(message, call->pod.namespace);
		text_add(message, "/");
		text_add_bytes(message, call->pod.name);
	}
	text_add(message, ")");
}

static void add_reason(struct text *message, const struct outcome *outcome, const struct answer *answer)
{
	switch (outcome->state) {
	case AGENT_BUSY:
		text_add(message, "its queue of waiting calls is full, it hangs or is far behind");
		return;
	case AGENT_DIED:
		text_add(message, "it closed the connection before its answer was complete, so it restarts or crashes");
		return;
	case AGENT_ISTIO:
		text_add(message, "istio-cni's agent has the socket, and does not take the pod: HTTP status ");
		text_add_number(message, (uint64_t)answer->status);
		if (answer->body_len > 0) {
			text_add(message, ", ");
			text_add_quoted(message, (struct bytes){ answer->body, answer->body_len }, SHOWN_BYTES);
		}
		text_add(message, ". Where istio-cni is to serve this node, uninstall ambient-cni; else uninstall istio-cni");
		return;
	case AGENT_SILENT:
		text_add(message, "it took the call but gave no answer within ");
		text_add_seconds(message, outcome->answer_ms);
		text_add(message, " s, it hangs or waits for ztunnel");
		return;
	default:
		break;
	}
	switch (outcome->error) {
	case ENOENT:
		text_add(message, "the socket does not exist, so the agent has not started (or has another run directory)");
		break;
	case ECONNREFUSED:
		text_add(message, "nothing listens on the socket (connection refused), so the agent stopped or restarts");
		break;
	case EACCES:
		text_add(message, "permission denied for the socket, so the runtime runs the plugin with too few rights");
		break;
	default:
		text_add(message, strerror(outcome->error));
	}
}

static void add_garbage(struct text *message, const struct answer *answer)
{
	if (answer->fault != NULL) {
		text_add(message, "its answer is not understood, ");
		text_add(message, answer->fault);
	} else if (answer->status != 200) {
		text_add(message, "it answered with HTTP status ");
		text_add_number(message, (uint64_t)answer->status);
	} else {
		text_add(message, "its answer lacks the CNI-Exit header");
	}
	text_add(message, "; it began with ");
	text_add_quoted(message, (struct bytes){ answer->seen, answer->seen_len }, sizeof(answer->seen));
	if (answer->body_len > 0 && answer->state == ANSWER_COMPLETE) {
		text_add(message, " and said ");
		text_add_quoted(message, (struct bytes){ answer->body, answer->body_len }, SHOWN_BYTES);
	}
	text_add(message, ". Another program or version may own the socket: end it, or take the entry that calls us out of the chain with "
			  "ambient-cni uninstall");
}

int call_failed_for(const struct call *call, const struct outcome *outcome, const struct answer *answer)
{
	static char buffer[MESSAGE_BYTES];
	static char more[MESSAGE_BYTES / 4];
	struct text message = TEXT_IN(buffer), details = TEXT_IN(more);
	bool garbage = outcome->state == AGENT_GARBAGE || outcome->state == AGENT_ANSWERED;
	int code = garbage && call->verb->away_code != CNI_NOT_AVAILABLE ? CNI_IO_FAILURE : (int)call->verb->away_code;

	text_add(&message, "Cannot get an answer from the ambient-cni agent of this node at ");
	text_add_quoted(&message, bytes_of(call->address.sun_path), sizeof(call->address.sun_path));
	add_what(&message, call);
	text_add(&message, ": ");
	if (garbage)
		add_garbage(&message, answer);
	else
		add_reason(&message, outcome, answer);
	if (outcome->tries > 1) {
		text_add(&message, "; waited ");
		text_add_seconds(&message, (uint64_t)outcome->waited_ms);
		text_add(&message, " s");
	}
	if (call->verb->may_pass && call->pod.namespace.len > 0)
		text_add(&message, ". The pod is held because pods of its namespace may belong to the mesh");
	text_add(&message, call->verb->forgives ? ". To" : ". It is tried again by itself; to");
	text_add(&message, " see what is wrong look at the agent's DaemonSet, istio-cni-node or ambient-cni-node: "
			   "kubectl -n istio-system get pods -o wide, then the log of its pod on this node");
	text_add(&details, "attempts: ");
	text_add_number(&details, outcome->tries);
	if (outcome->state == AGENT_AWAY) {
		text_add(&details, ", last error: ");
		text_add(&details, strerror(outcome->error));
	}
	return call_failed(call, code, text_bytes(&message), text_bytes(&details));
}
