/* SPDX-License-Identifier: MIT
 *
 * What every check_<unit>.c needs: Check, and a main that runs one suite and speaks TAP to Meson.
 *
 *     QG_SUITE(rng, test_a, test_b)     // at the end of the file: START_TEST functions
 */
#ifndef QG_SUITE_H
#define QG_SUITE_H

#include <check.h>
#include <stdlib.h>

#define QG_SUITE(unit, ...)                                         \
    int main(void)                                                  \
    {                                                               \
        const TTest *const tests[] = {__VA_ARGS__};                 \
        Suite *suite = suite_create(#unit);                         \
        TCase *tcase = tcase_create(#unit);                         \
        tcase_set_timeout(tcase, 600);                              \
        for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) \
            tcase_add_test(tcase, tests[i]);                        \
        suite_add_tcase(suite, tcase);                              \
        SRunner *runner = srunner_create(suite);                    \
        srunner_run_all(runner, CK_ENV);                            \
        int failed = srunner_ntests_failed(runner);                 \
        srunner_free(runner);                                       \
        return failed ? EXIT_FAILURE : EXIT_SUCCESS;                \
    }

#endif
