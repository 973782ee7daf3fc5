/* SPDX-License-Identifier: MIT */
#include "harness/lm/score.h"

#include <gsl/gsl_cdf.h>
#include <gsl/gsl_sort.h>
#include <gsl/gsl_statistics_double.h>
#include <math.h>
#include <stdlib.h>

/* ln of the sum of exp(l[i]), and the first largest. */
static double log_sum(const float *l, size_t n, size_t *ret_top)
{
    size_t top = 0;
    double sum = 0;
    for (size_t i = 1; i < n; i++)
        if (l[i] > l[top])
            top = i;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)l[i] - (double)l[top]);
    *ret_top = top;
    return (double)l[top] + log(sum);
}

void qg_score_token(const float *base, const float *candidate, size_t n, uint32_t target,
                    struct qg_score *ret_s)
{
    size_t top, other;
    double of_base = log_sum(base, n, &top), of_candidate = log_sum(candidate, n, &other), kl = 0;
    for (size_t i = 0; i < n; i++) {
        double p = (double)base[i] - of_base, q = (double)candidate[i] - of_candidate;
        kl += exp(p) * (p - q);
    }
    double p = (double)base[target] - of_base, q = (double)candidate[target] - of_candidate;
    *ret_s = (struct qg_score){
        .base = -p, .nll = -q, .kl = kl, .change = exp(q) - exp(p), .same = top == other};
}

/* Bell and McCaffrey's degrees of freedom, (tr G)^2 / tr G^2 with G = A^1/2 (I - H) W (I - H)'
 * A^1/2, A = diag 1 / (1 - h), H = h 1', W = diag h^2; multiplied out, so that m clusters take m
 * steps. */
static double degrees_of_freedom(const double *n, double all, size_t m)
{
    double w = 0, trace = 0, square = 0, p = 0, q = 0, t = 0;
    for (size_t j = 0; j < m; j++)
        w += n[j] / all * (n[j] / all);
    for (size_t j = 0; j < m; j++) {
        double h = n[j] / all, a = 1 / (1 - h), h2 = h * h;
        double off = w * h2 - 2 * h2 * h; // what stands on the diagonal beside h^2
        trace += a * (h2 + off);
        square += a * a * (h2 * h2 + 2 * h2 * off);
        p += a * h2;
        t += a * h2 * h;
        q += a * h2 * h2;
    }
    square += 2 * p * q + w * w * p * p + 2 * t * t - 4 * w * p * t;
    return trace * trace / square;
}

struct qg_estimate qg_estimate_ratio(const double *sum, const double *n, size_t m, double level)
{
    double all = 0, total = 0, v = 0;
    for (size_t j = 0; j < m; j++) {
        total += sum[j];
        all += n[j];
    }
    struct qg_estimate e = {.value = total / all, .low = (double)NAN, .high = (double)NAN};
    if (m < 2)
        return e;
    for (size_t j = 0; j < m; j++) {
        double residual = sum[j] / all - e.value * (n[j] / all);
        v += residual * residual / (1 - n[j] / all);
    }
    double wide = gsl_cdf_tdist_Pinv(0.5 + level / 2, degrees_of_freedom(n, all, m)) * sqrt(v);
    e.low = e.value - wide;
    e.high = e.value + wide;
    return e;
}

/* The mean of one number of every score. */
static struct qg_estimate estimate(const struct qg_score *s, const uint32_t *cluster, size_t n,
                                   size_t m, double level, double (*of)(const struct qg_score *),
                                   double *sum, double *count)
{
    for (size_t j = 0; j < m; j++)
        sum[j] = count[j] = 0;
    for (size_t i = 0; i < n; i++) {
        sum[cluster[i]] += of(&s[i]);
        count[cluster[i]]++;
    }
    return qg_estimate_ratio(sum, count, m, level);
}

static double base_of(const struct qg_score *s)
{
    return s->base;
}

static double nll_of(const struct qg_score *s)
{
    return s->nll;
}

static double delta_of(const struct qg_score *s)
{
    return s->nll - s->base;
}

static double kl_of(const struct qg_score *s)
{
    return s->kl;
}

static void sum_tails(const struct qg_score *s, size_t n, double *kl, struct qg_quality *q)
{
    double squares = 0;
    for (size_t i = 0; i < n; i++) {
        kl[i] = s[i].kl;
        q->same += s[i].same;
        q->change_mean += s[i].change;
        squares += s[i].change * s[i].change;
    }
    gsl_sort(kl, 1, n);
    q->kl_median = gsl_stats_quantile_from_sorted_data(kl, 1, n, 0.5);
    q->kl_90 = gsl_stats_quantile_from_sorted_data(kl, 1, n, 0.9);
    q->kl_99 = gsl_stats_quantile_from_sorted_data(kl, 1, n, 0.99);
    q->kl_999 = gsl_stats_quantile_from_sorted_data(kl, 1, n, 0.999);
    q->kl_max = kl[n - 1];
    q->same /= (double)n;
    q->change_mean /= (double)n;
    q->change_rms = sqrt(squares / (double)n);
}

enum qg_status qg_score_sum(const struct qg_score *s, const uint32_t *cluster, size_t n, size_t m,
                            double level, struct qg_quality *ret_q, struct qg_error *err)
{
    double *sum = malloc(m * sizeof *sum), *count = malloc(m * sizeof *count),
           *kl = malloc(n * sizeof *kl);
    struct qg_quality q = {.tokens = n, .clusters = m};
    enum qg_status status = QG_OK;
    if (!sum || !count || !kl)
        status = qg_fail(err, QG_ENOMEM, "no memory to sum up %zu tokens", n);
    else {
        q.base = estimate(s, cluster, n, m, level, base_of, sum, count);
        q.nll = estimate(s, cluster, n, m, level, nll_of, sum, count);
        q.delta = estimate(s, cluster, n, m, level, delta_of, sum, count);
        q.kl = estimate(s, cluster, n, m, level, kl_of, sum, count);
        sum_tails(s, n, kl, &q);
        *ret_q = q;
    }
    free(sum);
    free(count);
    free(kl);
    return status;
}

const char *qg_verdict_of_difference(const struct qg_estimate *e)
{
    if (e->value == 0 && e->low == 0 && e->high == 0)
        return "equal";
    return e->low > 0 ? "worse" : e->high < 0 ? "better" : "cannot tell";
}
