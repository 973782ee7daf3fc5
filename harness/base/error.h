/* SPDX-License-Identifier: MIT
 *
 * Errors: a status returned, and a message in the caller's struct. Libraries neither print nor
 * exit. A numeric mismatch is data, never an error.
 */
#ifndef QG_ERROR_H
#define QG_ERROR_H

#define QG_MUST_CHECK __attribute__((warn_unused_result))

enum qg_status {
    QG_OK = 0,
    QG_EINVAL, /* the request makes no sense: a user's mistake (exit 2 when from the command line)
                */
    QG_ENOMEM,
    QG_EIO,     /* the system refused: open, read, write, disk full */
    QG_EFORMAT, /* a file is not what it says it is */
    QG_EABSENT, /* something needed is not here: no golden, no backend */
};

struct qg_error {
    enum qg_status status;
    char message[1024];
};

/* Sets status and message; returns the status so that `return qg_fail(err, ...)` reads well. */
enum qg_status qg_fail(struct qg_error *err, enum qg_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "<context>: " before the message; returns err->status. */
enum qg_status qg_context(struct qg_error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
