/* SPDX-License-Identifier: MIT
 *
 * What moved between two runs: bits, quality, verdicts, time. Cases are matched by their spelling.
 */
#ifndef QG_COMPARISON_H
#define QG_COMPARISON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/error.h"
#include "harness/result.h"

/* What became of a case's output. */
enum qg_shift {
    QG_SHIFT_NONE,       /* one side has no output to compare: skipped, crashed, ... */
    QG_SHIFT_INPUT,      /* the inputs differ: nothing can be said */
    QG_SHIFT_SAME_BITS,  /* but for those of NaN */
    QG_SHIFT_OTHER_BITS, /* the SQNR moved less than another draw of as much data would move it */
    QG_SHIFT_UP,         /* quality moved: the SQNR rose */
    QG_SHIFT_DOWN,       /* quality moved: the SQNR fell, or is no number any more */
    QG_SHIFT_COUNT
};

/* What became of its time. */
enum qg_pace {
    QG_PACE_NONE, /* not timed on both sides */
    QG_PACE_SAME, /* the interval lies inside the margin */
    QG_PACE_UNDECIDED,
    QG_PACE_FASTER,
    QG_PACE_SLOWER,
    QG_PACE_COUNT
};

/* What counts as a regression: the words of --fail-on. */
enum {
    QG_ON_VERDICT = 1, /* a verdict that is new and neither PASS nor MARGINAL */
    QG_ON_QUALITY = 2,
    QG_ON_SLOWER = 4,
    QG_ON_BITS = 8, /* other bits, whatever the quality */
    QG_ON_UNDECIDED = 16,
    QG_ON_MISSING = 32,   /* cases of BASE that HEAD does not have */
    QG_ON_RESOURCES = 64, /* a CUDA kernel spills more, has more stack, or fewer of its warps fit */
};
#define QG_ON_DEFAULT (QG_ON_VERDICT | QG_ON_QUALITY | QG_ON_SLOWER | QG_ON_RESOURCES)

struct qg_pair {
    const struct qg_record *base, *head; /* NULL: the case is only in the other file */
    bool newly_bad, newly_good;
    enum qg_shift shift;
    double sqnr_change_db;      /* HEAD - BASE, NaN when either has none */
    bool both_stored;           /* the next three say something */
    uint64_t compared, changed; /* elements of the first output (bytes for convert) */
    int64_t first_changed;      /* or -1 */
    enum qg_pace pace;
    /* The timings of pace: warm ones where both files have them, else cold ones; NULL: none. */
    const struct qg_timing *was, *is;
    double ratio, low, high; /* time HEAD / BASE and its 95 % interval; NaN: none */
    double margin;           /* a ratio below 1 + margin may be noise between runs */
    double visible;          /* the smallest slowdown that would have been called one */
};

/* The pairs of one kernel: scheme, operation, operand, backend, variant. */
struct qg_pair_group {
    char name[128];  /* "int4.convert.c" */
    size_t first, n; /* in pair[] */
    size_t shift[QG_SHIFT_COUNT], pace[QG_PACE_COUNT];
    size_t newly_bad, newly_good, other_verdict, only_base, only_head;
    size_t other_algorithm; /* a library behind the kernel chose otherwise: no regression */
    size_t other_clocks;    /* of the device: no regression */
    size_t discarded;       /* timed in BASE; in HEAD no sample counts: no regression */
    uint64_t changed, compared;
    double sqnr_low, sqnr_high; /* smallest and largest change in dB of cases whose bits moved */
    const struct qg_pair *slowest, *fastest; /* largest and smallest ratio; NULL: nothing timed */
};

/* A fact of the run that is not the same on both sides. */
struct qg_fact {
    const char *key, *base, *head; /* "": not recorded */
};

/* What became of a language model's quality under a scheme. Only intervals are stored, not what
 * each document gave, so nothing is paired: a row moved when the two intervals of its perplexity,
 * of its change of ln ppl or of its KL have no point in common. */
enum qg_drift {
    QG_DRIFT_NONE, /* evaluated on neither side, or in one file only */
    QG_DRIFT_SAME, /* every number is what it was */
    QG_DRIFT_OTHER,
    QG_DRIFT_BETTER,
    QG_DRIFT_WORSE, /* by any of the three, or not evaluated any more */
    QG_DRIFT_COUNT
};

/* Rows of /lm of the same model, text, scheme and path. */
struct qg_modelled_pair {
    const struct qg_modelled *base, *head; /* NULL: the row is only in the other file */
    enum qg_drift drift;
};

/* Rows of /proxy; predictions are exact, so that any other number is one. */
struct qg_foretold_pair {
    const struct qg_foretold *base, *head;
    bool changed;
};

/* What became of what a CUDA kernel takes of a multiprocessor. */
enum qg_burden {
    QG_BURDEN_NONE, /* the kernel is in one file only, for that target */
    QG_BURDEN_SAME,
    QG_BURDEN_OTHER,   /* other numbers, but no other spills and stack, and as many warps */
    QG_BURDEN_LIGHTER, /* fewer bytes spilled or of stack, or more warps fit */
    QG_BURDEN_HEAVIER, /* more bytes spilled or of stack, or fewer warps fit */
    QG_BURDEN_COUNT
};

