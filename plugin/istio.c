// SPDX-License-Identifier: Apache-2.0
// The other agent of this socket: istio-cni's, asked for what its own plugin asks it for.
// Source: istio/istio cni/pkg/nodeagent/cni-watcher.go, handleAddEvent and CNIPluginAddEvent; cni/pkg/plugin/cnieventclient.go.
#include "call.h"

#include <stdlib.h>
#include <string.h>

enum { NOT_FOUND = 404, OK = 200, SERVER_ERROR = 500, MAX_EVENT_BYTES = 16 * 1024 };

bool is_istio_answer(const struct answer *answer)
{
	return answer->status == NOT_FOUND;
}

/* The address without its prefix length; the mask is not read there. */
static void add_address(struct text *event, struct bytes raw, bool *first)
{
	unsigned char address[64];
	size_t len = json_decode(raw, address, sizeof(address));
	const unsigned char *slash = len > 0 && len <= sizeof(address) ? memchr(address, '/', len) : NULL;

	if (slash == NULL)
		return;
	text_add(event, *first ? "" : ",");
	text_add(event, "{\"Address\":{\"IP\":");
	text_add_json(event, (struct bytes){ address, (size_t)(slash - address) });
	text_add(event, "}}");
	*first = false;
}

/* The member `name` of the object `value`; false: there is none. */
static bool find_member(const struct json_value *value, const char *name, struct json_value *member)
{
	struct json_cursor cursor = { value->raw.at, value->raw.at + value->raw.len, NULL };
	struct json_value key, each;
	bool first = true, found = false;

	if (value->type != JSON_OBJECT || !json_enter(&cursor, '{'))
		return false;
	while (json_step(&cursor, &first, &key, &each))
		if (json_string_is(key.raw, name)) {
			*member = each;
			found = true;
		}
	return found;
}

static void add_addresses(struct text *event, const struct json_value *result)
{
	struct json_value ips = { 0 }, ip, address;
	bool first = true, none = true;

	if (!find_member(result, "ips", &ips) || ips.type != JSON_ARRAY)
		return;
	struct json_cursor cursor = { ips.raw.at, ips.raw.at + ips.raw.len, NULL };

	if (!json_enter(&cursor, '['))
		return;
	while (json_step(&cursor, &first, NULL, &ip))
		if (find_member(&ip, "address", &address) && address.type == JSON_STRING)
			add_address(event, address.raw, &none);
}

static void add_event(struct text *event, const struct call *call)
{
	const char *netns = getenv("CNI_NETNS");

	text_add(event, "{\"Netns\":");
	text_add_json(event, bytes_of(netns != NULL ? netns : ""));
	text_add(event, ",\"PodName\":");
	text_add_json(event, call->pod.name);
	text_add(event, ",\"PodNamespace\":");
	text_add_json(event, call->pod.namespace);
	text_add(event, ",\"IPs\":[");
	add_addresses(event, &call->config.prev_result);
	text_add(event, "]}");
}

static bool contains(struct bytes text, const char *word)
{
	return text.len > 0 && memmem(text.at, text.len, word, strlen(word)) != NULL;
}

/* A pod outside the mesh is an error to it, as its plugin never asks about one: the sentence is all that tells. In 1.24 "is
 * unexpectedly not enrolled in ambient", since 1.26 "is unexpectedly not eligible for ambient enrollment". Source:
 * cni-watcher.go, getPodWithRetry. */
static bool is_outside(const struct answer *answer)
{
	return answer->status == SERVER_ERROR &&
	       contains((struct bytes){ answer->body, answer->body_len }, " is unexpectedly not e");
}

enum agent_state istio_add(const struct call *call, int64_t deadline_ms, struct answer *answer, int *error)
{
	char event_buffer[MAX_EVENT_BYTES], head_buffer[256];
	struct text event = TEXT_IN(event_buffer), head = TEXT_IN(head_buffer);
	enum agent_state state;

	/* Containers that are no pod's are none of the mesh's. */
	if (call->pod.namespace.len == 0 || call->pod.name.len == 0)
		return AGENT_DONE;
	add_event(&event, call);
	text_add(&head, "POST /cmdadd HTTP/1.1\r\nHost: unix\r\nConnection: close\r\nContent-Type: application/json\r\n"
			"Content-Length: ");
	text_add_number(&head, event.len);
	text_add(&head, "\r\n\r\n");
	answer_reset(answer);
	state = agent_exchange(&call->address, text_bytes(&head), text_bytes(&event),
			       (struct patience){ .deadline_ms = deadline_ms, .early_ms = deadline_ms }, answer, error);
	if (state != AGENT_ANSWERED || answer->status == NOT_FOUND)
		return state;
	if (answer->status == OK || is_outside(answer))
		return AGENT_DONE;
	return AGENT_ISTIO;
}
