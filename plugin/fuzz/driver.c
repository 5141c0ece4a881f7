// SPDX-License-Identifier: Apache-2.0
// A fuzzer in one program: mutates inputs, keeps those that reach new code, checks promises until its time is over.
//   fuzz SECONDS SEED CORPUSDIR    or, to look at one failure:   fuzz replay TARGET FILE
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

enum { MAX_INPUTS = 2048, MAX_KEPT_BYTES = 16 << 20, EDGES = 1 << 13, HANG_SECONDS = 20, MAX_TARGETS = 16 };

struct input {
	unsigned char *data;
	size_t len;
};

struct state {
	struct input inputs[MAX_INPUTS];
	size_t count, from_files, edges, bytes;
	unsigned long runs;
	unsigned char seen[EDGES]; /* bits: how often an edge was taken, in classes */
};

/* The input being run, in memory that outlives the process that runs it: whatever kills that one, its parent keeps the input. */
struct running {
	bool active;
	size_t target, len;
	unsigned long runs;
	unsigned char data[FUZZ_MAX_BYTES];
};

static struct state states[MAX_TARGETS];
static unsigned char taken[EDGES];
static uintptr_t previous;
static struct running *running;

void __sanitizer_cov_trace_pc(void);

/* Called by the compiler's instrumentation at each branch of the code under test. */
void __sanitizer_cov_trace_pc(void)
{
	uintptr_t here = (uintptr_t)__builtin_return_address(0) - (uintptr_t)&__sanitizer_cov_trace_pc;
	unsigned char *count = &taken[(here ^ previous * 31) % EDGES];

	*count += *count < 255;
	previous = here;
}

_Noreturn void broken(const char *promise)
{
	fprintf(stderr, "fuzz: this must hold, but does not: %s\n", promise);
	_exit(1);
}

static void hung(int signal_number)
{
	(void)signal_number;
	broken("an input is done within seconds");
}

/* Runs a copy of exactly the input's size, so that a read past its end is seen. */
static void run_once(const struct target *target, const unsigned char *data, size_t len)
{
	unsigned char *copy = malloc(len > 0 ? len : 1);

	if (len > 0)
		memcpy(copy, data, len);
	running->active = true;
	running->target = (size_t)(target - targets);
	running->len = len;
	running->runs = ++states[running->target].runs;
	memcpy(running->data, data, len);
	memset(taken, 0, sizeof(taken));
	previous = 0;
	alarm(HANG_SECONDS);
	target->run((struct bytes){ copy, len });
	running->active = false;
	free(copy);
}

static unsigned char class_of(unsigned char count)
{
	return (unsigned char)(1u << (count < 2 ? 0 : count < 3 ? 1 : count < 4 ? 2 : count < 8 ? 3 : count < 32 ? 4 : count < 128 ? 5 : 6));
}

/* Whether the last run took a branch, or took it as often, as no run before. */
static bool learned(struct state *state)
{
	bool found = false;

	for (size_t i = 0; i < EDGES; i++) {
		uint64_t eight;

		/* Nearly all are zero. */
		memcpy(&eight, &taken[i & ~(size_t)7], sizeof(eight));
		if (eight == 0) {
			i |= 7;
			continue;
		}
		unsigned char fresh = taken[i] > 0 ? (unsigned char)(class_of(taken[i]) & ~state->seen[i]) : 0;

		if (fresh == 0)
			continue;
		state->edges += state->seen[i] == 0;
		state->seen[i] |= fresh;
		found = true;
	}
	return found;
}

static void keep(struct state *state, const unsigned char *data, size_t len)
{
	struct input *input;

	if (state->count == MAX_INPUTS || state->bytes + len > MAX_KEPT_BYTES)
		return;
	state->bytes += len;
	input = &state->inputs[state->count++];
	input->data = malloc(len > 0 ? len : 1);
	input->len = len;
	memcpy(input->data, data, len);
}

static bool read_file(const char *path, unsigned char *data, size_t *len)
{
	FILE *file = fopen(path, "rbe");

	if (file == NULL)
		return false;
	*len = fread(data, 1, FUZZ_MAX_BYTES, file);
	fclose(file);
	return true;
}

