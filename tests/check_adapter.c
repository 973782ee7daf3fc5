/* SPDX-License-Identifier: MIT
 *
 * Reading peft's adapters: pairs with their scales, and a sentence for all that is no such thing.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "harness/adapter.h"
#include "harness/io/safetensors.h"
#include "tests/folder.h"
#include "tests/suite.h"

#define CONFIG "adapter_config.json"
#define MODEL  "adapter_model.safetensors"

static void leave(void)
{
    leave_without((const char *const[]){CONFIG, MODEL, NULL});
}

static void put_config(const char *text)
{
    put_text(CONFIG, text);
}

#define NAME(module, part) "base_model.model." module "." part
#define PLAIN              "\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 8"

static float ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static struct qg_tensor of(const char *name, size_t rows, size_t cols)
{
    return (struct qg_tensor){name, QG_F32, cols ? 2 : 1, {rows, cols}, ones};
}

static void put_model(const struct qg_tensor *t, size_t n)
{
    struct qg_error err;
    ck_assert_int_eq(qg_safetensors_write(at(MODEL), t, n, true, &err), QG_OK);
}

/* The usual adapter: pairs of q [3,4] and of mlp.up [5,4], rank 2. */
static void put_usual(void)
{
    struct qg_tensor t[] = {
        of(NAME("q", "lora_A.weight"), 2, 4), of(NAME("q", "lora_B.weight"), 3, 2),
        of(NAME("mlp.up", "lora_A.weight"), 2, 4), of(NAME("mlp.up", "lora_B.weight"), 5, 2)};
    put_model(t, 4);
}

static void expect_scales(const char *text, double q, double up)
{
    struct qg_adapter a;
    struct qg_error err = {QG_OK, ""};
    put_config(text);
    ck_assert_msg(qg_adapter_open(folder, &a, &err) == QG_OK, "%s", err.message);
    ck_assert_uint_eq(a.n, 2);
    ck_assert_str_eq(a.pair[0].module, "mlp.up");
    ck_assert_str_eq(a.pair[1].module, "q");
    ck_assert_uint_eq(a.pair[1].b.shape[0], 3);
    ck_assert_double_eq(a.pair[0].scale, up);
    ck_assert_double_eq(a.pair[1].scale, q);
    qg_adapter_close(&a);
    ck_assert_ptr_null(a.pair);
}

static void expect_refusal(enum qg_status status, const char *words)
{
    struct qg_adapter a;
    struct qg_error err = {QG_OK, ""};
    ck_assert_msg(qg_adapter_open(folder, &a, &err) != QG_OK, "accepted: '%s'", words);
    ck_assert_msg(strstr(err.message, words) != NULL, "'%s' lacks '%s'", err.message, words);
    ck_assert_int_eq(err.status, status);
    ck_assert_ptr_null(a.pair);
}

START_TEST(scales)
{
    enter();
    put_usual();
    expect_scales("{" PLAIN "}", 4, 4);
    expect_scales("{" PLAIN ", \"use_rslora\": true}", 8 / sqrt(2), 8 / sqrt(2));
    expect_scales("{" PLAIN ", \"alpha_pattern\": {\"up\": 3, \"mlp.up\": 5}}", 4, 1.5);
    expect_scales("{" PLAIN ", \"alpha_pattern\": {\"p\": 3, \"q|x\": 5}}", 2.5, 4);
    expect_scales("{\"peft_type\": \"LORA\", \"r\": 7, \"lora_alpha\": 8, \"rank_pattern\": "
                  "{\"(mlp.up|q)\": 2}, \"modules_to_save\": null, \"bias\": \"none\", "
                  "\"lora_bias\": false, \"init_lora_weights\": \"gaussian\", "
                  "\"target_parameters\": []}",
                  4, 4);
    leave();
}
END_TEST

