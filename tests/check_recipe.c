/* SPDX-License-Identifier: MIT
 *
 * Recipes: what kind of layer a name means, what a recipe refuses of itself and of a model, and the
 * plan that it makes.
 */
#define _DEFAULT_SOURCE /* mkdtemp */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/io/gguf.h"
#include "harness/io/safetensors.h"
#include "harness/io/writer.h"
#include "harness/recipe/agree.h"
#include "tests/folder.h"
#include "tests/suite.h"

static struct qg_error err;
static char sentences[8192]; /* refusals, a line each */

static void leave(void)
{
    leave_without(
        (const char *const[]){"model.safetensors", "config.json", "r.yaml", "m.gguf", NULL});
}

/* A model of bf16 tensors of zeros, "NAME 4x32, NAME 7, ...", and its config.json, "" for none. */
static struct qg_model *make_model(const char *tensors, const char *config)
{
    static char names[16][64];
    static unsigned short zeros[1 << 17];
    struct qg_tensor t[16];
    struct qg_model *m;
    size_t n = 0, dim[3];
    int length;
    for (const char *p = tensors; *p; p += strspn(p, ", ")) {
        ck_assert_uint_lt(n, 16);
        ck_assert_int_eq(sscanf(p, "%63s %n", names[n], &length), 1);
        p += length;
        int rank = sscanf(p, "%zux%zux%zu", &dim[0], &dim[1], &dim[2]);
        t[n] = (struct qg_tensor){.name = names[n], .dtype = QG_BF16, .rank = rank, .data = zeros};
        memcpy(t[n].shape, dim, sizeof dim);
        ck_assert_uint_le(qg_bytes(&t[n]), sizeof zeros);
        n++;
        p += strcspn(p, ",");
    }
    ck_assert_int_eq(qg_safetensors_write(at("model.safetensors"), t, n, true, &err), QG_OK);
    unlink(at("config.json"));
    if (config[0])
        put_text("config.json", config);
    ck_assert_msg(qg_model_open(folder, &m, &err) == QG_OK, "%s", err.message);
    return m;
}

static struct qg_recipe *open_text(const char *text)
{
    struct qg_recipe *r;
    put_text("r.yaml", text);
    err.message[0] = '\0';
    return qg_recipe_open(at("r.yaml"), &r, &err) == QG_OK ? r : NULL;
}

static void note(const char *sentence, void *user)
{
    (void)user;
    size_t n = strlen(sentences);
    snprintf(sentences + n, sizeof sentences - n, "%s\n", sentence);
}

static enum qg_status apply(const struct qg_recipe *r, const struct qg_model *m,
                            struct qg_recipe_plan *p)
{
    sentences[0] = '\0';
    return qg_recipe_apply(r, m, note, NULL, p, &err);
}

#define HEAD "name: t\nsummary: s\nsource: none\n"

/* --- kinds ----------------------------------------------------------------------------------- */

