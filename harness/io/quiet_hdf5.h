/* SPDX-License-Identifier: MIT
 *
 * HDF5 without its own complaints: what fails becomes a sentence of ours.
 */
#ifndef QG_QUIET_HDF5_H
#define QG_QUIET_HDF5_H

#include <hdf5.h>

struct qg_quiet {
    H5E_auto2_t print;
    void *data;
};

static inline struct qg_quiet qg_quiet_begin(void)
{
    struct qg_quiet q = {0};
    H5Eget_auto2(H5E_DEFAULT, &q.print, &q.data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return q;
}

static inline void qg_quiet_end(const struct qg_quiet *q)
{
    H5Eset_auto2(H5E_DEFAULT, q->print, q->data);
}

/* Closes whatever kind of identifier it is; negative ones are failures and have nothing to close.
 */
static inline void qg_hdf5_drop(hid_t id)
{
    if (id >= 0)
        H5Idec_ref(id);
}

#endif
