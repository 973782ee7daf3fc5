/* SPDX-License-Identifier: MIT
 *
 * qgauge lm: training of small language models, from nothing or under a scheme.
 */
#include "harness/cli/lm.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRAIN_HELP                                                                               \
    "usage: qgauge lm train --text FILE -o FOLDER [OPTION]...\n"                                 \
    "\n"                                                                                         \
    "Trains a Llama on a text, from random numbers, and writes a Hugging Face folder:\n"         \
    "config.json, model.safetensors (BF16) and the log, train.tsv. Tokens are bytes, and a "     \
    "form\n"                                                                                     \
    "feed separates documents; with a --config of another vocabulary, texts are files of "       \
    "token\n"                                                                                    \
    "ids (.npy, .u16, .u32), and its bos_token_id separates.\n"                                  \
    "The same seed gives the same bits, whatever the number of threads.\n"                       \
    "\n"                                                                                         \
    "  --text FILE         what to learn\n"                                                      \
    "  --holdout FILE      measure the loss on this now and then\n"                              \
    "  --steps N           2000\n"                                                               \
    "  --batch N           sequences per step: 16\n"                                             \
    "  --length N          tokens per sequence: the model's context\n"                           \
    "  --lr X              AdamW's rate (2e-3), after a linear warm-up; then a cosine down to\n" \
    "                      a tenth\n"                                                            \
    "  --warmup N          steps: 100\n"                                                         \
    "  --decay X           of matrices: 0.1\n"                                                   \
    "  --seed N            1\n"                                                                  \
    "  --dtype T           what matrices take and give in training: f32, or bf16, f16\n"         \
    "  --threads N         default: one per processor\n"                                         \
    "  --log-every N       steps per row of the log: 20; held-out loss in every tenth row\n"     \
    "  --save-every N      minutes between checkpoints: 5\n"                                     \
    "  --resume            go on from FOLDER's checkpoint, to the bits of an uninterrupted "     \
    "run\n"                                                                                      \
    "  --force             begin anew in a FOLDER that has a model or a checkpoint\n"            \
    "\n"                                                                                         \
    "The model, unless --config FILE gives a config.json:\n"                                     \
    "  --layers 4  --width 256  --heads 8  --kv-heads 4  --head 32  --hidden 768  --context "    \
    "256\n"                                                                                      \
    "\n"                                                                                         \
    "Ctrl-C writes a checkpoint and ends.\n"

#define QAT_HELP                                                                                 \
    "usage: qgauge lm qat [MODEL] --text FILE --scheme \"NAME [PARAM=VALUE]...[,NAME...]\" "     \
    "[OPTION]...\n"                                                                              \
    "       qgauge lm qat [MODEL] --text FILE --recipe RECIPE[,RECIPE...] [OPTION]...\n"         \
    "\n"                                                                                         \
    "Trains on under each scheme, with its own fake-quant and gradient, converts, and says "     \
    "what "                                                                                      \
    "it\n"                                                                                       \
    "recovered of the loss that quantizing costs. The control trains the same steps on the "     \
    "same\n"                                                                                     \
    "batches unquantized, and is quantized afterwards (PTQ): extra steps alone move the model. " \
    "All\n"                                                                                      \
    "losses are measured on the held-out text through the real kernels, paired, with intervals " \
    "of\n"                                                                                       \
    "95 % over seeds and over its documents.\n"                                                  \
    "\n"                                                                                         \
    "  MODEL               a Hugging Face folder: the shipped model\n"                           \
    "  --text FILE         what to train on\n"                                                   \
    "  --holdout FILE      what to measure on: the shipped held-out text\n"                      \
    "  --documents N       the first N of it\n"                                                  \
    "  --seeds N           runs per scheme: 3; --seed N: the first one's, 1\n"                   \
    "  --steps N           300;  --batch N: 8;  --length N;  --lr X: 1e-4, to a tenth;  "        \
    "--warmup N: 20\n"                                                                           \
    "  --lora R            train adapters of this rank alone, on the frozen, converted model "   \
    "(QLoRA);\n"                                                                                 \
    "                      --alpha X: scale 16 / R\n"                                            \
    "  --dtype T           what matrices take and give: the checkpoint's\n"                      \
    "  --backend B         of the matmul kernels: the fastest\n"                                 \
    "  --untie             give a tied head a tensor of its own before\n"                        \
    "  --prompt TEXT       print how each model goes on with it, greedily, for --predict N "     \
    "(100) bytes\n"                                                                              \
    "  -o FILE.tsv         a row per scheme; --resume appends those that FILE lacks: of these "  \
    "very\n"                                                                                     \
    "                      options, texts and model\n"                                           \
    "  --threads N         default: one per processor; no number depends on it\n"

