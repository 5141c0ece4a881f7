// SPDX-License-Identifier: Apache-2.0
// The CNI plugin's process: hands environment and stdin to the agent of the node and prints its answer.
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "call.h"
#include "io.h"
#include "request.h"

extern char **environ;

/* EXEMPT_MS: how long an agent that hangs, or is overrun, may hold a pod that starts without one. */
enum { POLL_MS = 75, INPUT_MS = 30000, EXEMPT_MS = 2000 };

/* CRI-O asks CHECK for every sandbox when it starts, one after the other, and takes the address from each pod whose CHECK
 * fails: neither may be the price of an agent that is away, and the agent finds by itself what is wrong with a pod. It has
 * the call by the time that is granted for its answer. Source: cri-o server/server.go, "Restore sandbox IPs".
 * The last one stands for every command that is not ours. */
static const struct verb verbs[] = {
	{ .name = "ADD", .waits = true, .may_pass = true, .away_code = CNI_TRY_AGAIN_LATER },
	{ .name = "CHECK", .assumes_well = true, .deadline_ms = 1000 },
	{ .name = "STATUS", .deadline_ms = 5000, .away_code = CNI_NOT_AVAILABLE },
	{ .name = "DEL", .forgives = true, .deadline_ms = 2000, .away_code = CNI_TRY_AGAIN_LATER },
	{ .name = "GC", .forgives = true, .assumes_well = true, .deadline_ms = 2000 },
	{ .name = "VERSION", .deadline_ms = 2000 },
	{ .name = NULL, .deadline_ms = 2000 },
};

static const struct verb *find_verb(const char *command)
{
	const struct verb *verb = verbs;

	while (verb->name != NULL && strcmp(verb->name, command) != 0)
		verb++;
	return verb;
}

static int show_usage(void)
{
	write_note(bytes_of("ambient-cni is the CNI plugin of Istio's ambient mesh. A container runtime starts it with CNI_COMMAND set\n"
			    "to ADD, DEL, CHECK, GC, STATUS or VERSION and the network configuration on stdin; it hands both to the agent\n"
			    "of the node. CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"));
	return 0;
}

/* The answer has the version of the question. Source: CNI specification 1.1.0, "VERSION: probe plugin version support";
 * containernetworking/cni pkg/version/plugin.go, PluginDecoder.Decode, which insists on both keys. */
static int print_version(const struct call *call)
{
	char buffer[256];
	struct text out = TEXT_IN(buffer);

	text_add(&out, "{\"cniVersion\":\"");
	text_add(&out, cni_version_supported(call->config.version) ? call->config.version : "1.1.0");
	text_add(&out, "\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n");
	return write_all(STDOUT_FILENO, text_bytes(&out)) == 0 ? 0 : 1;
}

static int refuse_command(const struct call *call, const char *command)
{
	char buffer[256];
	struct text message = TEXT_IN(buffer);

	if (command[0] == 0) {
		text_add(&message, "The environment variable CNI_COMMAND is missing");
	} else {
		text_add(&message, "CNI_COMMAND is ");
		text_add_quoted(&message, bytes_of(command), 64);
		text_add(&message, ", which this plugin does not know");
	}
	text_add(&message, "; it takes ADD, DEL, CHECK, GC, STATUS and VERSION");
	return call_failed(call, CNI_INVALID_ENVIRONMENT, text_bytes(&message), (struct bytes){ 0 });
}

static bool is_exempt(const void *call)
{
	return call_is_exempt(call);
}

/* Whether the pod goes on without the agent. A full queue is no sign of absence: it alone is worth some patience for every pod.
 * istio-cni's agent, where it serves the node, knows more than the list that ours left when it went. */
static bool may_go_on(const struct call *call, enum agent_state state, bool exempt)
{
	if (state == AGENT_ISTIO)
		return call_is_named(call);
	return state == AGENT_BUSY ? now_ms() >= call->started_ms + EXEMPT_MS && call_is_exempt(call) : exempt;
}

/* A node that changes between the two agents calls the launcher of the one while the other has the socket already, seconds before
 * it has put its own plugin in place: neither may cost a pod its start, or start one outside its mesh. */
static enum agent_state ask_istio(const struct call *call, int64_t deadline_ms, struct answer *answer, int *error)
{
	if (call->verb->may_pass)
		return call_is_named(call) ? AGENT_DONE : istio_add(call, deadline_ms, answer, error);
	/* istio-cni's plugin does nothing for these, and says so with success. */
	return AGENT_DONE;
}

static bool is_worth_a_try(enum agent_state state)
{
	return state == AGENT_AWAY || state == AGENT_BUSY || state == AGENT_DIED || state == AGENT_ISTIO;
}

/* Exchanges with the agent until that comes to something or has been tried long enough. */
static struct outcome call_agent(const struct call *call, struct bytes head, struct answer *answer)
{
	const struct verb *verb = call->verb;
	struct outcome outcome = { .answer_ms = verb->deadline_ms > 0 ? verb->deadline_ms : call->config.answer_ms };
	int64_t longest = call->started_ms + outcome.answer_ms + (verb->waits ? call->config.wait_ms : 0);
	int64_t away_since = 0, give_up = longest;
	bool exempt = false;