START_TEST(test_kinds)
{
    static const struct {
        const char *name, *model_type;
        int rank;
        enum qg_layer_kind kind;
    } all[] = {
        {"embeddings.word_embeddings.weight", "bert", 2, QG_LAYER_EMBEDDING},
        {"embeddings.position_embeddings.weight", "bert", 2, QG_LAYER_EMBEDDING},
        {"embeddings.token_type_embeddings.weight", "bert", 2, QG_LAYER_EMBEDDING},
        {"embeddings.LayerNorm.weight", "bert", 1, QG_LAYER_NORM},
        {"embeddings.LayerNorm.bias", "bert", 1, QG_LAYER_BIAS},
        {"encoder.layer.0.attention.self.query.weight", "bert", 2, QG_LAYER_LINEAR},
        {"pooler.dense.weight", "bert", 2, QG_LAYER_LINEAR},
        {"cls.predictions.decoder.weight", "bert", 2, QG_LAYER_HEAD},
        {"transformer.wte.weight", "gpt2", 2, QG_LAYER_EMBEDDING},
        {"wpe.weight", NULL, 2, QG_LAYER_EMBEDDING},
        {"h.0.ln_1.weight", "gpt2", 1, QG_LAYER_NORM},
        {"h.0.attn.c_attn.weight", "gpt2", 2, QG_LAYER_OTHER},
        {"transformer.h.11.mlp.c_fc.weight", NULL, 2, QG_LAYER_OTHER},
        {"transformer.h.11.mlp.c_fc.weight", "gpt_bigcode", 2, QG_LAYER_LINEAR},
        {"model.embed_tokens.weight", "llama", 2, QG_LAYER_EMBEDDING},
        {"model.layers.0.self_attn.q_proj.weight", "llama", 2, QG_LAYER_LINEAR},
        {"model.layers.0.self_attn.q_norm.weight", "qwen3", 1, QG_LAYER_NORM},
        {"model.layers.0.mlp.gate_proj.weight", "gemma", 2, QG_LAYER_LINEAR},
        {"model.norm.weight", "mistral", 1, QG_LAYER_NORM},
        {"lm_head.weight", "llama", 2, QG_LAYER_HEAD},
        {"model.layers.0.block_sparse_moe.experts.3.w1.weight", "mixtral", 2, QG_LAYER_EXPERTS},
        {"model.layers.0.block_sparse_moe.gate.weight", "mixtral", 2, QG_LAYER_ROUTER},
        {"model.layers.0.mlp.experts.12.gate_proj.weight", "qwen3_moe", 2, QG_LAYER_EXPERTS},
        {"model.layers.0.mlp.gate.weight", "qwen3_moe", 2, QG_LAYER_ROUTER},
        {"model.layers.0.mlp.shared_expert_gate.weight", "qwen2_moe", 2, QG_LAYER_ROUTER},
        {"model.layers.0.mlp.shared_expert.up_proj.weight", "qwen2_moe", 2, QG_LAYER_LINEAR},
        {"model.layers.0.mlp.experts.gate_up_proj", "qwen3_moe", 3, QG_LAYER_EXPERTS},
        {"model.layers.0.mlp.experts.gate_up_proj", "gpt_oss", 3, QG_LAYER_OTHER},
        {"model.layers.0.mlp.experts.gate_up_proj_bias", "gpt_oss", 2, QG_LAYER_BIAS},
        {"model.layers.0.mlp.router.weight", "gpt_oss", 2, QG_LAYER_ROUTER},
        {"token_embd.weight", NULL, 2, QG_LAYER_EMBEDDING},
        {"output.weight", NULL, 2, QG_LAYER_HEAD},
        {"output_norm.weight", NULL, 1, QG_LAYER_NORM},
        {"blk.0.attn_output.weight", NULL, 2, QG_LAYER_LINEAR},
        {"blk.0.ffn_gate_exps.weight", NULL, 3, QG_LAYER_EXPERTS},
        {"blk.0.ffn_gate_inp.weight", NULL, 2, QG_LAYER_ROUTER},
        {"blk.0.ffn_gate_shexp.weight", NULL, 2, QG_LAYER_LINEAR},
        {"vision.patch_embedding.weight", NULL, 4, QG_LAYER_OTHER},
        {"model.layers.0.mixer.A_log", NULL, 2, QG_LAYER_OTHER},
    };
    struct qg_kinds *k;
    const char *why;
    ck_assert_int_eq(qg_kinds_create(&k, &err), QG_OK);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const struct qg_tensor t = {all[i].name, QG_BF16, all[i].rank, {2, 2, 2, 2}, NULL};
        enum qg_layer_kind kind = qg_layer_kind(k, all[i].model_type, &t, &why);
        ck_assert_msg(kind == all[i].kind, "%s is %s", all[i].name, qg_layer_kind_name(kind));
        ck_assert_msg(!why || kind == QG_LAYER_OTHER, "%s: %s", all[i].name, why);
    }
    qg_kinds_free(&k);
    qg_kinds_free(&k);
}
END_TEST

/* --- a recipe by itself ---------------------------------------------------------------------- */

