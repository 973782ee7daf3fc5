/* SPDX-License-Identifier: MIT
 *
 * A folder of its own for a test that makes files, and proof that nothing else was left in it.
 */
#ifndef QG_FOLDER_H
#define QG_FOLDER_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];

static inline void enter(void)
{
    snprintf(folder, sizeof folder, "/tmp/qgauge-check-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

/* The path of a file there; good until the fourth call after. */
static inline const char *at(const char *name)
{
    static char path[4][256];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

/* Removes these files, up to a NULL, where they are there, and the folder, which must be empty
 * then. */
static inline void leave_without(const char *const *names)
{
    for (; *names; names++)
        unlink(at(*names));
    ck_assert_msg(rmdir(folder) == 0, "something was left in %s", folder);
}

static inline void put_bytes(const char *name, const void *bytes, size_t n)
{
    FILE *f = fopen(at(name), "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

static inline void put_text(const char *name, const char *text)
{
    put_bytes(name, text, strlen(text));
}

#endif
