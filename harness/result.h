/* SPDX-License-Identifier: MIT
 *
 * What a run found out, and the file that keeps it. A record holds names and numbers, no pointers
 * into tables: a report can be made from another machine's file, with schemes that do not exist
 * here.
 *
 * The file (HDF5, schema below) is written in one go at the end and renamed into place. Until then
 * a journal beside it (PATH.journal) takes one checksummed entry per finished case, so that a kill
 * at any moment loses at most the case in flight and --resume goes on from there.
 *
 *     /meta      attributes: schema_version (int), and one string per key of the run (see qg_meta)
 *     /cases     one compound row per case: qg_record_fields, by their names
 *     /samples   float64 [n]: all timing samples; /cases.samples_at and .samples_n cut it up
 *     /outputs   uint8 [n]: the first output of each case up to 64 KiB; .output_at, .output_n
 *     /gap       one compound row per prepare/convert comparison: qg_gap_fields
 *     /atlas     one compound row per pair of schemes that claim one format: qg_atlas_fields
 *                (since version 2)
 *     /convert   one compound row per tensor of a converted checkpoint: qg_shipped_fields
 *                (since version 3)
 *     /lm        one compound row per scheme or recipe put on a language model: qg_modelled_fields
 *                (since version 4)
 *     /proxy     one compound row per scheme whose cost was foretold: qg_foretold_fields (since
 *                version 5)
 *     /resources one compound row per CUDA kernel and target: qg_resource_fields (since version 6)
 *
 * Absent numbers are NaN.
 */
#ifndef QG_RESULT_H
#define QG_RESULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/error.h"

#define QG_SCHEMA_VERSION 6
#define QG_OUTPUT_LIMIT   65536
#define QG_HISTOGRAM_BINS 64
#define QG_META_ITEMS     64

/* Verdicts, in the order in which they matter less and less. */
enum qg_verdict {
    QG_PASS,
    QG_MARGINAL,   /* right, but more than 90 % of the proved bound was used */
    QG_FAIL,       /* wrong bits, a bound exceeded, or a write outside the output */
    QG_MISTRUSTED, /* agrees, but the output is so uniform that agreement shows nothing */
    QG_SKIP,       /* not run, see reason */
    QG_CRASH,
    QG_TIMEOUT,
    QG_ERROR, /* the harness could not do its part */
    QG_VERDICT_COUNT
};

/* What a device said of itself between the samples of a timing. NaN, 0 and "" where it said
 * nothing and on processors. */
struct qg_conditions {
    /* Clocks while samples were taken that count: of its multiprocessors, and the lowest of its
     * memory. */
    double sm_mhz_low, sm_mhz_high, memory_mhz;
    double celsius;      /* highest */
    double watts;        /* mean of the answers, each of which may be the mean of a second */
    uint32_t discarded;  /* samples that do not count: the device had lowered its clocks */
    char lowered_by[64]; /* and why: "thermal", "power cap", "power brake", "hardware slowdown" */
};

struct qg_timing {
    double median_s, low_s, high_s; /* per call; 95 % interval of the median; NaN: not timed */
    uint32_t samples;               /* that count */
    struct qg_conditions under;
};

struct qg_record {
    char spelling[1024]; /* the whole case: `qgauge repro 'SPELLING'` repeats it */
    char scheme[32], op[24], operand[16], backend[16], variant[24], dtype[8];
    char data[800];  /* fill name, or "FILE:TENSOR" */
    char params[96]; /* those that differ from the default, "group=32" */
    uint64_t m, rows, cols, seed;
    uint32_t verdict; /* enum qg_verdict */
    char reason[256];
    char algorithm[192];           /* what a library behind the kernel chose (cuBLASLt), or "" */
    uint64_t count, mismatches;    /* elements compared, elements whose bits differ from expected */
    uint64_t class_mismatches;     /* NaN, inf, zero or sign against something else */
    int64_t first_bad;             /* index of the first element that is judged wrong, or -1 */
    uint64_t codes, codes_changed; /* convert: codes written, and how many differ */
    double max_ulp;                /* largest distance in units of the output's last place */
    double bound_used;             /* largest share of the proved bound; NaN where bits decide */
    double sqnr_db, nmse;          /* against the unquantized tensor or product, in double */
    double bytes, flops;           /* least traffic and work of one call */
    struct qg_timing warm, cold;
    double overhead_s;    /* of an empty call, already taken out of the times */
    uint64_t output_hash; /* of all outputs; one NaN is as another */
    uint64_t input_hash;
    /* fake-quant only, else all zero: how many elements had the error (x - y) / step in
     * [-1 + i/32, -1 + (i+1)/32), where step is the scale of the element's group (the distance of
     * two neighbouring codes); errors outside [-1, 1) are in the first or last bin, NaN in none. */
    uint32_t error_histogram[QG_HISTOGRAM_BINS];
    uint64_t samples_at, samples_n, output_at, output_n; /* set by the store */
};

