// SPDX-License-Identifier: MIT
//
// What is said of a mistake, and to whom.
#include <stdarg.h>

#include "tests/simt/inside.h"

static char finding[1024];

const char *simt_finding(void)
{
    return finding[0] ? finding : NULL;
}

void simt_found(const void *pc, const char *format, ...)
{
    va_list args;
    (void)pc;
    va_start(args, format);
    int n = vsnprintf(finding, sizeof finding, format, args);
    va_end(args);
    (void)n;
    fprintf(stderr, "simt: %s: block (%u, %u, %u), thread (%u, %u, %u)\n", finding, blockIdx.x,
            blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
}

void simt_reset(void)
{
    finding[0] = 0;
    simt_break(cudaSuccess);
}

void __trap(void)
{
    simt_found(__builtin_return_address(0), "__trap() was called");
    simt_abandon(cudaErrorLaunchFailure);
}