START_TEST(configurations)
{
    static const struct {
        const char *text, *words;
        enum qg_status status;
    } bad[] = {
        {"{\"r\": 2}", "\"peft_type\" (a word) is missing", QG_EFORMAT},
        {"{\"peft_type\": \"IA3\"}", "peft_type is 'IA3': only LORA", QG_EINVAL},
        {"{" PLAIN ", \"modules_to_save\": [\"lm_head\"]}", "\"modules_to_save\" is set",
         QG_EINVAL},
        {"{" PLAIN ", \"bias\": \"all\"}", "\"bias\" is set", QG_EINVAL},
        {"{" PLAIN ", \"lora_bias\": true}", "\"lora_bias\" is set", QG_EINVAL},
        {"{" PLAIN ", \"init_lora_weights\": \"pissa_niter_4\"}", "changed the base", QG_EINVAL},
        {"{\"peft_type\": \"LORA\", \"r\": 2}", "\"lora_alpha\" (a number) is missing", QG_EFORMAT},
        {"{\"peft_type\": \"LORA\", \"r\": 0, \"lora_alpha\": 1}", "give no scale", QG_EFORMAT},
        {"{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 1}", "has rank 2, but", QG_EFORMAT},
        {"{" PLAIN ", \"use_dora\": true}", "has no lora_magnitude_vector", QG_EFORMAT},
        {"{" PLAIN ", \"alpha_pattern\": {\"(\": 1}}", "pattern: ", QG_EINVAL},
        {"{" PLAIN ", \"alpha_pattern\": {\"q\": \"x\"}}", "not for a number", QG_EFORMAT},
        {"{" PLAIN, "not JSON", QG_EFORMAT},
    };
    enter();
    put_usual();
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        put_config(bad[i].text);
        expect_refusal(bad[i].status, bad[i].words);
    }
    unlink(at(CONFIG));
    expect_refusal(QG_EIO, "adapter_config.json");
    leave();
}
END_TEST

START_TEST(tensors)
{
    struct qg_tensor a = of(NAME("q", "lora_A.weight"), 2, 4),
                     b = of(NAME("q", "lora_B.weight"), 3, 2);
    float broken[8] = {NAN};
    struct qg_tensor half[] = {a}, shapes[] = {a, of(b.name, 3, 1)}, nan[] = {a, b},
                     extra[] = {a, b, of("base_model.model.q.bias", 3, 0)},
                     embedding[] = {a, b, of(NAME("e", "lora_embedding_A"), 2, 4)},
                     vector[] = {of(a.name, 4, 0), b}, word[] = {a, b},
                     foreign[] = {of("q.lora_A.weight", 2, 4), b};
    enter();
    put_config("{" PLAIN "}");
    expect_refusal(QG_EIO, "adapter_model.safetensors");
    put_model(half, 1);
    expect_refusal(QG_EFORMAT, "lora_B of 'q' is missing");
    put_model(shapes, 2);
    expect_refusal(QG_EFORMAT, "lora_A [2,4] and lora_B [3,1] of 'q' do not fit together");
    nan[0].data = broken;
    put_model(nan, 2);
    expect_refusal(QG_EFORMAT, "lora_A.weight' holds NaN or inf");
    put_model(extra, 3);
    expect_refusal(QG_EFORMAT, "'base_model.model.q.bias' is no lora_A");
    put_model(embedding, 3);
    expect_refusal(QG_EFORMAT, "lora_embedding_A' is no lora_A");
    put_model(vector, 2);
    expect_refusal(QG_EFORMAT, "is not a matrix of F32");
    word[1].dtype = QG_U8;
    put_model(word, 2);
    expect_refusal(QG_EFORMAT, "lora_B.weight' is not a matrix of F32");
    put_model(foreign, 2);
    expect_refusal(QG_EFORMAT, "'q.lora_A.weight' is no lora_A");
    put_model(NULL, 0);
    expect_refusal(QG_EFORMAT, "it holds no tensor");
    leave();
}
END_TEST

START_TEST(dora)
{
    struct qg_tensor t[] = {of(NAME("q", "lora_A.weight"), 2, 4),
                            of(NAME("q", "lora_B.weight"), 3, 2),
                            of(NAME("q", "lora_magnitude_vector"), 3, 0)};
    struct qg_adapter a;
    struct qg_error err = {QG_OK, ""};
    enter();
    put_model(t, 3);
    put_config("{" PLAIN ", \"use_dora\": true, \"fan_in_fan_out\": true}");
    ck_assert_msg(qg_adapter_open(folder, &a, &err) == QG_OK, "%s", err.message);
    ck_assert(a.dora && a.fan_in_fan_out && a.n == 1);
    ck_assert_uint_eq(a.pair[0].m.shape[0], 3);
    qg_adapter_close(&a);
    put_config("{" PLAIN "}");
    expect_refusal(QG_EFORMAT, "use_dora is false, but 'q' has a lora_magnitude_vector");
    t[2].shape[0] = 4;
    put_model(t, 3);
    put_config("{" PLAIN ", \"use_dora\": true}");
    expect_refusal(QG_EFORMAT, "has 4 elements, not 3");
    leave();
}
END_TEST

QG_SUITE(adapter, scales, configurations, tensors, dora)
