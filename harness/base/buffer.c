/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "harness/base/buffer.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum qg_status qg_buffer_alloc(struct qg_buffer *ret_b, size_t bytes, struct qg_error *err)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (bytes > SIZE_MAX - 4 * page)
        return qg_fail(err, QG_ENOMEM, "%zu bytes are more than can be addressed", bytes);
    size_t inner = (bytes + page - 1) / page * page, mapped = inner + 2 * page;
    char *map = mmap(NULL, mapped, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return qg_fail(err, QG_ENOMEM, "%zu bytes: %s", bytes, strerror(errno));
    if (inner && mprotect(map + page, inner, PROT_READ | PROT_WRITE) != 0) {
        munmap(map, mapped);
        return qg_fail(err, QG_ENOMEM, "%zu bytes: %s", bytes, strerror(errno));
    }
    *ret_b = (struct qg_buffer){map + page + inner - bytes, bytes, map, mapped};
    return QG_OK;
}

void qg_buffer_free(struct qg_buffer *b)
{
    if (b->map)
        munmap(b->map, b->mapped);
    *b = (struct qg_buffer){0};
}

long qg_buffer_overrun(const struct qg_buffer *b, const void *address)
{
    const char *end = (const char *)b->data + b->bytes, *p = address;
    long page = sysconf(_SC_PAGESIZE);
    return b->map && p >= end && p < end + page ? (long)(p - end) : -1;
}
