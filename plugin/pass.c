// SPDX-License-Identifier: Apache-2.0
// Exempt pods: they go on without the agent, with the result of the plugins before us.
#include "call.h"

#include <string.h>
#include <unistd.h>

#include "io.h"

/* The folder of plugins outlives a boot, which the run directory does not; and the launcher knows it without being told. */
static bool beside_launcher(struct text *path)
{
	ssize_t len = readlink("/proc/self/exe", path->at, path->cap);

	if (len <= 0 || (size_t)len >= path->cap)
		return false;
	while (len > 0 && path->at[len - 1] != '/')
		len--;
	path->len = (size_t)len;
	text_add(path, NAMESPACE_LIST_NAME);
	return len > 0;
}

static bool is_listed(struct text *path, const struct call *call)
{
	path->at[path->len] = 0;
	return !path->cut && exempt_in_file(path->at, &call->pod);
}

/* In an entry that istio-cni wrote. It is ours for the moment between our launcher and our entry, and for good where the node dies
 * in that moment: the agent that is to replace it must be able to start. */
static bool is_their_agent(const struct call *call)
{
	static const char prefix[] = "istio-cni-node-";
	size_t len = sizeof(prefix) - 1;
	unsigned char namespace[256];
	const struct pod *pod = &call->pod;

	if (call->config.own_namespace.type != JSON_STRING || pod->name.len < len || memcmp(pod->name.at, prefix, len) != 0)
		return false;
	len = json_decode(call->config.own_namespace.raw, namespace, sizeof(namespace));
	return len == pod->namespace.len && len <= sizeof(namespace) && memcmp(namespace, pod->namespace.at, len) == 0;
}

bool call_spares_agents(const struct call *call)
{
	return call->config.own_namespace.type == JSON_STRING || exempt_array_names_pods(&call->config.exempt);
}

bool call_is_named(const struct call *call)
{
	if (!call->verb->may_pass || call->pod.namespace.len == 0)
		return false;
	return exempt_in_array(&call->config.exempt, &call->pod) || exempt_in_array(&call->config.excluded, &call->pod) ||
	       is_their_agent(call);
}

bool call_is_exempt(const struct call *call)
{
	char path[sizeof(call->config.run_dir) + 64];
	struct text installed = { .at = path, .cap = sizeof(path) - 1 }, given = installed;

	if (!call->verb->may_pass || call->pod.namespace.len == 0)
		return false;
	if (call_is_named(call))
		return true;
	if (beside_launcher(&installed) && is_listed(&installed, call))
		return true;
	/* There it is where the agent does not install the launcher, and does not know its folder. */
	text_add(&given, call->config.run_dir);
	text_add(&given, "/" NAMESPACE_LIST_NAME);
	return is_listed(&given, call);
}

int call_pass_on(const struct call *call)
{
	static const char unsupported[] =
		"\"cniVersion\" in the network configuration is none of 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0";
	/* Source: containernetworking/cni pkg/version/plugin.go, ParseVersion. */
	const char *version = call->config.version[0] != 0 ? call->config.version : "0.1.0";
	char buffer[128];
	struct text minimal = TEXT_IN(buffer);
	struct bytes result = call->config.prev_result.raw, nothing = { 0 };

	if (call->config.prev_result.type == JSON_ABSENT) {
		if (!cni_version_supported(version))
			return call_failed(call, CNI_INCOMPATIBLE_VERSION, bytes_of(unsupported), nothing);
		text_add(&minimal, "{\"cniVersion\":\"");
		text_add(&minimal, version);
		/* Results before 0.3.0 have one address of each family and no lists. */
		if (strcmp(version, "0.1.0") != 0 && strcmp(version, "0.2.0") != 0)
			text_add(&minimal, "\",\"interfaces\":[],\"ips\":[],\"routes\":[],\"dns\":{}}");
		else
			text_add(&minimal, "\",\"dns\":{}}");
		result = text_bytes(&minimal);
	} else if (call->config.prev_result.type != JSON_OBJECT) {
		return call_failed(call, CNI_INVALID_CONFIG,
				   bytes_of("\"prevResult\" in the network configuration must be an object"), nothing);
	}
	return write_all(STDOUT_FILENO, result) == 0 ? 0 : 1;
}
