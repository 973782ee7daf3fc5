#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge recipe, end to end.
. "$(dirname "$0")/cli.sh"

expect 0 'usage: qgauge recipe list' recipe --help
expect 0 'unsloth-int8-int4 ' recipe list
for name in unsloth-int4 unsloth-fp8-int4 unsloth-fp8-fp8 unsloth-int8 unsloth-cactus axolotl-nf4 axolotl-int8 \
    axolotl-torchao-int4 axolotl-torchao-nf4 axolotl-torchao-nvfp4 axolotl-torchao-int8 axolotl-torchao-fp8 \
    quark-mxfp4-experts gguf-q8_0 gguf-q4_K trap-axolotl-qat-int4; do
    has out.txt "^$name "
done
expect 0 'on-indivisible: skip' recipe show unsloth-int4
expect 2 "there is no recipe 'int5'" recipe show int5
expect 2 'say list, show or check' recipe
expect 2 'it is `list`' recipe check unsloth-int4
expect 2 '--format is text or json' recipe check unsloth-int4 model --format xml

mkdir model && "$tensors" write model/model.safetensors model.embed_tokens.weight BF16 64x128 0.5 \
    model.layers.0.mlp.up_proj.weight BF16 32x128 1 model.layers.0.mlp.odd.weight BF16 32x200 1 \
    model.norm.weight BF16 128 1
echo '{"model_type": "llama", "tie_word_embeddings": true}' >model/config.json
expect 0 'whole model: 37632 -> ' recipe check unsloth-int4 model
has out.txt '   1 linear    int4  *\[32,128\]  *8192  *2176  4.250  model.layers.0.mlp.up_proj.weight$'
has out.txt '   1 head      int4  *\[64,128\]  *0  *4352  4.250  lm_head.weight$'
has out.txt '12800 bytes in 1 tensor: rule 1 skips it: K = 200, group = 128'
has out.txt '256 bytes in 1 tensor: kind norm; model.norm.weight$'
expect 0 'prepared as fp8-fp8' recipe check trap-axolotl-qat-fp8 model
expect 2 "rule 1, tensor 'model.layers.0.mlp.odd.weight' [32,200]: 'int4': K = 200" recipe check trap-axolotl-qat-int4 model
expect 0 '"name":	"lm_head.weight"' recipe check unsloth-int4 model --format json
has out.txt '"bytes_after":	2176'
has out.txt '"from":	"model.embed_tokens.weight"'

# What the help shows is a recipe.
"$qgauge" recipe --help | sed -n '/^  name: mine/,/^$/p' | sed 's/^  //' >shown.yaml
expect 0 'quantized: 2 of 4 tensors' recipe check shown.yaml model
has out.txt "rule 1 skips it: K = 200, group = 32"

# Every reason stands on a line of its own, before any work.
cat >mine.yaml <<'END'
name: mine
summary: two rules for one tensor, and a K that a group does not divide
exclude: [router]
rules:
  - match: {name: mlp}
    scheme: int8-int4
  - match: {name: up_proj}
    scheme: int8
END
expect 2 "rules 1 and 2, tensor 'model.layers.0.mlp.up_proj.weight': both take it" recipe check mine.yaml model
has out.txt "refused: recipe 'mine.yaml', rule 1, tensor 'model.layers.0.mlp.odd.weight' \[32,200\]: .*K = 200, group = 32"
has out.txt "refused: recipe 'mine.yaml', exclude: 'router' matched no tensor"
sed 's/^rules/rule/' mine.yaml >typo.yaml
expect 2 "recipe 'typo.yaml' line 4: there is no key 'rule' here; there are: name, summary" recipe check typo.yaml model
expect 99 'absent' recipe check unsloth-int4 absent
"$tensors" write i8.safetensors model.layers.0.mlp.up_proj.weight I8 128x128 1 model.layers.0.mlp.down_proj.weight \
    I8 128x128 1
expect 2 "rule 1: it matched no tensor of the model; 2 would match, but cannot be computed with: 'model.layers.0.mlp.up_proj.weight' is I8, not F32, BF16 or F16; correct" \
    recipe check unsloth-int4 i8.safetensors
mkfifo pipe.yaml
expect 2 "recipe 'pipe.yaml': not a regular file" recipe check pipe.yaml model
echo '{"quantization_config": {"quant_method": "gptq"}}' >model/config.json
expect 2 'quantized already (quantization_config of its config.json: gptq)' recipe check unsloth-int4 model
finish