START_TEST(test_mistakes)
{
    static const char *const bad[][2] = {
        {"", "the file is empty"},
        {HEAD, "r.yaml': the key 'rules' is missing"},
        {HEAD "rulez: []\n", "line 4: there is no key 'rulez' here; there are: name, summary"},
        {HEAD "rules:\n  - scheme: int4\n    sett: x\n",
         "line 6: there is no key 'sett' here; there are: about, match"},
        {HEAD "rules:\n  - match:\n      nam: x\n    scheme: int4\n",
         "line 6: there is no key 'nam' here; there are: name, kind"},
        {HEAD "rules:\n  - scheme: int5\n",
         "line 5: scheme: there is no 'int5' (did you mean 'int4'?); there are: none, fp8-int4"},
        {HEAD "rules:\n  - match: {kind: [layer]}\n    scheme: int4\n",
         "kind: there is no 'layer'; there are: linear, head, embedding, experts, router"},
        {HEAD "training: never\nrules:\n  - scheme: int4\n",
         "line 4: training: there is no 'never'; there are: qat"},
        {HEAD "rules:\n  - scheme: int4\n    on-indivisible: drop\n",
         "on-indivisible: there is no 'drop'"},
        {HEAD "rules:\n  - set: group=32\n", "entry 1 of rules: the key 'scheme' is missing"},
        {HEAD "rules:\n  - scheme: int4\n  - about: x\n    match: {name: mlp}\n",
         "entry 2 of rules: the key 'scheme' is missing"},
        {"summary: s\nrules:\n  - scheme: int4\n", "the key 'name' is missing"},
        {HEAD "rules:\n  - scheme: int4\n    match: {kind: [linaer]}\n",
         "line 6: kind: there is no 'linaer' (did you mean 'linear'?)"},
        {HEAD "rules:\n  - scheme: mxfp6\n", "(did you mean 'mxfp6-e2m3'?)"},
        {HEAD "rules:\n  - scheme:\n", "line 5: scheme has no value"},
        {HEAD "rules:\n  - scheme: [int4]\n", "line 5: scheme takes one value, not a list"},
        {HEAD "rules:\n  - scheme: int4\n    match: {kind: linear}\n",
         "line 6: kind takes a list: [one, two]"},
        {HEAD "rules:\n  - scheme: int4\n    match: mlp\n",
         "line 6: match takes keys, each with a value ('key: value'); there are: name, kind"},
        {HEAD "rules:\n  - scheme: int4\n    match: {min-cols: x}\n",
         "min-cols takes a whole number, not 'x'"},
        {HEAD "rules:\n  - scheme: int4\n    scheme: int8\n",
         "the key 'scheme' stands there twice"},
        {HEAD "rules: []\n", "rules has 0 entries; it needs 1 at least"},
        {HEAD "rules:\n\t- scheme: int4\n", "(a tab? YAML indents with spaces)"},
        {HEAD "rules:\n  - scheme: int4\n\tset: group=32\n", "(YAML indents with spaces)"},
        {"\x7f"
         "ELF\n",
         "r.yaml': control characters are not allowed (is it a text file?)"},
        {"words\n", "r.yaml': it takes keys, each with a value ('key: value'); there are: name"},
        {HEAD "rules:\n  - scheme: int4\n    set: group=64 group=32\n",
         "rule 1: parameter 'group' is given twice"},
        {HEAD "rules:\n  - scheme: int4\n    set: group=7\n", "rule 1: parameter 'group'"},
        {HEAD "rules:\n  - match: {name: '('}\n    scheme: int4\n",
         "rule 1: '(' is not a regular expression"},
        {HEAD "exclude: ['[']\nrules:\n  - scheme: int4\n", "exclude: '[' is not"},
        {HEAD "rules:\n  - scheme: int4\n  - scheme: int8\n",
         "rules 1 and 2 have no match: two defaults"},
        // What a scheme cannot take.
        {HEAD "rules:\n  - match: {kind: [embedding]}\n    scheme: int4\n",
         "rule 1: 'int4' cannot take an embedding"},
        {HEAD "rules:\n  - scheme: q8_1\n", "rule 1: 'q8_1' cannot take weights"},
        {HEAD "rules:\n  - scheme: int4\n    activation: nf4\n",
         "activation: 'nf4' cannot take activations"},
        {HEAD "rules:\n  - scheme: mxfp4\n    weight-only: yes\n",
         "upstream has no such flavour of 'mxfp4'"},
        {HEAD "rules:\n  - scheme: int4\n    weight-only: no\n",
         "'int4' does not quantize the layer's inputs"},
        {HEAD "rules:\n  - scheme: int8-int4\n    activation: none\n", "activation: none, but"},
        {HEAD "rules:\n  - scheme: q8_0\n", "'q8_0' has no prepare path upstream"},
        // What excludes each other.
        {HEAD "rules:\n  - scheme: int4\n    weight-only: yes\n    activation: int8-int4\n",
         "weight-only: yes and activation exclude each other"},
        {HEAD "training: post-training\nrules:\n  - scheme: int4\n    prepare: {scheme: int4}\n",
         "prepare and training: post-training exclude each other"},
        {HEAD "training: frozen-base\nrules:\n  - scheme: nf4\n    prepare: {scheme: none}\n",
         "prepare and training: frozen-base exclude each other"},
        {HEAD "rules:\n  - scheme: none\n    set: group=32\n", "scheme: none and set exclude"},
        {HEAD "rules:\n  - scheme: none\n    on-indivisible: skip\n",
         "scheme: none and on-indivisible exclude"},
        {HEAD "rules:\n  - scheme: int4\n    prepare: {set: group=32}\n",
         "prepare names no scheme"},
        {HEAD "rules:\n  - scheme: int4\n    prepare: {scheme: none, set: group=32}\n",
         "prepare: parameters ('group=32') without a scheme"},
        {HEAD "transforms: [untie-head, untie-embeddings]\nrules:\n  - scheme: int4\n",
         "untie-embeddings and untie-head exclude each other"},
        {HEAD "rules:\n  - match: {kind: [embedding]}\n    scheme: int8\n    activation: "
              "int8-int4\n",
         "activation on an embedding"},
    };
    enter();
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct qg_recipe *r = open_text(bad[i][0]);
        ck_assert_msg(!r, "accepted: %s", bad[i][0]);
        ck_assert_int_eq(err.status, QG_EINVAL);
        ck_assert_msg(strstr(err.message, bad[i][1]) && strstr(err.message, "r.yaml"),
                      "'%s' lacks '%s'", err.message, bad[i][1]);
    }
    struct qg_recipe *r;
    ck_assert_int_eq(qg_recipe_open("unsloth-int5", &r, &err), QG_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "there is no recipe 'unsloth-int5'"));
    ck_assert_ptr_null(r);
    ck_assert_int_eq(qg_recipe_open("/nowhere/r.yaml", &r, &err), QG_EINVAL);
    unlink(at("r.yaml"));
    ck_assert_int_eq(mkfifo(at("r.yaml"), 0600), 0);
    ck_assert_int_eq(qg_recipe_open(at("r.yaml"), &r, &err), QG_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "r.yaml': not a regular file"));
    leave();
}
END_TEST

