/* SPDX-License-Identifier: MIT */
#include <signal.h>

#include "harness/cli/cli.h"

/* The signal that ends the work, 0 while there is none. A handler can reach nothing else, and
 * blocking is not enough here: OpenBLAS has threads of its own, which would take the signal. */
static volatile sig_atomic_t seen;

static void see(int signo)
{
    seen = signo;
}

void qg_catch_signals(void)
{
    const struct sigaction act = {.sa_handler = see, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    signal(SIGPIPE, SIG_IGN); // a reader of stdout that goes away must not cost the files
}

int qg_signal_seen(void)
{
    return seen;
}
