/* SPDX-License-Identifier: MIT */
#include "harness/base/fpenv.h"

#include <fenv.h>
#include <stdio.h>

/* Values that no compiler may fold. */
static volatile float tiny = 0x1p-140f, one = 1.0f, third = 3.0f, up = 0x1.000002p0f;

static const char *problem(void)
{
    if (fegetround() != FE_TONEAREST)
        return "the rounding mode is not round-to-nearest";
    if (!(tiny * one > 0.0f) || !(tiny + tiny == 0x1p-139f))
        return "subnormal numbers are flushed to zero (FTZ or DAZ is set)";
    volatile float q = one / third, p = up * up, s = p - up;
    if (q != 0x1.555556p-2f)
        return "division is not correctly rounded";
    if (s != 0x1p-23f) // fused, p - up would keep the 2^-46 of the product
        return "a product and a sum were fused into one rounding";
    return NULL;
}

enum qg_status qg_fpenv_check(struct qg_error *err)
{
    const char *what = problem();
    if (!what)
        return QG_OK;
    return qg_fail(
        err, QG_EINVAL,
        "%s: qgauge measures roundings and cannot run like this; rebuild without -Ofast, "
        "-ffast-math or -funsafe-math-optimizations (also at link time)",
        what);
}

void qg_fpenv_describe(char *text, size_t size)
{
    const char *what = problem();
    snprintf(text, size, "%s", what ? what : "round to nearest even, subnormals kept, no fusing");
}