START_TEST(test_shipped)
{
    for (size_t i = 0; qg_recipe_at(i); i++) {
        struct qg_recipe *r;
        ck_assert_msg(qg_recipe_open(qg_recipe_at(i), &r, &err) == QG_OK, "%s", err.message);
        ck_assert_str_eq(qg_recipe_name(r), qg_recipe_at(i));
        qg_recipe_close(&r);
    }
    ck_assert_ptr_null(qg_recipe_at(1000));
}
END_TEST

/* --- on a model ------------------------------------------------------------------------------ */

#define LAYERS                                                                     \
    "model.embed_tokens.weight 64x128, model.norm.weight 128, model.layers.0.mlp." \
    "up_proj.weight 256x128, model.layers.0.mlp.down_proj.weight 128x256"
#define TIED "{\"model_type\": \"llama\", \"tie_word_embeddings\": true}"

START_TEST(test_refusals)
{
    static const struct {
        const char *recipe, *model, *config, *sentence;
        int n; /* sentences */
    } bad[] = {
        {"rules:\n  - match: {name: up_proj}\n    scheme: int4\n  - match: {kind: [linear]}\n    "
         "scheme: int8\n",
         LAYERS, "",
         "rules 1 and 2, tensor 'model.layers.0.mlp.up_proj.weight': both take it; narrow", 1},
        {"rules:\n  - match: {name: q_proj}\n    scheme: int4\n  - scheme: int8\n", LAYERS, "",
         "rule 1 ('q_proj'): it matched no tensor of the model; correct its match", 1},
        {"overlap: first\nrules:\n  - scheme: int4\n  - match: {kind: [linear]}\n    scheme: "
         "int8\n",
         LAYERS, "",
         "rule 1: of the 2 tensors that it matches 0 are excluded and 2 taken by earlier rules", 1},
        {"exclude: [mlp]\nrules:\n  - match: {name: up_proj}\n    scheme: int4\n", LAYERS, "",
         "rule 1: of the 1 tensors that it matches 1 are excluded", 1},
        {"exclude: [router, norm]\nrules:\n  - scheme: int4\n", LAYERS, "",
         "exclude: 'router' matched no tensor of the model", 1},
        {"rules:\n  - scheme: int4\n    set: group=128\n",
         "a.weight 4x100, b.weight 4x200, c.weight 4x128", "",
         "rule 1, tensor 'b.weight' [4,200]: 'int4': K = 200, group = 128", 2},
        {"rules:\n  - scheme: int4\n    set: group=128\n    on-indivisible: pad\n  - match: {kind: "
         "[embedding]}\n    scheme: int8\n",
         "a.weight 4x100", "", "rule 2: it matched no tensor", 1},
        {"training: post-training\nrules:\n  - scheme: nf4\n    on-indivisible: pad\n",
         "a.weight 3x100", "", "'a.weight' [3,100]: 'nf4': K = 100", 1},
        {"rules:\n  - match: {name: weight}\n    scheme: int4\n", LAYERS, "",
         "tensor 'model.embed_tokens.weight' [64,128]: 'int4': scheme 'int4' has no convert for "
         "embeddings; keep the rule off embeddings (kind), or",
         1},
        {"dtype: f32\nrules:\n  - scheme: int4-tinygemm\n", LAYERS, "",
         "say dtype: bf16, f16 or f32", 2},
        {"rules:\n  - match: {kind: [linear]}\n    scheme: none\n    prepare: {scheme: int4}\n",
         "a.weight 4x100", "", "rule 1, tensor 'a.weight' [4,100]: prepare by 'int4': K = 100", 1},
        {"rules:\n  - scheme: int4\n", LAYERS,
         "{\"quantization_config\": {\"quant_method\": "
         "\"awq\"}}",
         "quantized already (quantization_config of its config.json: awq)", 0},
        {"rules:\n  - match: {kind: [head]}\n    scheme: int4\n", LAYERS, TIED,
         "its head is its embedding table: say transforms: [untie-head]", 1},
    };
    char text[512];
    enter();
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct qg_model *m = make_model(bad[i].model, bad[i].config);
        struct qg_recipe_plan p;
        snprintf(text, sizeof text, HEAD "%s", bad[i].recipe);
        struct qg_recipe *r = open_text(text);
        ck_assert_msg(r, "%s", err.message);
        ck_assert_int_eq(apply(r, m, &p), QG_EINVAL);
        ck_assert_ptr_null(p.of);
        const char *said = bad[i].n ? sentences : err.message;
        ck_assert_msg(strstr(said, bad[i].sentence) && strstr(err.message, "r.yaml"),
                      "'%s' lacks '%s'", said, bad[i].sentence);
        int n = 0;
        for (const char *c = sentences; *c; c++)
            n += *c == '\n';
        ck_assert_msg(n == bad[i].n, "%d sentences:\n%s", n, sentences);
        qg_recipe_close(&r);
        qg_model_close(&m);
    }
    leave();
}
END_TEST

