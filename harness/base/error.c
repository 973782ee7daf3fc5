/* SPDX-License-Identifier: MIT */
#include "harness/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum qg_status qg_fail(struct qg_error *err, enum qg_status status, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    err->status = status;
    vsnprintf(err->message, sizeof err->message, format, ap);
    va_end(ap);
    return status;
}

enum qg_status qg_context(struct qg_error *err, const char *format, ...)
{
    char before[640], all[sizeof before + sizeof err->message + 2];
    va_list ap;
    va_start(ap, format);
    vsnprintf(before, sizeof before, format, ap);
    va_end(ap);
    snprintf(all, sizeof all, "%s: %s", before, err->message);
    memcpy(err->message, all, sizeof err->message - 1);
    err->message[sizeof err->message - 1] = '\0';
    return err->status;
}
