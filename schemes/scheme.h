/* SPDX-License-Identifier: MIT
 *
 * A quantization scheme: one row in a table, whose functions ARE the definition. They are written
 * to be read, take the caller's buffers, allocate nothing, print nothing and cannot fail; whoever
 * calls them has asked qg_args_init first, which checks every shape.
 *
 * A family (int4 and its older prepare path) is one file that ends in its table:
 *
 *     const struct qg_scheme qg_schemes_int4[] = {{.name = "int4", ...}, {.name = NULL}};
 *
 * plus one word in schemes/meson.build.
 */
#ifndef QG_SCHEME_H
#define QG_SCHEME_H

#include <stdbool.h>
#include <stddef.h>

#include "schemes/num/tensor.h"
#include "schemes/param.h"

#define QG_MAX_PARAMS  8
#define QG_MAX_TENSORS 24

/* What is computed. Every operation reads `in` and writes `out` of struct qg_args:
 *
 *     fake-quant        x [R,K]               -> y  [R,K]   the prepare (QAT) path, dtype kept
 *     fake-quant-grad   x, g [R,K]            -> dx [R,K]   its gradient: g is dL/dy, dx is dL/dx
 *     convert           x [R,K]               -> planes     the real quantizer
 *     dequant           planes                -> y  [R,K]   what the kernel makes of them
 *     matmul            x [M,K], planes [N,K] -> y  [M,N]   y = x . W^T with every rounding point
 *     lora              the same, then a [r,K], b [N,r], s -> y  [M,N]   y + s (x . a^T) . b^T
 *
 * Two more are those of a layer (schemes/layers/layer.h), which says what they read and write:
 * forward, and backward with the base weights frozen. No scheme has them. */
enum qg_op {
    QG_FAKE_QUANT,
    QG_FAKE_QUANT_GRAD,
    QG_CONVERT,
    QG_DEQUANT,
    QG_MATMUL,
    QG_LORA,
    QG_OP_COUNT,
    QG_FORWARD,
    QG_BACKWARD,
    QG_ALL_OP_COUNT
};

/* What is quantized: a linear layer's weight [N,K], its input [M,K], an embedding table [V,K]. */
enum qg_operand { QG_WEIGHT, QG_ACTIVATION, QG_EMBEDDING, QG_OPERAND_COUNT };

/* Whether x [M,K] is multiplied with a converted weight: matmul, lora. */
static inline bool qg_is_product(enum qg_op op)
{
    return op == QG_MATMUL || op == QG_LORA;
}

struct qg_args;
typedef void qg_op_fn(const struct qg_args *a);

/* How a plane's extent follows from the quantized tensor [R,K] and the group g. A scheme with an
 * extent of its own keeps it in its own file. */
struct qg_extent {
    const char *symbol; /* "K/2", for people */
    size_t (*of)(const struct qg_args *a);
};

extern const struct qg_extent qg_ext_rows, /* R */
    qg_ext_cols,                           /* K */
    qg_ext_nibble,                         /* K/2: two codes to a byte; K must be even */
    qg_ext_groups,                         /* ceil(K/g) */
    qg_ext_one;                            /* 1 */

/* A tensor that convert writes. */
struct qg_plane {
    const char *name;    /* "codes", "scales", "zeros", ... */
    enum qg_dtype dtype; /* QG_INPUT: the dtype of the quantized tensor */
    int dtype_param;     /* > 0: param[dtype_param - 1] decides, see qg_scale_dtypes */
    const struct qg_extent *shape[QG_MAX_RANK]; /* NULL ends */
    const char *packing; /* in words, for people and for `list --format json` */
};

/* The words of a "scale-dtype" parameter, in the order input, bf16, f16, f32. */
extern const char *const qg_scale_dtypes[];

/* The dtype of a plane, or of a layer's tensor, in this call: what `t` and `dtype_param` say there.
 */
enum qg_dtype qg_dtype_by(const struct qg_args *a, enum qg_dtype t, int dtype_param);

/* One operand of a scheme. A NULL function: upstream has no such thing. */
struct qg_operand_def {
    qg_op_fn *fake_quant, *fake_quant_grad, *convert, *dequant;
    size_t (*group)(const struct qg_args *a); /* elements of a row that share a scale */
    const struct qg_plane *planes;            /* ends with name NULL */
    int code_bits; /* how many bits of a code carry information: 1 to 8; 0: planes[0] holds none */