static const struct qg_assignment *find(const struct qg_recipe_plan *p, const char *name)
{
    for (size_t i = 0; i < p->n; i++)
        if (strcmp(p->of[i].name, name) == 0)
            return &p->of[i];
    return NULL;
}

static struct qg_recipe_plan plan_of(const char *recipe, const struct qg_model *m,
                                     struct qg_recipe **ret_r)
{
    struct qg_recipe_plan p;
    if (strchr(recipe, '\n'))
        *ret_r = open_text(recipe);
    else
        ck_assert_int_eq(qg_recipe_open(recipe, ret_r, &err), QG_OK);
    ck_assert_msg(*ret_r, "%s", err.message);
    ck_assert_msg(apply(*ret_r, m, &p) == QG_OK, "%s", err.message);
    return p;
}

START_TEST(test_plan)
{
    enter();
    struct qg_model *m = make_model(LAYERS ", odd.weight 4x200", "");
    struct qg_recipe *r;
    struct qg_recipe_plan p = plan_of("unsloth-int4", m, &r);
    const struct qg_assignment *a = find(&p, "model.layers.0.mlp.up_proj.weight");
    ck_assert_uint_eq(p.n, 5);
    ck_assert_str_eq(a->convert.scheme->name, "int4");
    ck_assert_str_eq(a->convert.params, ""); // the default
    ck_assert_str_eq(a->prepare.scheme->name, "int4");
    ck_assert_ptr_null(a->activation);
    ck_assert_int_eq(a->rule, 0);
    ck_assert_uint_eq(a->bytes, 256 * 64 + 2 * 256 * 2); // nibbles, scales and zeros in bf16
    a = find(&p, "odd.weight");
    ck_assert_ptr_null(a->convert.scheme);
    ck_assert_ptr_null(a->prepare.scheme);
    ck_assert_ptr_nonnull(strstr(a->why, "rule 1 skips it: K = 200"));
    ck_assert_uint_eq(a->bytes, 1600);
    ck_assert_str_eq(find(&p, "model.norm.weight")->why, "kind norm");
    ck_assert_str_eq(find(&p, "model.embed_tokens.weight")->why,
                     "no rule takes it: kind embedding, [64,128]");
    qg_recipe_plan_free(&p);
    qg_recipe_close(&r);

    // Padding appends zero columns to whole groups.
    p = plan_of(HEAD "rules:\n  - scheme: int4\n    on-indivisible: pad\n", m, &r);
    a = find(&p, "odd.weight");
    ck_assert_uint_eq(a->padded, 56);
    ck_assert_uint_eq(a->bytes, 4 * 128 + 2 * 2 * 4 * 2);
    qg_recipe_plan_free(&p);
    qg_recipe_close(&r);

    // What is excluded is left, with the pattern; the first rule wins where the recipe says so.
    p = plan_of(HEAD "overlap: first\nexclude: [down_proj]\nrules:\n  - match: {name: up_proj}\n"
                     "    scheme: int8-int4\n  - match: {kind: [linear]}\n    scheme: int8\n",
                m, &r);
    ck_assert_str_eq(find(&p, "model.layers.0.mlp.down_proj.weight")->why,
                     "excluded by 'down_proj'");
    a = find(&p, "model.layers.0.mlp.up_proj.weight");
    ck_assert_str_eq(a->convert.scheme->name, "int8-int4");
    ck_assert_str_eq(a->activation->name, "int8-int4");
    ck_assert_int_eq(find(&p, "odd.weight")->rule, 1);
    qg_recipe_plan_free(&p);
    qg_recipe_close(&r);

    // weight-only takes the flavour that the scheme has for it.
    p = plan_of("axolotl-torchao-fp8", m, &r);
    ck_assert_str_eq(find(&p, "model.layers.0.mlp.up_proj.weight")->activation->name,
                     "fp8-fp8-tensor");
    ck_assert_ptr_null(find(&p, "model.layers.0.mlp.up_proj.weight")->prepare.scheme);
    qg_recipe_plan_free(&p);
    qg_recipe_close(&r);
    p = plan_of(HEAD "training: post-training\nrules:\n  - match: {name: up_proj}\n    scheme: "
                     "nvfp4\n    weight-only: yes\n",
                m, &r);
    ck_assert_str_eq(find(&p, "model.layers.0.mlp.up_proj.weight")->convert.params,
                     "matmul=weight-only");
    qg_recipe_plan_free(&p);
    qg_recipe_close(&r);
    qg_model_close(&m);
    leave();
}
END_TEST