/* Rows of /resources of the same file, kernel and target. */
struct qg_resource_pair {
    const struct qg_resource *base, *head;
    enum qg_burden burden;
};

struct qg_comparison {
    const struct qg_result *base, *head;    /* borrowed */
    struct qg_fact fact[2 * QG_META_ITEMS]; /* but for those that only name the run, as commit */
    size_t n_facts;
    struct qg_pair *pair; /* sorted by kernel, then spelling */
    struct qg_pair_group *group;
    size_t n_pairs, n_groups;
    struct qg_pair_group total;
    bool other_machine;  /* cpu differs: no time is decided */
    double noise;        /* spread of the ratios that agree best, as one standard deviation; NaN */
    double noise_margin; /* what that noise alone may reach in one of all cases; 0: not known */
    double common_ratio; /* their middle */
    double visible;      /* median of the pairs' .visible; NaN when nothing was timed */
    struct qg_modelled_pair *modelled;
    struct qg_foretold_pair *foretold;
    size_t n_modelled, drift[QG_DRIFT_COUNT], modelled_only_base, modelled_only_head;
    size_t n_foretold, foretold_changed, foretold_only_base, foretold_only_head;
    struct qg_resource_pair *resource;
    size_t n_resources, burden[QG_BURDEN_COUNT], resources_only_base, resources_only_head;
};

/* Compares. `margin` (0.05: five percent) is the least change of time that is ever called one. The
 * caller frees *ret_c before the results. */
QG_MUST_CHECK enum qg_status qg_comparison_make(const struct qg_result *base,
                                                const struct qg_result *head, double margin,
                                                struct qg_comparison **ret_c, struct qg_error *err);
void qg_comparison_free(struct qg_comparison **c);

/* Why the files say nothing about each other, or NULL when at least one case was compared (it is in
 * both files with the same input, and ran in one of them) or one row of /lm or /proxy; nor where
 * the cases of both are the same, none of them ran, and one row of /resources was compared. */
const char *qg_comparison_void(const struct qg_comparison *c);

/* How many cases and rows are regressions of the kinds in `on`; one at least when nothing was
 * compared. */
size_t qg_comparison_regressions(const struct qg_comparison *c, unsigned on);
bool qg_pair_regressed(const struct qg_pair *p, unsigned on);

/* Whether both sides say what a library chose for the case, and not the same. */
bool qg_pair_chose_otherwise(const struct qg_pair *p);

/* Whether a clock, in MHz, is another one: by more than 2 % of the higher, which is more than the
 * 15 MHz steps in which devices wander and less than any slowdown that is called one. NaN: no. */
bool qg_is_other_clock(double was, double is);

/* Whether the clocks of the device, of its multiprocessors or its memory, were others. */
bool qg_pair_at_other_clocks(const struct qg_pair *p);

/* Whether the case was timed in BASE, and in HEAD the device had lowered its clocks all the time.
 */
bool qg_pair_was_discarded(const struct qg_pair *p);

/* comparison_rows.c: hands over the rows of a table in pairs, those that `order` calls equal, and
 * with NULL those of one file only; sorted. False: no memory. */
typedef int qg_row_order(const void *a, const void *b);
bool qg_match_rows(struct qg_comparison *c, enum qg_table_id t, qg_row_order *order,
                   void (*add)(struct qg_comparison *c, const void *base, const void *head));

/* comparison_rows.c: the rows of /resources. */
QG_MUST_CHECK enum qg_status qg_comparison_resources(struct qg_comparison *c, struct qg_error *err);
size_t qg_resource_regressions(const struct qg_comparison *c, unsigned on);

/* comparison_lm.c: the rows of /lm and /proxy. */
QG_MUST_CHECK enum qg_status qg_comparison_models(struct qg_comparison *c, struct qg_error *err);
bool qg_modelled_pair_regressed(const struct qg_modelled_pair *p, unsigned on);
bool qg_foretold_pair_regressed(const struct qg_foretold_pair *p, unsigned on);
size_t qg_model_regressions(const struct qg_comparison *c, unsigned on);

/* The three answers to "what did this change do?", and a fourth for "nobody can say". */
const char *qg_group_class(const struct qg_pair_group *g);

/* Whether nothing moved: same bits, same verdicts, no case missing or new, no time called
 * different. */
bool qg_group_is_quiet(const struct qg_pair_group *g);

/* The words of --fail-on: 0 for an unknown one. */
unsigned qg_on_parse(const char *word);

/* "same bits", "slower", ... */
const char *qg_drift_name(enum qg_drift d); /* "same numbers", "worse", ... */
const char *qg_burden_name(enum qg_burden b);
const char *qg_shift_name(enum qg_shift s);
const char *qg_pace_name(enum qg_pace p);

#endif
