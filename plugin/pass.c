// SPDX-License-Identifier: Apache-2.0
// Exempt pods: they go on without the agent, with the result of the plugins before us.
#include "call.h"

#include <string.h>
#include <unistd.h>

#include "io.h"

bool call_is_exempt(const struct call *call)
{
	char path[sizeof(call->config.run_dir) + 32];
	struct text name = { .at = path, .cap = sizeof(path) - 1 };

	if (!call->verb->may_pass || call->pod.namespace.len == 0)
		return false;
	if (exempt_in_array(&call->config.exempt, &call->pod))
		return true;
	text_add(&name, call->config.run_dir);
	text_add(&name, "/exempt-namespaces");
	path[name.len] = 0;
	return exempt_in_file(path, &call->pod);
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
	write_note(bytes_of("ambient-cni: the agent is away; this pod is exempt and starts without it\n"));
	return write_all(STDOUT_FILENO, result) == 0 ? 0 : 1;
}
