// SPDX-License-Identifier: Apache-2.0
// Arguments read, values made, failures thrown.
#include "binding.h"

#include <stdlib.h>
#include <string.h>

napi_value number_value(napi_env env, int64_t value)
{
	napi_value result = NULL;

	napi_create_int64(env, value, &result);
	return result;
}

napi_value boolean_value(napi_env env, bool value)
{
	napi_value result = NULL;

	napi_get_boolean(env, value, &result);
	return result;
}

napi_value failure_value(napi_env env, int error, const char *step)
{
	napi_value result = NULL, name = NULL;

	napi_create_array_with_length(env, 2, &result);
	napi_create_string_utf8(env, step, NAPI_AUTO_LENGTH, &name);
	napi_set_element(env, result, 0, number_value(env, error));
	napi_set_element(env, result, 1, name);
	return result;
}

napi_value throw_failure(napi_env env, int error, const char *step)
{
	napi_throw(env, failure_value(env, error, step));
	return NULL;
}

napi_value wrong_arguments(napi_env env)
{
	bool pending = false;

	napi_is_exception_pending(env, &pending);
	if (!pending)
		napi_throw_type_error(env, NULL, "ambient.node: wrong arguments");
	return NULL;
}

bool read_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *arguments)
{
	size_t given = count;

	return napi_get_cb_info(env, info, &given, arguments, NULL, NULL) == napi_ok && given >= count;
}

bool read_bytes(napi_env env, napi_value value, uint8_t **data, size_t *bytes)
{
	bool is = false;
	napi_typedarray_type type;

	return napi_is_typedarray(env, value, &is) == napi_ok && is &&
	       napi_get_typedarray_info(env, value, &type, bytes, (void **)data, NULL, NULL) == napi_ok &&
	       type == napi_uint8_array;
}

char *read_string(napi_env env, napi_value value)
{
	size_t bytes = 0;
	char *result;

	if (napi_get_value_string_utf8(env, value, NULL, 0, &bytes) != napi_ok)
		return NULL;
	result = malloc(bytes + 1);
	if (result && napi_get_value_string_utf8(env, value, result, bytes + 1, &bytes) == napi_ok && strlen(result) == bytes)
		return result;
	free(result);
	return NULL;
}
napi_value bytes_value(napi_env env, const uint8_t *data, size_t bytes)
{
	napi_value buffer, result;
	void *copy = NULL;

	if (napi_create_arraybuffer(env, bytes, &copy, &buffer) != napi_ok)
		return NULL;
	if (bytes > 0)
		memcpy(copy, data, bytes);
	return napi_create_typedarray(env, napi_uint8_array, bytes, buffer, 0, &result) == napi_ok ? result : NULL;
}