	for (;;) {
		int64_t now = now_ms(), deadline = now + outcome.answer_ms;
		/* What the agent has seen of the pod by then it has written down: one that it works on is not on its list any more. */
		struct patience patience = { deadline < longest ? deadline : longest, now + EXEMPT_MS, is_exempt, call };

		answer_reset(answer);
		outcome.tries++;
		outcome.state = agent_exchange(&call->address, head, call->input, patience, answer, &outcome.error);
		if (outcome.state == AGENT_ANSWERED && is_istio_answer(answer))
			outcome.state = ask_istio(call, patience.deadline_ms, answer, &outcome.error);
		if (!is_worth_a_try(outcome.state))
			return outcome;
		now = now_ms();
		if (away_since == 0) {
			away_since = now;
			give_up = verb->waits ? now + call->config.wait_ms : longest;
			exempt = call_is_exempt(call);
		}
		outcome.waited_ms = now - away_since;
		if (now >= give_up || verb->assumes_well || may_go_on(call, outcome.state, exempt) ||
		    (outcome.state != AGENT_BUSY && !verb->waits))
			return outcome;
		sleep_ms(give_up - now < POLL_MS ? give_up - now : POLL_MS);
	}
}

static int print_answer(const struct call *call, const struct answer *answer)
{
	struct bytes body = { answer->body, answer->body_len };

	if (call->verb->forgives)
		return answer->exit_code == 0 ? 0 : call_failed(call, 0, body, (struct bytes){ 0 });
	return write_all(STDOUT_FILENO, body) == 0 ? answer->exit_code : 1;
}

static int relay(struct call *call)
{
	static char head_buffer[MAX_HEAD_BYTES];
	static struct answer answer;
	char why_buffer[256];
	struct text head = TEXT_IN(head_buffer), why = TEXT_IN(why_buffer);
	int code = request_head(&head, environ, call->input.len, &why);
	struct outcome outcome;

	/* What forgives goes on with the variables that could be taken. */
	if (code != 0) {
		int exit_code = call_failed(call, code, text_bytes(&why), (struct bytes){ 0 });

		if (exit_code != 0)
			return exit_code;
	}
	if (!agent_address(&call->address, call->config.run_dir))
		return call_failed(call, CNI_INVALID_CONFIG,
				   bytes_of("\"cni_agent_run_dir\" in the network configuration is too long: the path of the "
					    "socket in it, with /" AGENT_SOCKET_NAME ", must have at most 107 bytes"),
				   (struct bytes){ 0 });
	outcome = call_agent(call, text_bytes(&head), &answer);
	if (outcome.state == AGENT_ANSWERED && answer.status == 200 && answer.exit_code >= 0)
		return print_answer(call, &answer);
	/* Not a word either: a runtime puts what it reads on stderr into its log as an error. */
	if (call->verb->assumes_well)
		return 0;
	if (outcome.state == AGENT_DONE)
		return call->verb->may_pass ? call_pass_on(call) : 0;
	if (outcome.state == AGENT_ISTIO ? call_is_named(call) : call_is_exempt(call)) {
		write_note(bytes_of("ambient-cni: the agent is away; this pod is exempt and starts without it\n"));
		return call_pass_on(call);
	}
	/* A runtime that hears "not available" has its kubelet start no pod outside the host's network. Where the agent is
	 * such a pod it would never come back. Source: containerd/go-cni cni.go, Status; kubernetes pkg/kubelet/kubelet.go,
	 * SyncPod. */
	if (strcmp(call->verb->name, "STATUS") == 0 && (outcome.state == AGENT_AWAY || outcome.state == AGENT_DIED) &&
	    call_spares_agents(call))
		return 0;
	return call_failed_for(call, &outcome, &answer);
}

/* Reads and checks stdin; returns 0 or a CNI error code with the reason in `why`. */
static int read_config(struct call *call, struct text *why)
{
	/* A runtime that is slow to write is no reason for CHECK to fail. */
	bool patient = call->verb->deadline_ms == 0 || (call->verb->assumes_well && !call->verb->forgives);
	uint32_t limit_ms = patient ? INPUT_MS : call->verb->deadline_ms;
	int error = read_input(&call->input, call->started_ms + limit_ms);
	int code = config_read(&call->config, call->input, why);

	if (error == 0)
		return code;
	why->len = 0;
	if (error == -EFBIG) {
		text_add(why, "The network configuration on stdin is larger than 1 MiB");
		return CNI_DECODING;
	}
	text_add(why, "Cannot read the network configuration from stdin: ");
	text_add(why, strerror(-error));
	return CNI_IO_FAILURE;
}

int main(void)
{
	const char *command = getenv("CNI_COMMAND"), *args = getenv("CNI_ARGS");
	char buffer[512];
	struct text why = TEXT_IN(buffer);
	static struct call call;
	int code, exit_code;

	/* Whoever reads our output may leave first; write() then says so. */
	signal(SIGPIPE, SIG_IGN);
	command = command != NULL ? command : "";
	if (command[0] == 0 && isatty(STDIN_FILENO))
		return show_usage();
	call.started_ms = now_ms();
	call.verb = find_verb(command);
	call.pod = pod_of_args(args != NULL ? args : "");
	code = read_config(&call, &why);
	if (call.verb->name == NULL)
		return refuse_command(&call, command);
	if (strcmp(call.verb->name, "VERSION") == 0)
		return print_version(&call);
	if (code != 0) {
		exit_code = call_failed(&call, code, text_bytes(&why), (struct bytes){ 0 });
		/* What forgives still tells the agent, which knows the pod from the environment. */
		if (exit_code != 0 || call.input.len > MAX_INPUT_BYTES)
			return exit_code;
	}
	return relay(&call);
}