/* One comparison of a scheme's prepare path with its convert path. */
struct qg_gap {
    char scheme[32], params[96];
    char source[800]; /* "torch-model" or "FILE:TENSOR" */
    char what[24];    /* "weights" or "model" */
    uint64_t seed;
    double sqnr_db;      /* in double; inf when equal */
    double sqnr_bf16_db; /* "model": as torchao's compute_error prints it in bf16; else NaN */
    uint64_t count, differ;
    int64_t first;   /* index of the first difference, or -1 */
    char cause[256]; /* the named cause, or "" */
};

/* Two schemes that claim one format, on the same weights: how many codes differ, and why. Every
 * code that differs counts in the first of these that applies. */
struct qg_atlas {
    char format[24], left[96], right[96]; /* "mxfp4", "mxfp4 scale=floor", "mxfp4-ggml" */
    char source[800];                     /* fill name, or "FILE:TENSOR" */
    uint64_t seed;
    uint64_t count, differ; /* codes, and how many differ */
    uint64_t same_value;    /* both stand for the same value: +0 and -0 */
    uint64_t scale;         /* the block has another scale */
    uint64_t clip;          /* x lies beyond both values: one of them has no larger code */
    uint64_t tie;           /* both values are equally far from x */
    uint64_t rounding;      /* so nearly equally far that roundings on the way decide */
    uint64_t other;
    uint64_t blocks, blocks_scaled; /* blocks, and how many have another scale */
    int64_t first;                  /* index of the first code that differs, or -1 */
    char rule[320];                 /* what the two do differently, in words */
};

/* A tensor of a checkpoint and what `qgauge convert` made of it. */
struct qg_shipped {
    char tensor[256];
    char scheme[32], params[128]; /* "" for a tensor that was copied */
    char kernel[128];             /* what converted it; "" when copied, or by a run before */
    char layout[24], dtype[16];   /* dtype: that it was quantized in, or of the copied tensor */
    uint64_t rows, cols;          /* all dimensions but the last count as rows */
    uint64_t bytes_before, bytes; /* bytes_before: 0 for the untied copy of a tensor */
    double sqnr_db;               /* of all values; NaN when copied */
    double worst_db;              /* of the block, of those that share a scale, that is worst: */
    uint64_t worst_row, worst_col, worst_cols; /* columns worst_col .. + worst_cols */
};

/* A language model under a scheme or a recipe, and what became of its predictions of a text (see
 * harness/lm/score.h for what is computed). Means are per token, logarithms natural; _low and _high
 * are the ends of an interval. */
struct qg_modelled {
    char model[256], model_hash[24], text[256], text_hash[24];
    char what[16]; /* "none" (the model as it is), "scheme", "recipe" */
    char name[64], params[128];
    char training[64]; /* "" as the checkpoint is; else what it was trained with before */
    char path[16];     /* "plain", "prepared", "converted" */
    char backend[16], dtype[8];
    char clusters_of[16]; /* "documents", "windows": what intervals take for independent */
    char verdict[16];     /* "better", "worse", "cannot tell", "equal"; "" when it did not run, */
    char reason[512];     /* and why */
    uint64_t seed;        /* of the training */
    uint64_t context, documents, tokens, clusters;
    double level;                  /* of the intervals: 0.95 */
    double bytes, bits_per_weight; /* of the whole model as it is shipped */
    double ppl, ppl_low, ppl_high; /* perplexity per token */
    double bits_per_byte, word_ppl;
    double delta, delta_low, delta_high; /* of ln ppl against the base */
    double kl, kl_low, kl_high;          /* of the base's predictions to these: the mean, */
    double kl_median, kl_90, kl_99, kl_999, kl_max;
    double same_top;                       /* share of tokens */
    double change_mean, change_rms;        /* of the right token's probability */
    double gap, gap_low, gap_high, gap_kl; /* converted against prepared: ln ppl, mean KL */
    double seconds;
};