#define CODES_HELP                                                                               \
    "\n"                                                                                         \
    "Exit codes: 0 done, 1 the loss is no number any more or a file is not what it should be,\n" \
    "2 usage, 99 a file could not be read or written, 130 Ctrl-C.\n"

static const struct {
    const char *word, *help;
    int (*run)(int argc, char **argv);
} subcommands[] = {{"train", TRAIN_HELP CODES_HELP, qg_lm_train},
                   {"qat", QAT_HELP CODES_HELP, qg_lm_qat}};

enum { MOST_THREADS = 64, MOST = 1000000000 };

bool qg_lm_take_whole(const char *option, uint64_t least, uint64_t most, uint64_t *ret)
{
    return qg_take_whole(&qg_command_lm, option, least, most, ret);
}

bool qg_lm_take_size(const char *option, uint64_t most, size_t *ret)
{
    uint64_t x;
    if (!qg_lm_take_whole(option, 1, most, &x))
        return false;
    *ret = (size_t)x;
    return true;
}

bool qg_lm_take_real(const char *option, double least, double most, double *ret)
{
    char *end;
    double x = strtod(optarg, &end);
    if (end != optarg && !*end && x >= least && x <= most) {
        *ret = x;
        return true;
    }
    qg_usage_error(&qg_command_lm, "--%s is a number of %g to %g, not '%s'", option, least, most,
                   optarg);
    return false;
}

bool qg_lm_take(struct qg_lm_request *q, int option)
{
    switch (option) {
    case QG_LM_TEXT:
        return (q->text = optarg) != NULL;
    case QG_LM_HOLDOUT:
        return (q->holdout = optarg) != NULL;
    case QG_LM_OUT:
        return (q->out = optarg) != NULL;
    case QG_LM_STEPS:
        return qg_lm_take_whole("steps", 1, MOST, &q->train.steps);
    case QG_LM_BATCH:
        return qg_lm_take_size("batch", 1 << 20, &q->train.batch);
    case QG_LM_LENGTH:
        return qg_lm_take_size("length", 1 << 20, &q->train.length);
    case QG_LM_LR:
        return qg_lm_take_real("lr", 1e-12, 10, &q->train.lr);
    case QG_LM_WARMUP:
        return qg_lm_take_whole("warmup", 0, MOST, &q->train.warmup);
    case QG_LM_SEED:
        return qg_lm_take_whole("seed", 0, UINT64_MAX, &q->train.seed);
    case QG_LM_DTYPE:
        return qg_take_dtype(&qg_command_lm, optarg, &q->dtype);
    case QG_LM_THREADS:
        return qg_lm_take_whole("threads", 1, MOST_THREADS, &q->threads);
    case QG_LM_RESUME:
        return q->resume = true;
    default:
        qg_usage_error(&qg_command_lm, "bad option");
        return false;
    }
}

static int run(int argc, char **argv)
{
    bool help = argc > 2 && (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0);
    for (size_t i = 0; argc > 1 && i < sizeof subcommands / sizeof subcommands[0]; i++) {
        if (strcmp(argv[1], subcommands[i].word) != 0)
            continue;
        if (!help)
            return subcommands[i].run(argc - 1, argv + 1);
        fputs(subcommands[i].help, stdout);
        return qg_finish_stdout(&qg_command_lm, QG_EXIT_OK);
    }
    return argc < 2
               ? qg_usage_error(&qg_command_lm, "what? give train or qat")
               : qg_usage_error(&qg_command_lm, "there is no '%s', but train and qat", argv[1]);
}

const struct qg_command qg_command_lm = {
    .name = "lm",
    .summary = "train a small language model, also under schemes (QAT)",
    .help = TRAIN_HELP "\n" QAT_HELP CODES_HELP,
    .run = run,
};
