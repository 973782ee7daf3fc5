/* SPDX-License-Identifier: MIT
 *
 * What a number was measured on: processor, kernel, libraries, floating-point environment, clock.
 */
#ifndef QG_MACHINE_H
#define QG_MACHINE_H

#include "harness/result.h"

/* Sets cpu, cpu_isa, cpus, governor, turbo, load, os, libraries, blas_core, backend_NAME (what is
 * there, or "SKIP: " and why not), fp_environment, clock_resolution_s, cold_method, time_utc,
 * binary and goldens (hashes); with a device device_settings (driver, persistence mode, limits,
 * ECC, MIG). What cannot be found out is "unknown". With SOURCE_DATE_EPOCH in the environment
 * time_utc is that, and load and clock_resolution_s, which differ from run to run, are left out. */
void qg_machine_describe(struct qg_meta *m);

/* "HDF5 1.10.8", "OpenBLAS 0.3.21 ...", one per call; NULL past the end. */
const char *qg_machine_library(int i, char *text, size_t size);

#endif
