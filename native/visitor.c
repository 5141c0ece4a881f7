// SPDX-License-Identifier: Apache-2.0
#include "visitor.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#define STACK_BYTES (512 * 1024)
// A visit can wait for the kernel's rtnl lock, or for a pod that writes rules without end; others are not to wait for it.
#define PLACES 14	// visits at a time that are not urgent
#define URGENT_PLACES 2 // places more that only urgent ones take
#define SHARE 2		// of the first, for one namespace: however slow a pod makes it, the other pods have the rest

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
static const struct visit *under_way[PLACES]; // that are not urgent
static int patient_visits;

static void put(struct queue *queue, struct visit *visit)
{
	visit->next = NULL;
	*queue->end = visit;
	queue->end = &visit->next;
	queue->count++;
}

// Takes out what the link leads to.
static struct visit *take_at(struct queue *queue, struct visit **at)
{
	struct visit *visit = *at;

	*at = visit->next;
	if (!*at)
		queue->end = at;
	queue->count--;
	return visit;
}

static void take_back(struct queue *queue, const struct visit *visit)
{
	struct visit **at = &queue->first;

	while (*at != visit)
		at = &(*at)->next;
	take_at(queue, at);
}

static bool has_share(const struct visit *visit, const struct visit *const *others, int count)
{
	int same = 0;

	for (int i = 0; i < count && !visit->is_new; i++)
		same += !others[i]->is_new && others[i]->netns_dev == visit->netns_dev && others[i]->netns_ino == visit->netns_ino;
	return same < SHARE;
}

// Where the first is that is not urgent and may begin; NULL: none may.
static struct visit **next_patient(void)
{
	struct visit **at = &patient.first;

	if (patient_visits == PLACES)
		return NULL;
	while (*at && !has_share(*at, under_way, patient_visits))
		at = &(*at)->next;
	return *at ? at : NULL;
}

// How many of those that wait may begin.
static int ready_count(void)
{
	const struct visit *begun[PLACES];
	int count = patient_visits;

	for (int i = 0; i < count; i++)
		begun[i] = under_way[i];
	for (const struct visit *visit = patient.first; visit && count < PLACES; visit = visit->next)
		if (has_share(visit, begun, count))
			begun[count++] = visit;
	return urgent.count + count - patient_visits;
}

static struct visit *take(void)
{
	struct visit **at;

	if (urgent.count > 0)
		return take_at(&urgent, &urgent.first);
	at = next_patient();
	if (!at)
		return NULL;
	under_way[patient_visits++] = *at;
	return take_at(&patient, at);
}

// With the lock held.
static void leave_place(const struct visit *visit)
{
	int i = 0;

	while (under_way[i] != visit)
		i++;
	under_way[i] = under_way[--patient_visits];
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
		// Before it is done: from then on somebody else's visit may have its address.
		pthread_mutex_lock(&lock);
		if (was_patient)
			leave_place(visit);
		// What it held up may begin; this thread takes one of them.
		if (idle_count > 0 && ready_count() > 1)
			pthread_cond_signal(&work);
		pthread_mutex_unlock(&lock);
		visit->done(visit);
		pthread_mutex_lock(&lock);
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
	struct stat netns;
	int result = 0;

	if (!visit->is_new) {
		if (fstat(visit->netns_fd, &netns) < 0)
			return -errno;
		visit->netns_dev = netns.st_dev;
		visit->netns_ino = netns.st_ino;
	}
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