START_TEST(test_tied)
{
    enter();
    struct qg_model *m = make_model(LAYERS, TIED);
    struct qg_recipe *r;

    // Untied first: the head has a copy of its own and another scheme.
    struct qg_recipe_plan p = plan_of("unsloth-int8-int4", m, &r);
    const struct qg_assignment *head = find(&p, "lm_head.weight");
    ck_assert_uint_eq(p.n, 5);
    ck_assert_ptr_eq(head, &p.of[4]);
    ck_assert_int_eq(head->kind, QG_LAYER_HEAD);
    ck_assert_int_eq(head->operand, QG_WEIGHT);
    ck_assert_str_eq(head->tensor->t.name, "model.embed_tokens.weight");
    ck_assert_str_eq(head->convert.scheme->name, "int8-int4");
    ck_assert_str_eq(find(&p, "model.embed_tokens.weight")->convert.scheme->name, "int8");
    ck_assert_int_eq(find(&p, "model.embed_tokens.weight")->operand, QG_EMBEDDING);
    qg_recipe_plan_free(&p);
    qg_recipe_close(&r);

    // Only where a rule takes the head: this one passes the head by, so the table stays shared.
    p = plan_of(HEAD "transforms: [untie-head]\nrules:\n  - match: {kind: [linear]}\n    scheme: "
                     "int4\n",
                m, &r);
    ck_assert_uint_eq(p.n, 4);
    qg_recipe_plan_free(&p);
    qg_recipe_close(&r);

    // The table that is shared is one tensor; a pattern for the head is no mistake.
    p = plan_of(HEAD "training: post-training\nexclude: [lm_head]\nrules:\n  - match: {kind: "
                     "[embedding, linear]}\n    scheme: q8_0\n    operand: weight\n",
                m, &r);
    ck_assert_uint_eq(p.n, 4);
    ck_assert_int_eq(find(&p, "model.embed_tokens.weight")->operand, QG_WEIGHT);
    ck_assert_uint_eq(find(&p, "model.embed_tokens.weight")->bytes, 64 * 4 * 34);
    qg_recipe_plan_free(&p);
    qg_recipe_close(&r);
    qg_model_close(&m);

    // Not tied: there is nothing to untie, and that is fine.
    m = make_model(LAYERS ", lm_head.weight 64x128", "{\"tie_word_embeddings\": false}");
    p = plan_of("unsloth-int8-int4", m, &r);
    ck_assert_uint_eq(p.n, 5);
    ck_assert_str_eq(find(&p, "lm_head.weight")->convert.scheme->name, "int8-int4");
    qg_recipe_plan_free(&p);
    qg_recipe_close(&r);
    qg_model_close(&m);
    leave();
}
END_TEST

START_TEST(test_experts)
{
    enter();
    struct qg_model *m = make_model("model.layers.0.mlp.experts.gate_up_proj 4x32x64, "
                                    "model.layers.0.mlp.gate.weight 4x64, lm_head.weight 8x64, "
                                    "model.layers.0.self_attn.q_proj.weight 64x64",
                                    "{\"model_type\": \"qwen3_moe\"}");
    struct qg_recipe *r;
    struct qg_recipe_plan p = plan_of("quark-mxfp4-experts", m, &r);
    const struct qg_assignment *a = find(&p, "model.layers.0.mlp.experts.gate_up_proj");
    ck_assert_str_eq(a->convert.scheme->name, "mxfp4");
    ck_assert_str_eq(a->convert.params, "scale=even");
    ck_assert_uint_eq(a->rows, 128);
    ck_assert_uint_eq(a->cols, 64);
    ck_assert_uint_eq(a->bytes, 128 * 32 + 128 * 2);
    for (size_t i = 0; i < p.n; i++)
        ck_assert(&p.of[i] == a || strncmp(p.of[i].why, "excluded by", 11) == 0);
    qg_recipe_plan_free(&p);
    qg_recipe_close(&r);
    qg_model_close(&m);
    leave();
}
END_TEST