/* What `qgauge proxy` foretells of a language model under a scheme (see harness/lm/proxy.h), and
 * what was measured where the two were put side by side. Units as above. */
struct qg_foretold {
    char model[256], model_hash[24], text[256], text_hash[24]; /* text: that inputs are from */
    char what[16], name[64], params[128], dtype[8];            /* as of qg_modelled */
    char inputs[16];       /* "plain", or "quantized": of any matrix, before it multiplies */
    char measured_in[256]; /* where the measured numbers are from, "" without any */
    char reason[512];      /* why nothing could be foretold, or "" */
    uint64_t documents;    /* of the text */
    double bytes, bits_per_weight;
    double delta_by_weights, delta_by_outputs; /* of ln ppl, from errors of weights and outputs */
    double kl_by_weights, kl_by_outputs;
    double delta, delta_low, delta_high, kl, kl_low, kl_high; /* measured */
};

/* What a CUDA kernel of this program takes of a multiprocessor of one target, by the report of the
 * assembler that made it (see harness/resources.h). */
struct qg_resource {
    char file[32], kernel[160], target[16];    /* "int4", "quantize_units<prepare>", "sm_90a" */
    uint32_t registers;                        /* of a thread */
    uint32_t stack, spill_stores, spill_loads; /* bytes of a thread; stack: of local arrays too */
    uint32_t shared, barriers;  /* of a block: bytes that are known at compile time, and barriers */
    uint32_t block;             /* threads */
    uint32_t warps, most_warps; /* that fit on a multiprocessor, of how many; 0: unknown target */
    char limit[16]; /* what keeps more out: "warps" (all fit), "blocks", "registers", "shared",
                       "barriers"; "" for an unknown target */
};

/* The fields of the rows, in the order of the structs: what the file's compound types, CSV
 * and JSON are made from. Fields of the timings are named warm_median_s and so on. */
enum qg_field_kind {
    QG_FIELD_TEXT,
    QG_FIELD_U32,
    QG_FIELD_U64,
    QG_FIELD_I64,
    QG_FIELD_F64,
    QG_FIELD_VERDICT /* as uint32_t */
};
struct qg_field {
    const char *name;
    enum qg_field_kind kind;
    size_t offset, size; /* in the struct; of a whole text or of one number */
    size_t count;        /* numbers in an array, else 1 */
};
extern const struct qg_field qg_record_fields[], qg_gap_fields[], qg_atlas_fields[],
    qg_shipped_fields[], qg_modelled_fields[], qg_foretold_fields[],
    qg_resource_fields[]; /* end with name NULL */

/* The tables of rows: what is written, read and exported goes by this list. */
enum qg_table_id {
    QG_TABLE_CASES, /* struct qg_record */
    QG_TABLE_GAP,
    QG_TABLE_ATLAS,
    QG_TABLE_CONVERT, /* struct qg_shipped */
    QG_TABLE_LM,      /* struct qg_modelled */
    QG_TABLE_PROXY,   /* struct qg_foretold */
    QG_TABLE_RESOURCES,
    QG_TABLES
};
struct qg_table {
    const char *name; /* of the dataset */
    const struct qg_field *fields;
    size_t size; /* of a row */
    int since;   /* the version of the schema */
};
extern const struct qg_table qg_tables[QG_TABLES];

/* An order of rows by what they are of: model, text, context and documents, scheme, parameters,
 * training, path, backend, dtype. 0: of the same thing, so that a newer one stands for the older.
 */
int qg_modelled_order(const struct qg_modelled *a, const struct qg_modelled *b);
int qg_foretold_order(const struct qg_foretold *a, const struct qg_foretold *b);

/* Run-wide facts, as strings: version, commit, compiler, flags, cpu, suite, seed, time_utc, ... */
struct qg_meta {
    size_t n;
    struct {
        char key[32], value[640];
    } item[QG_META_ITEMS];
};

/* Sets a fact, or replaces it; cuts what is too long, drops what finds no room. */
void qg_meta_set(struct qg_meta *m, const char *key, const char *value);

/* The value, which lives as long as *m; "" when absent. */
const char *qg_meta_get(const struct qg_meta *m, const char *key);

const char *qg_verdict_name(enum qg_verdict v);

/* Whether samples were taken and none counts: the device had lowered its clocks all the time. */
bool qg_is_discarded(const struct qg_timing *t);

/* --- writing --------------------------------------------------------------------------------- */

struct qg_result_writer;

