/* SPDX-License-Identifier: MIT */
#include "harness/select.h"

enum qg_status qg_regex_compile(regex_t *ret_re, const char *text, struct qg_error *err)
{
    char why[128];
    int e = regcomp(ret_re, text ? text : "", REG_EXTENDED | REG_NOSUB);
    if (e == 0)
        return QG_OK;
    regerror(e, ret_re, why, sizeof why);
    return qg_fail(err, QG_EINVAL, "'%s' is not a regular expression: %s", text, why);
}

bool qg_regex_fits(const regex_t *re, const char *name)
{
    return regexec(re, name, 0, NULL, 0) == 0;
}

bool qg_is_weight(const struct qg_tensor *t)
{
    return t->rank == 2 && (t->dtype == QG_F32 || t->dtype == QG_BF16 || t->dtype == QG_F16);
}
