/* SPDX-License-Identifier: MIT
 *
 * A text as tokens: what a perplexity is taken over. A file holds token ids, or, for a model whose
 * 256 tokens are the bytes, the text itself:
 *
 *     a file that numpy.save wrote: one dimension of u1, u2, u4, i4 or i8, little-endian
 *     NAME.u16, NAME.u32            little-endian numbers and nothing else
 *     any other file, vocab 256     one token per byte
 *
 * Stretches between separators are documents; empty ones do not count.
 */
#ifndef QG_TOKENS_H
#define QG_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "harness/base/error.h"

/* Tokens id[first] .. id[first + n). id[first - 1] stands before them: the separator, or, without
 * one, the first token of the file, which is not scored. */
struct qg_document {
    size_t first, n;
    uint64_t bytes, words; /* of a text; see qg_words */
};

struct qg_tokens {
    uint32_t *id; /* every document behind its separator, and nothing between */
    size_t n;
    struct qg_document *document;
    size_t n_documents;
    bool text; /* bytes and words are known */
};

/* Reads a file whole. `separator` NULL: one document. `most` documents are kept (0: all).
 * QG_EFORMAT with the place: a token that the vocabulary of `vocab` tokens has not (its index), a
 * NumPy array of another kind, bytes behind the last whole number, nothing but separators, ids for
 * a model that is not of bytes in a file that does not say how they are stored. The caller frees,
 * also after a failure. */
QG_MUST_CHECK enum qg_status qg_tokens_read(const char *path, size_t vocab,
                                            const uint32_t *separator, size_t most,
                                            struct qg_tokens *ret_t, struct qg_error *err);
void qg_tokens_free(struct qg_tokens *t);

/* Words of a text in UTF-8 as lm-evaluation-harness counts them: len(re.split(r"\s+", text)), so
 * that space at an end has an empty word behind it (lm_eval:tasks/wikitext/preprocess_wikitext.py,
 * process_results). */
uint64_t qg_words(const uint8_t *text, size_t n);

#endif