/* What becomes of a file that is there already. */
enum qg_result_mode {
    QG_RESULT_NEW,     /* it is an error */
    QG_RESULT_REPLACE, /* the new one takes its place */
    /* It gets the rows of /lm and /proxy as well; one of the same thing is replaced. Its facts stay
     * as they are, which is why it must be of the same binary. The journal is PATH.SUITE.journal.
     * Where there is no file, one is made. */
    QG_RESULT_ADD
};

/* Starts PATH.journal. QG_EIO when PATH exists (of QG_RESULT_NEW), when the journal of an earlier
 * run is there (unless `resume`, which then reads what it holds), or when it cannot be written.
 * With `resume`, QG_EFORMAT when the journal belongs to another suite, seed or binary (its meta
 * keys suite, seed and binary differ). A torn last entry is dropped. QG_EFORMAT when PATH, which is
 * to be added to, is of another binary or no result file. */
QG_MUST_CHECK enum qg_status qg_result_create(const char *path, const struct qg_meta *meta,
                                              bool resume, enum qg_result_mode mode,
                                              struct qg_result_writer **ret_w,
                                              struct qg_error *err);

/* The name of the journal; lives as long as the writer. */
const char *qg_result_journal(const struct qg_result_writer *w);

/* Whether the journal of an earlier run held this case (after resume). */
bool qg_result_has(const struct qg_result_writer *w, const char *spelling);

/* Whether it already holds the gap of this scheme, parameters, source, seed and kind. */
bool qg_result_has_gap(const struct qg_result_writer *w, const struct qg_gap *g);

/* Appends and flushes one case with its timing samples (seconds per call, overhead taken out; warm
 * first, then cold) and the bytes of its first output (kept when at most QG_OUTPUT_LIMIT). */
QG_MUST_CHECK enum qg_status qg_result_append(struct qg_result_writer *w, const struct qg_record *r,
                                              const double *samples, size_t n_samples,
                                              const void *output, size_t output_bytes,
                                              struct qg_error *err);

/* Appends and flushes a row of another table than the cases. */
QG_MUST_CHECK enum qg_status qg_result_append_row(struct qg_result_writer *w, enum qg_table_id t,
                                                  const void *row, struct qg_error *err);

/* How many rows of a table there are, with those that an earlier run left. */
size_t qg_result_count(const struct qg_result_writer *w, enum qg_table_id t);

/* Whether a pair of schemes is there, by pair, source and seed. */
bool qg_result_has_atlas(const struct qg_result_writer *w, const struct qg_atlas *a);

/* The row of the same thing as `like`; NULL when there is none. Lives until the next append. */
const struct qg_modelled *qg_result_find_modelled(const struct qg_result_writer *w,
                                                  const struct qg_modelled *like);

/* Writes PATH, removes the journal, frees *w and sets it to NULL, also on failure (the journal then
 * stays). */
QG_MUST_CHECK enum qg_status qg_result_close(struct qg_result_writer **w, struct qg_error *err);

/* Frees *w and sets it to NULL; the journal stays, for --resume. */
void qg_result_abandon(struct qg_result_writer **w);

/* --- reading --------------------------------------------------------------------------------- */

struct qg_result {
    struct qg_meta meta;
    size_t n_cases, n_gaps, n_atlas, n_shipped, n_modelled, n_foretold, n_resources;
    size_t n_samples, n_output;
    struct qg_record *cases;
    struct qg_gap *gaps;
    struct qg_atlas *atlas;
    struct qg_shipped *shipped;
    struct qg_modelled *modelled;
    struct qg_foretold *foretold;
    struct qg_resource *resources;
    double *samples;
    uint8_t *output;
};

/* Reads a whole file. Foreign, truncated or hostile files are QG_EFORMAT with a sentence: every
 * offset is checked, and a newer schema version is refused by name. Texts are terminated and
 * printable: control characters and bytes that are no UTF-8 are read as '?'. HDF5 runs in a child
 * process. */
QG_MUST_CHECK enum qg_status qg_result_open(const char *path, struct qg_result **ret_r,
                                            struct qg_error *err);
void qg_result_free(struct qg_result **r);

/* The rows of one of the tables. */
struct qg_rows {
    void *at;
    size_t n;
};
struct qg_rows qg_result_rows(const struct qg_result *r, enum qg_table_id t);

/* "HDF5 1.10.8": the library that writes the file. */
void qg_result_library(char *text, size_t size);

#endif