/* A GGUF file without a head: a table in F32, a matrix in F16 and one in Q8_0. */
static struct qg_model *make_gguf(void)
{
    static const char zeros[64 * 256 * 4];
    static const size_t wide[] = {64, 256}, tall[] = {256, 64};
    struct qg_stored t[] = {{"token_embd.weight", "F32", 2, wide, sizeof zeros, 0},
                            {"blk.0.ffn_down.weight", "F16", 2, tall, sizeof zeros / 2, 0},
                            {"blk.0.ffn_up.weight", "Q8_0", 2, wide, 64 * 256 / 32 * 34, 0}};
    struct qg_gguf_meta *meta = qg_gguf_meta_new();
    struct qg_writer *w = NULL;
    struct qg_model *m;
    ck_assert_int_eq(qg_gguf_meta_string(meta, "general.architecture", "llama", &err), QG_OK);
    ck_assert_msg(qg_gguf_create(at("m.gguf"), t, 3, meta, 0, &w, &err) == QG_OK, "%s",
                  err.message);
    for (size_t i = 0; i < 3; i++)
        ck_assert_int_eq(qg_writer_put(w, i, 0, zeros, t[i].bytes, &err), QG_OK);
    ck_assert_int_eq(qg_writer_finish(w, &err), QG_OK);
    qg_writer_close(&w, false);
    qg_gguf_meta_free(&meta);
    ck_assert_msg(qg_model_open(at("m.gguf"), &m, &err) == QG_OK, "%s", err.message);
    return m;
}

START_TEST(test_gguf)
{
    struct qg_recipe *r;
    struct qg_recipe_plan p;
    enter();
    struct qg_model *m = make_gguf();
    ck_assert_int_eq(qg_recipe_open("gguf-q8_0", &r, &err), QG_OK);
    ck_assert_int_eq(apply(r, m, &p), QG_EINVAL);
    ck_assert_msg(strstr(sentences, "1 tensors are quantized already, the first is "
                                    "'blk.0.ffn_up.weight': quantizing them again adds error"),
                  "%s", sentences);
    qg_recipe_close(&r);

    // What the recipe leaves may be quantized, and it may say that the rest may be, too.
    p = plan_of(HEAD "training: post-training\nrules:\n  - match: {name: ffn_down}\n    scheme: "
                     "q4_0\n",
                m, &r);
    ck_assert_uint_eq(find(&p, "blk.0.ffn_up.weight")->bytes, 64 * 8 * 34);
    qg_recipe_plan_free(&p);
    qg_recipe_close(&r);
    p = plan_of(HEAD "training: post-training\nrequantize: yes\ntransforms: [untie-embeddings]\n"
                     "rules:\n  - match: {kind: [linear, head]}\n    scheme: q4_K\n    "
                     "on-indivisible: skip\n",
                m, &r);
    const struct qg_assignment *a = find(&p, "blk.0.ffn_up.weight");
    ck_assert_str_eq(a->convert.scheme->name, "q4_K");
    ck_assert_int_eq(a->dtype, QG_F32);
    ck_assert_uint_eq(a->bytes, 64 * 144);
    ck_assert_str_eq(find(&p, "output.weight")->tensor->t.name, "token_embd.weight");
    qg_recipe_plan_free(&p);
    qg_recipe_close(&r);
    qg_model_close(&m);
    leave();
}
END_TEST

/* --- prepare and convert --------------------------------------------------------------------- */

static struct qg_agreement agreed[8];
static size_t n_agreed;

static void keep(const struct qg_agreement *a, void *user)
{
    (void)user;
    ck_assert_uint_lt(n_agreed, 8);
    agreed[n_agreed++] = *a;
}

/* A model of one tensor of numbers that differ, large enough for several pieces. */
static struct qg_model *make_ramp(void)
{
    static unsigned short data[1024 * 512];
    struct qg_model *m;
    struct qg_tensor t = {"a.weight", QG_BF16, 2, {1024, 512}, data};
    for (size_t i = 0; i < qg_count(&t); i++)
        qg_put(&t, i, (float)((int)(i * 2654435761u >> 20 & 0xfff) - 2048) / 1e5f);
    ck_assert_int_eq(qg_safetensors_write(at("model.safetensors"), &t, 1, true, &err), QG_OK);
    ck_assert_msg(qg_model_open(folder, &m, &err) == QG_OK, "%s", err.message);
    return m;
}