    /* Where planes[0] is neither one code per byte nor two's complement nibbles, even element low:
     * the code of element i of [R,K], 0 .. 255, from what convert wrote. */
    unsigned (*code)(const struct qg_args *a, size_t i);
    /* Where scales are learned: the planes that are further inputs of fake-quant and its gradient,
     * and their gradients, which follow dx. NULL for all others. */
    const struct qg_plane *learned, *learned_grad;
    bool spans_rows; /* elements of several rows may share a scale */
    int codes; /* how many different codes convert can write; 0: all 2^code_bits (e4m3: 254) */
};

struct qg_scheme {
    const char *name;      /* a key in results and goldens: never changes */
    const char *summary;   /* one line */
    const char *upstream;  /* where the formulas come from: repo:path or paper */
    const char *nonfinite; /* what NaN, inf and all-zero groups become: part of the definition */
    const struct qg_param *params; /* ends with name NULL */
    const char *const *variants;   /* parameter sets worth a row beside the default, or NULL */
    unsigned dtypes; /* what upstream quantizes, as bits 1 << QG_F32 ...; 0: F32, BF16 and F16 */
    struct qg_operand_def operand[QG_OPERAND_COUNT];
    qg_op_fn *matmul;                               /* of the converted weight */
    const char *(*refuse)(const struct qg_args *a); /* NULL when `a` is fine, else why not */
    /* Why results that are nearly all alike, or x itself, are right for this call; NULL when they
     * would be suspicious. May be NULL. */
    const char *(*uniform)(const struct qg_args *a);
    /* Upstream trains on the quantized matmul itself, not on an ordinary one of fake-quantized
     * operands: a prepared layer is that matmul. */
    bool trains_on_matmul;
    bool adapts; /* PEFT's adapters stand beside its matmul: it has lora */
};

/* A named intermediate value, recorded for one element (`explain`, `gap`). */
struct qg_trace {
    size_t index; /* element of x that is asked about */
    int n;
    struct {
        const char *what;
        float value;
    } step[24];
};

/* Why a kernel on a device could not do its part. */
enum qg_cause {
    QG_CAUSE_KERNEL,  /* its own fault */
    QG_CAUSE_NO_ROOM, /* the device had no memory or was not there */
    QG_CAUSE_ABSENT   /* a library has nothing for this call on this device */
};
struct qg_failure {
    enum qg_cause cause;
    bool broken; /* the device does nothing more for this process */
    char text[200];
};

/* What a library that chooses among algorithms of its own chose for a call. */
struct qg_chosen {
    char text[192];
};

/* One call of one operation. */
struct qg_args {
    const struct qg_scheme *scheme; /* NULL for forward and backward */
    const struct qg_layer *layer;   /* NULL for all others */
    enum qg_op op;
    enum qg_operand operand;
    enum qg_dtype dtype; /* of x, y, g and dx: F32, BF16 or F16 */
    size_t m;            /* matmul and lora only: rows of x */
    size_t rank;         /* lora only: of the adapter; set before qg_args_init */
    size_t rows, cols;   /* of the quantized tensor: R (N for matmul) and K */
    size_t extent[26];   /* of a layer's tensors, by letter, see qg_extent_of; 0: not used */
    double param[QG_MAX_PARAMS];
    struct qg_tensor in[QG_MAX_TENSORS], out[QG_MAX_TENSORS];
    int n_in, n_out;
    float *work; /* scratch of qg_work_floats() floats, for kernels and definitions alike */

    /* Wanted from a definition of matmul, lora, fake-quant-grad or a layer, or NULL: one double per
     * element of all outputs, one after the other. `exact` is the value before the final store,
     * with sums in exact arithmetic; a correct implementation's value before the store differs from
     * it by at most `bound`, whatever the order of its sums, as long as no term passes through more
     * than `depth` additions (0: any order). A bound of 0 asks for the very bits. */
    double *exact, *bound;
    size_t depth;
    bool wide;              /* of products: numbers that overflow the dtype go on in the sums */
    bool tf32;              /* of products: binary32 factors are read as TF32 */
    struct qg_trace *trace; /* for fake-quant, convert and dequant */
    /* Where a kernel on a device says that it failed, or NULL; its outputs then stay as they were.
     * The text is empty before the call. */
    struct qg_failure *failure;
    struct qg_chosen *choice; /* where such a kernel says what was chosen, or NULL */
};

