/* SPDX-License-Identifier: MIT
 *
 * Plots by gnuplot, run as a program. Each plot is three files in a folder: NAME.tsv (the data,
 * columns by name), NAME.gp (how it is drawn) and NAME.svg; `gnuplot NAME.gp` there draws it again.
 */
#ifndef QG_PLOT_H
#define QG_PLOT_H

#include "harness/base/error.h"
#include "reports/digest.h"

enum { QG_PLOTS = 6 };

enum qg_plot_state {
    QG_PLOT_DRAWN,
    QG_PLOT_EMPTY, /* the run holds nothing that it shows; only the header of the data is there */
    QG_PLOT_NO_GNUPLOT, /* data and script are there, gnuplot is not installed */
    QG_PLOT_FAILED,     /* gnuplot ran and failed */
    QG_PLOT_NOT_MEANT,  /* the file is of another kind: of models alone, or of cases alone */
};

struct qg_plot {
    const char *name, *title, *caption; /* caption: how to read it */
    enum qg_plot_state state;
};

/* The name of plot i < QG_PLOTS. */
const char *qg_plot_name(size_t i);

/* Writes data and scripts into the empty folder `dir` and has gnuplot draw them. QG_EIO when a file
 * cannot be written; a gnuplot that is absent or fails is a state, not an error. */
QG_MUST_CHECK enum qg_status qg_plot_all(const struct qg_digest *d, const char *dir,
                                         struct qg_plot ret_plot[QG_PLOTS], struct qg_error *err);

#endif
