/* SPDX-License-Identifier: MIT
 *
 * A typed view of memory: dtype, shape, pointer. Row-major, contiguous, never owning. Element
 * access goes through float, which holds every value of every dtype here exactly (int32 up to
 * 2^24).
 */
#ifndef QG_NUM_TENSOR_H
#define QG_NUM_TENSOR_H

#include "schemes/num/bf16.h"
#include "schemes/num/fp16.h"
#include "schemes/num/fp8.h"
#include "schemes/num/mx.h"
#include "schemes/num/round.h"

#define QG_MAX_RANK 4

enum qg_dtype {
    QG_F32,
    QG_BF16,
    QG_F16,
    QG_E4M3,
    QG_E5M2,
    QG_E8M0,
    QG_I8,
    QG_U8,
    QG_I16,
    QG_I32,
    QG_DTYPE_COUNT,
    QG_INPUT /* in tables only: the dtype of the tensor that is quantized */
};

struct qg_tensor {
    const char *name; /* as spelt in files: "x", "codes"; static or outlives the view */
    enum qg_dtype dtype;
    int rank;
    size_t shape[QG_MAX_RANK];
    void *data;
};

/* Bytes per element. */
QG_FN size_t qg_dtype_bytes(enum qg_dtype t)
{
    return t == QG_F32 || t == QG_I32 ? 4 : t == QG_BF16 || t == QG_F16 || t == QG_I16 ? 2 : 1;
}

/* Number of elements; 1 for rank 0. The creator of the view has checked that this does not wrap. */
QG_FN size_t qg_count(const struct qg_tensor *t)
{
    size_t n = 1;
    for (int d = 0; d < t->rank; d++)
        n *= t->shape[d];
    return n;
}

QG_FN size_t qg_bytes(const struct qg_tensor *t)
{
    return qg_count(t) * qg_dtype_bytes(t->dtype);
}

/* Of F32, BF16 and F16: the smallest positive normal number, and the stored bits of the mantissa.
 */
QG_FN float qg_smallest_normal(enum qg_dtype t)
{
    return t == QG_F16 ? 0x1p-14f : 0x1p-126f;
}

QG_FN int qg_mantissa_bits(enum qg_dtype t)
{
    return t == QG_BF16 ? 7 : t == QG_F16 ? 10 : 23;
}

/* x rounded to a floating dtype and back: R_t(x), to nearest even. For F32 it is x itself. */
QG_FN float qg_round(enum qg_dtype t, float x)
{
    if (t == QG_BF16) {
        qg_bf16 q = qg_bf16_encode(x);
#ifdef QG_NUDGE
        q.v = qg_nudge_code(q.v, qg_bf16_decode(q), x);
#endif
        return qg_bf16_decode(q);
    }
    if (t == QG_F16) {
        qg_fp16 q = qg_fp16_encode(x);
#ifdef QG_NUDGE
        q.v = qg_nudge_code(q.v, qg_fp16_decode(q), x);
#endif
        return qg_fp16_decode(q);
    }
    if (t == QG_E4M3)
        return qg_e4m3_decode(qg_e4m3_encode(x));
    if (t == QG_E5M2)
        return qg_e5m2_decode(qg_e5m2_encode(x));
    return x;
}

/* Element i, exactly (int32 beyond 2^24: rounded; words of packed codes are read as words). */
QG_FN float qg_get(const struct qg_tensor *t, size_t i)
{
    switch (t->dtype) {
    case QG_F32:
        return ((const float *)t->data)[i];
    case QG_BF16:
        return qg_bf16_decode(((const qg_bf16 *)t->data)[i]);
    case QG_F16:
        return qg_fp16_decode(((const qg_fp16 *)t->data)[i]);
    case QG_E4M3:
        return qg_e4m3_decode(((const qg_e4m3 *)t->data)[i]);
    case QG_E5M2:
        return qg_e5m2_decode(((const qg_e5m2 *)t->data)[i]);
    case QG_E8M0:
        return qg_e8m0_decode(((const qg_e8m0 *)t->data)[i]);
    case QG_I8:
        return ((const int8_t *)t->data)[i];
    case QG_I16:
        return ((const int16_t *)t->data)[i];
    case QG_I32:
        return (float)((const int32_t *)t->data)[i];
    default:
        return ((const uint8_t *)t->data)[i];
    }
}

/* Stores x as element i, rounded once to the tensor's dtype. For integer dtypes x must be an
 * integer in range; a NaN is stored as 0, which is what x86 and CUDA make of the cast. For E8M0 x
 * must be a power of two in range, or NaN. */
QG_FN void qg_put(const struct qg_tensor *t, size_t i, float x)
{
    switch (t->dtype) {
    case QG_F32:
        ((float *)t->data)[i] = x;
        break;
    case QG_BF16:
        ((qg_bf16 *)t->data)[i] = qg_bf16_encode(x);
        break;
    case QG_F16:
        ((qg_fp16 *)t->data)[i] = qg_fp16_encode(x);
        break;
    case QG_E4M3:
        ((qg_e4m3 *)t->data)[i] = qg_e4m3_encode(x);
        break;
    case QG_E5M2:
        ((qg_e5m2 *)t->data)[i] = qg_e5m2_encode(x);
        break;
    case QG_E8M0:
        ((qg_e8m0 *)t->data)[i] = qg_e8m0_encode(x);
        break;
    case QG_I8:
        ((int8_t *)t->data)[i] = (int8_t)(x == x ? x : 0);
        break;
    case QG_I16:
        ((int16_t *)t->data)[i] = (int16_t)(x == x ? x : 0);
        break;
    case QG_I32:
        ((int32_t *)t->data)[i] = (int32_t)(x == x ? x : 0);
        break;
    default:
        ((uint8_t *)t->data)[i] = (uint8_t)(x == x ? x : 0);
    }
}

#endif
