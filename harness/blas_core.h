/* SPDX-License-Identifier: MIT
 *
 * Which of its kernel sets ("cores") OpenBLAS runs. It picks one by the processor's model number
 * while it is loaded, and takes its oldest, several times slower, for a model that came out after
 * it. OPENBLAS_CORETYPE overrides that, but is read at that moment only.
 */
#ifndef QG_BLAS_CORE_H
#define QG_BLAS_CORE_H

#include <stddef.h>

/* To be called first in main. Where OPENBLAS_CORETYPE is not set and OpenBLAS took a core for less
 * than this processor has (AVX-512, else AVX2 and FMA), sets it and starts this program again, with
 * `argv`, the environment and open files as they are; else, and where that fails, it returns. Never
 * starts it more than once. */
void qg_blas_core_settle(char **argv);

/* "SkylakeX, chosen by qgauge (OpenBLAS by itself takes Prescott)": the core, who chose it, and
 * which one would be faster. */
void qg_blas_core_describe(char *text, size_t size);

#endif