/* Fills `a` for the given call: default parameters were set by qg_params_default (and changed by
 * qg_param_set) before; names, dtypes and shapes of in[] and out[] are set here, data pointers are
 * left NULL. Returns false and writes a sentence into `why` when the call makes no sense: an
 * operation or operand that the scheme does not have, an empty tensor, K that the group does not
 * divide where the scheme refuses that, an odd K for nibbles, a dtype other than F32, BF16, F16,
 * sizes whose element count exceeds 2^40. */
bool qg_args_init(struct qg_args *a, const struct qg_scheme *s, enum qg_op op,
                  enum qg_operand operand, enum qg_dtype dtype, size_t m, size_t rows, size_t cols,
                  char *why, size_t why_size);

/* Sets all parameters of `a` to the scheme's defaults. */
void qg_params_default(struct qg_args *a, const struct qg_scheme *s);

/* A parameter of the scheme by name, NULL when it has none; its value is a->param[p - s->params].
 */
const struct qg_param *qg_param_find(const struct qg_scheme *s, const char *name);

/* Sets one parameter from text. False, with a sentence that lists what is allowed, for an unknown
 * name or a value that does not parse or is out of range. */
bool qg_param_set(struct qg_args *a, const struct qg_scheme *s, const char *name, const char *value,
                  char *why, size_t why_size);

/* Writes the parameters that differ from the default as "group=32 eps=1e-05" (empty when none do).
 * Numbers are written so that they read back to the same double. */
void qg_params_format(const struct qg_args *a, char *text, size_t size);

/* The matmul within a call of lora: the same tensors less the adapter's, which are the last three.
 */
static inline struct qg_args qg_base_of(const struct qg_args *a)
{
    struct qg_args base = *a;
    base.op = QG_MATMUL;
    base.rank = 0;
    base.n_in -= 3;
    return base;
}

/* The definition of lora, of every scheme that adapts: see adapted.c. */
qg_op_fn qg_adapted_matmul;

/* Where scratch begins in a call of lora that none of its three products needs, 16 bytes aligned if
 * all scratch is: room for x a^T three times over and for y twice, in binary32. */
float *qg_adapter_work(const struct qg_args *a);

/* The definition of (operand, op), or NULL. */
qg_op_fn *qg_definition(const struct qg_scheme *s, enum qg_operand operand, enum qg_op op);

/* Elements that share a scale along K, and how many groups a row has. */
size_t qg_group(const struct qg_args *a);
size_t qg_groups(const struct qg_args *a);

/* The code of element i of [R,K] as convert wrote it, its lowest code_bits bits or the byte; of a
 * scheme that has codes. */
unsigned qg_code(const struct qg_args *a, size_t i);

/* Number of planes of an operand, 0 when it is not converted. */
int qg_plane_count(const struct qg_scheme *s, enum qg_operand operand);

/* Floats of scratch that a call needs. Of a scheme: room for x and W in binary32 with a sixteenth
 * and 16 more columns, 16 more such rows, y with 16 more columns, and two numbers per row of x and
 * of W; of lora more, see qg_adapter_work. Of a layer: what the layer asks for. */
size_t qg_work_floats(const struct qg_args *a);

/* Words of ops, operands and dtypes, as used on the command line and in files ("fake-quant",
 * "weight", "BF16"); the inverse returns the _COUNT value for an unknown word (of ops the words of
 * layers are known too). Dtype words are
 * those of safetensors; dtype parsing ignores case. */
const char *qg_op_name(enum qg_op op);
const char *qg_operand_name(enum qg_operand operand);
const char *qg_dtype_name(enum qg_dtype t);
enum qg_op qg_op_parse(const char *word);
enum qg_operand qg_operand_parse(const char *word);
enum qg_dtype qg_dtype_parse(const char *word);

/* The catalogue, in the order of schemes/meson.build. NULL past the end; NULL when not found. */
const struct qg_scheme *qg_scheme_at(size_t i);
const struct qg_scheme *qg_scheme_find(const char *name);

/* Records an intermediate value when element i is the one asked about. */
static inline void qg_note(const struct qg_args *a, size_t i, const char *what, float value)
{
    struct qg_trace *t = a->trace;
    if (t && t->index == i && t->n < (int)(sizeof t->step / sizeof t->step[0])) {
        t->step[t->n].what = what;
        t->step[t->n++].value = value;
    }
}

#endif