START_TEST(test_agree)
{
    // Pieces and threads change nothing; whole and in pieces are the same sums.
    static const char *const schemes[] = {"int4", "fp8-int4", "int8-int4", "fp8-fp8-tensor"};
    char text[256];
    enter();
    struct qg_model *m = make_ramp();
    for (size_t s = 0; s < sizeof schemes / sizeof schemes[0]; s++) {
        struct qg_recipe *r;
        struct qg_gap_sum first = {.first = -1};
        snprintf(text, sizeof text, HEAD "rules:\n  - scheme: %s\n", schemes[s]);
        struct qg_recipe_plan p = plan_of(text, m, &r);
        for (int threads = 1; threads <= 3; threads += 2) {
            n_agreed = 0;
            ck_assert_int_eq(qg_recipe_agree(&p, threads, keep, NULL, &err), QG_OK);
            ck_assert_uint_eq(n_agreed, 1);
            ck_assert(!agreed[0].mistake);
            if (threads == 1)
                first = agreed[0].sum;
            ck_assert_mem_eq(&agreed[0].sum, &first, sizeof first);
        }
        struct qg_tensor w = {"w", QG_BF16, 2, {1024, 512}, malloc(1024 * 512 * 2)};
        struct qg_gap g;
        ck_assert_int_eq(qg_model_load(m, qg_model_at(m, 0), w.data, &err), QG_OK);
        ck_assert_int_eq(qg_gap_tensor(qg_scheme_find(schemes[s]), "", &w, "w", &g, NULL, &err),
                         QG_OK);
        free(w.data);
        ck_assert_uint_eq(g.count, first.count);
        ck_assert_uint_eq(g.differ, first.differ);
        ck_assert_int_eq(g.first, first.first);
        ck_assert(g.sqnr_db == qg_gap_db(&first));
        qg_recipe_plan_free(&p);
        qg_recipe_close(&r);
    }
    qg_model_close(&m);
    leave();
}
END_TEST

START_TEST(test_mapping)
{
    static const struct {
        const char *rule, *cause;
        bool mistake, own;
    } all[] = {
        {"scheme: int8", "", false, false},
        {"scheme: int4", "the gap of int4 itself", false, false},
        {"scheme: int4\n    prepare: {scheme: fp8-int4}", "prepare is fp8-int4, convert is int4",
         true, true},
        {"scheme: int4\n    prepare: {scheme: int4, set: group=64}",
         "prepare is int4 group=64, convert is int4: scales per 64 elements against per 128 "
         "elements",
         true, true},
        {"scheme: int8\n    prepare: {scheme: int8-g32}",
         "prepare is int8-g32, convert is int8: scales per 32 elements against per row", true,
         true},
        {"scheme: int8\n    prepare: {scheme: none}",
         "convert quantizes it (int8), prepare does not", true, true},
        {"scheme: none\n    prepare: {scheme: int8}",
         "prepare quantizes it (int8), convert skips it: rule 1 leaves it", true, false},
        {"scheme: int4\n    on-indivisible: pad", "the gap of int4 itself", false, false},
    };
    char text[256];
    enter();
    struct qg_model *m = make_ramp();
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct qg_recipe *r;
        snprintf(text, sizeof text, HEAD "rules:\n  - match: {kind: [linear]}\n    %s\n",
                 all[i].rule);
        struct qg_recipe_plan p = plan_of(text, m, &r);
        n_agreed = 0;
        ck_assert_int_eq(qg_recipe_agree(&p, 2, keep, NULL, &err), QG_OK);
        ck_assert_uint_eq(n_agreed, 1);
        ck_assert_str_eq(agreed[0].cause, all[i].cause);
        ck_assert(agreed[0].mistake == all[i].mistake);
        ck_assert((agreed[0].own.count > 0) == all[i].own);
        ck_assert(!all[i].own || agreed[0].own.noise != agreed[0].sum.noise);
        qg_recipe_plan_free(&p);
        qg_recipe_close(&r);
    }
    qg_model_close(&m);

    // Zero columns are appended on both sides alike.
    m = make_model("a.weight 4x200", "");
    struct qg_recipe *r;
    struct qg_recipe_plan p =
        plan_of(HEAD "rules:\n  - scheme: int8-int4\n    on-indivisible: pad\n", m, &r);
    n_agreed = 0;
    ck_assert_int_eq(qg_recipe_agree(&p, 1, keep, NULL, &err), QG_OK);
    ck_assert_uint_eq(agreed[0].sum.count, 4 * 224);
    ck_assert_uint_eq(agreed[0].sum.differ, 0);
    qg_recipe_plan_free(&p);
    qg_recipe_close(&r);
    qg_model_close(&m);
    leave();
}
END_TEST

QG_SUITE(recipe, test_kinds, test_mistakes, test_shipped, test_refusals, test_plan, test_tied,
         test_experts, test_gguf, test_agree, test_mapping)
