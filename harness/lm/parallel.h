/* SPDX-License-Identifier: MIT
 *
 * The same work on many items by several threads, the caller's among them.
 */
#ifndef QG_PARALLEL_H
#define QG_PARALLEL_H

#include <stddef.h>

/* Runs work(user, item, thread) for all items 0 .. n, each once, in any order, on at most `threads`
 * threads (numbered from 0; thread 0 is the caller's); returns when all are done. Threads that the
 * system refuses are done without. */
void qg_parallel(int threads, size_t n, void (*work)(void *user, size_t item, int thread),
                 void *user);

#endif