/* By name, as the order that a folder is read in differs between machines. */
static int load(const struct target *target, const char *corpus)
{
	static unsigned char data[FUZZ_MAX_BYTES];
	struct state *state = &states[target - targets];
	struct dirent **names;
	char path[1024];
	size_t len;
	int count;

	snprintf(path, sizeof(path), "%s/%s", corpus, target->name);
	count = scandir(path, &names, NULL, alphasort);
	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "%s/%s/%s", corpus, target->name, names[i]->d_name);
		if (names[i]->d_name[0] != '.' && read_file(path, data, &len)) {
			run_once(target, data, len);
			learned(state);
			keep(state, data, len);
		}
		free(names[i]);
	}
	if (count >= 0)
		free(names);
	state->from_files = state->count;
	return state->count > 0;
}

static void fuzz_once(const struct target *target)
{
	static unsigned char data[FUZZ_MAX_BYTES];
	struct state *state = &states[target - targets];
	const struct input *base = &state->inputs[random_below(state->count)];
	const struct input *other = &state->inputs[random_below(state->count)];
	size_t len;

	/* The shorter one: long inputs are slow and teach no more. */
	if (other->len < base->len) {
		const struct input *longer = base;

		base = other;
		other = longer;
	}
	len = base->len;
	memcpy(data, base->data, len);
	len = mutate(data, len, (struct bytes){ other->data, other->len }, target->words);
	run_once(target, data, len);
	if (learned(state))
		keep(state, data, len);
}

static int replay(const char *name, const char *path)
{
	static unsigned char data[FUZZ_MAX_BYTES];
	size_t len;

	for (size_t i = 0; i < target_count; i++)
		if (strcmp(targets[i].name, name) == 0 && read_file(path, data, &len)) {
			run_once(&targets[i], data, len);
			return 0;
		}
	fprintf(stderr, "fuzz: no such target or file: %s %s\n", name, path);
	return 2;
}

static int fuzz(time_t seconds, const char *corpus)
{
	time_t end = time(NULL) + seconds;

	for (size_t i = 0; i < target_count; i++)
		if (!load(&targets[i], corpus)) {
			fprintf(stderr, "fuzz: there is nothing in %s/%s to begin with\n", corpus, targets[i].name);
			return 2;
		}
	while (time(NULL) < end)
		for (size_t i = 0; i < target_count; i++)
			for (int round = 0; round < 16; round++)
				fuzz_once(&targets[i]);
	for (size_t i = 0; i < target_count; i++)
		printf("fuzz: %s: %lu runs, %zu edges, %zu inputs (%zu from files)\n", targets[i].name, states[i].runs,
		       states[i].edges, states[i].count, states[i].from_files);
	return 0;
}

/* The input that ended the child goes to a file in the current folder. */
static void keep_failure(const char *seed)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "fuzz-failure-%s", targets[running->target].name);
	fprintf(stderr, "fuzz: target %s failed (seed %s, run %lu); its input is in %s\n", targets[running->target].name, seed,
		running->runs, path);
	file = fopen(path, "wbe");
	if (file == NULL || fwrite(running->data, 1, running->len, file) != running->len || fclose(file) != 0)
		perror("fuzz: cannot keep the input");
}

int main(int count, char **arguments)
{
	bool replaying = count == 4 && strcmp(arguments[1], "replay") == 0;
	int status;
	pid_t child;

	if (count != 4) {
		fprintf(stderr, "usage: fuzz SECONDS SEED CORPUSDIR | fuzz replay TARGET FILE\n");
		return 2;
	}
	running = mmap(NULL, sizeof(*running), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	child = running != MAP_FAILED ? fork() : -1;
	if (child < 0) {
		perror("fuzz");
		return 2;
	}
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGALRM, hung);
		random_seed(strtoull(arguments[2], NULL, 10));
		exit(replaying ? replay(arguments[2], arguments[3]) : fuzz((time_t)strtoul(arguments[1], NULL, 10), arguments[3]));
	}
	if (waitpid(child, &status, 0) < 0)
		return 2;
	if (running->active && !replaying)
		keep_failure(arguments[2]);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
