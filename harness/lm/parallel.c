/* SPDX-License-Identifier: MIT */
#include "harness/lm/parallel.h"

#include <pthread.h>
#include <stdatomic.h>

enum { MOST = 64 };

struct shared {
    void (*work)(void *user, size_t item, int thread);
    void *user;
    size_t n;
    atomic_size_t next;
};

struct worker {
    struct shared *shared;
    pthread_t thread;
    int number;
};

static void *take_items(void *user)
{
    struct worker *w = user;
    struct shared *s = w->shared;
    for (size_t i; (i = atomic_fetch_add(&s->next, 1)) < s->n;)
        s->work(s->user, i, w->number);
    return NULL;
}

void qg_parallel(int threads, size_t n, void (*work)(void *user, size_t item, int thread),
                 void *user)
{
    struct shared s = {.work = work, .user = user, .n = n};
    struct worker w[MOST];
    int started = 1;
    threads = threads < MOST ? threads : MOST;
    for (; started < threads && (size_t)started < n; started++) {
        w[started] = (struct worker){.shared = &s, .number = started};
        if (pthread_create(&w[started].thread, NULL, take_items, &w[started]) != 0)
            break;
    }
    w[0] = (struct worker){.shared = &s};
    take_items(&w[0]);
    for (int i = 1; i < started; i++)
        pthread_join(w[i].thread, NULL);
}
