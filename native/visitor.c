// SPDX-License-Identifier: Apache-2.0
#include "visitor.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#define STACK_BYTES (512 * 1024)
// A visit can wait for the kernel's rtnl lock, or for a pod that writes rules without end; others are not to wait for it.
#define PLACES 14	// visits at a time that are not urgent
#define URGENT_PLACES 2 // places more that only urgent ones take

struct queue {
	struct visit *first;
	struct visit **end;
	int count;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static struct queue urgent = { .end = &urgent.first };
static struct queue patient = { .end = &patient.first };
static int thread_count, idle_count;
static int patient_visits; // under way

static void put(struct queue *queue, struct visit *visit)
{
	visit->next = NULL;
	*queue->end = visit;
	queue->end = &visit->next;
	queue->count++;
}

static struct visit *take_from(struct queue *queue)
{
	struct visit *visit = queue->first;

	queue->first = visit->next;
	if (!queue->first)
		queue->end = &queue->first;
	queue->count--;
	return visit;
}

static void take_back(struct queue *queue, const struct visit *visit)
{
	struct visit **at = &queue->first;

	while (*at != visit)
		at = &(*at)->next;
	*at = visit->next;
	if (!*at)
		queue->end = at;
	queue->count--;
}

// How many of those that wait may begin.
static int ready_count(void)
{
	int places = PLACES - patient_visits;

	return urgent.count + (patient.count < places ? patient.count : places);
}

static struct visit *take(void)
{
	if (ready_count() == 0)
		return NULL;
	if (urgent.count > 0)
		return take_from(&urgent);
	patient_visits++;
	return take_from(&patient);
}

// Whether the thread is at home again. One that stayed abroad would keep the namespace from its end.
static bool go(struct visit *visit)
{
	int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	bool is_home;

	visit->step = visit->is_new ? "unshare" : "setns";
	if ((visit->is_new ? unshare(CLONE_NEWNET) : setns(visit->netns_fd, CLONE_NEWNET)) < 0)
		visit->result = -errno;
	else
		visit->result = visit->run(visit, &visit->step);
	is_home = home >= 0 && setns(home, CLONE_NEWNET) == 0;
	if (home >= 0)
		close(home);
	return is_home;
}

static void *live(void *argument)
{
	bool is_home = true;
	struct visit *visit;

	(void)argument;
	pthread_mutex_lock(&lock);
	// Where the way home is closed (another user namespace, no /proc), a thread ends as soon as nothing is left to do: the next visit
	// does not ask where it begins.
	while ((visit = take()) || is_home) {
		if (!visit) {
			idle_count++;
			pthread_cond_wait(&work, &lock);
			idle_count--;
			continue;
		}
		bool was_patient = !visit->is_urgent;
		pthread_mutex_unlock(&lock);
		is_home = go(visit) && is_home;
		visit->done(visit);
		pthread_mutex_lock(&lock);
		patient_visits -= was_patient;
	}
	thread_count--;
	pthread_mutex_unlock(&lock);
	return NULL;
}

// With the lock held.
static int add_thread(void)
{
	pthread_attr_t attributes;
	pthread_t thread;
	sigset_t all, before;
	int error = pthread_attr_init(&attributes);

	if (error)
		return -error;
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	// No handler of the process may run on a thread that may be in another network.
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, &attributes, live, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	if (error == 0)
		thread_count++;
	return -error;
}

int visit_netns(struct visit *visit)
{
	struct queue *queue = visit->is_urgent ? &urgent : &patient;
	int result = 0;

	pthread_mutex_lock(&lock);
	put(queue, visit);
	// those that were called are idle until they are heard
	if (ready_count() > idle_count && thread_count < PLACES + URGENT_PLACES)
		result = add_thread();
	else
		pthread_cond_signal(&work);
	// a thread that is there already will come to it
	if (result < 0 && thread_count > 0)
		result = 0;
	if (result < 0)
		take_back(queue, visit);
	pthread_mutex_unlock(&lock);
	return result;
}
