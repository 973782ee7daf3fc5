#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge gap, end to end.
. "$(dirname "$0")/cli.sh"

# The figures that upstream printed, as a reader of the table sees them.
expect 0 'inf on all 2' gap --seeds 2
for row in 'fp8-fp8 26.5' 'fp8-fp8-tensor 29.5' 'fp8-int4 22.375' 'fp8-int4-plain 19.75' 'fp8-int4-nocast 19.25' 'fp8-int4-old 15.5' 'int4 45.5' \
    'int4 dequant=two-step 44.75' 'int4-old 15.0625' 'int8 inf' 'int8-g32 inf' 'int8-int4 inf'; do
    tr -s ' ' <out.txt | grep -qF -e "$row " || fail "no row '$row' in: $(cat out.txt)"
done
expect 0 'scale-dtype=f32 would make it inf dB' gap --scheme int4 --seeds 0
expect 0 'scale=torch would make it inf dB' gap --scheme fp8-fp8 --set '' --seeds 0
expect 0 'the prepare path of int4 would make it 53.76 dB' gap --scheme int4-old --seeds 0
expect 0 'in the model: operands not rounded to bf16 would make it inf dB' gap --scheme fp8-fp8-tensor --seeds 0
expect 0 'the scale is rounded when it is stored' gap --scheme gptq --seeds 0
expect 0 'weights in F16 would make it inf dB' gap --scheme awq --seeds 0
expect 0 'zero (stored)' gap --scheme int4 --seeds 0 -v
expect 0 'inf on all 1' gap --scheme int4 --set scale-dtype=f32 --seeds 1

# A checkpoint: what fits is compared, what does not is refused by name.
"$tensors" write model a.weight BF16 2x256 0.5,-1.25,0.3,0.011 b.weight F32 3x100 1,2,3 c.bias F32 4 1
expect 0 'left out, not [N,K] of F32, BF16 or F16: 1 of' gap --weights model
grep -q 'b.weight: refused: .*K = 100, group = 128' out.txt || fail "no refusal: $(cat out.txt)"
grep -q '1 tensor, 512 weights, .* differ; worst .* dB in a.weight' out.txt || fail "no sum: $(cat out.txt)"
grep -q '2 tensors, 812 weights, 0.000 % differ: equal to the bit' out.txt || fail "int8: $(cat out.txt)"
expect 0 'b.weight [3,100] BF16: 0.000' gap --weights model --dtype bf16 --scheme int8 -v
expect 0 '1 tensor, 512 weights' gap --weights model --tensors '^a' --scheme int8
expect 2 'F32, BF16 or F16' gap --weights model --dtype I8
expect 1 'no tensor of' gap --weights model --tensors nothing
expect 99 'absent' gap --weights absent
expect 2 'regular expression' gap --weights model --tensors '('

# A recipe: a mistake of the mapping is named, a scheme's own gap is none.
mkdir llama && "$tensors" write llama/model.safetensors model.embed_tokens.weight BF16 64x128 0.5,-1.25,0.3,0.011,0.7 \
    model.layers.0.mlp.up_proj.weight BF16 32x128 1,-0.3,0.25,0.01,0.7,-0.9,0.33 \
    model.layers.0.mlp.odd.weight BF16 20x128 0.2,-0.7,0.11
echo '{"model_type": "llama", "tie_word_embeddings": true}' >llama/config.json
expect 1 'MISTAKE' gap --recipe trap-axolotl-qat-int4 llama
has out.txt '^rule 1, 3 tensors: prepare is fp8-int4 group=32, convert is int4 group=32  MISTAKE$'
has out.txt '^    [0-9.]* dB (worst) to [0-9.]* dB (best), [0-9.]* % differ; worst in model.layers.0.mlp.'
has out.txt '^    prepared as they are shipped it would be [0-9.]* dB (worst) to '
has out.txt '^    [^ ]*, [^ ]*, lm_head.weight$'
has out.txt '^3 MISTAKES: what training sees is not what is shipped'
expect 1 'rule 1  model.layers.0.mlp.up_proj.weight [32,128] BF16  MISTAKE  ' gap --recipe trap-axolotl-qat-int4 llama -v
[ "$(grep -c 'prepare is fp8-int4 group=32, convert is int4 group=32$' out.txt)" = 3 ] || fail "not each: $(cat out.txt)"
has out.txt '    prepared as it is shipped it would be '
"$tensors" write five a.weight BF16 4x128 1,2 b.weight BF16 4x128 1,2 c.weight BF16 4x128 1,2 d.weight BF16 4x128 1,2 \
    e.weight BF16 4x128 1,2
expect 1 '    a.weight, b.weight, c.weight and 2 more (-v: each)' gap --recipe trap-axolotl-qat-int4 five
expect 1 'prepare is int4 group=32, convert is int8-int4' gap --recipe trap-axolotl-qat-int8-int4 llama
expect 1 'prepare is fp8-fp8, convert is fp8-fp8-tensor: scales per row against per tensor' gap --recipe trap-axolotl-qat-fp8 llama
has out.txt 'prepare quantizes it (fp8-fp8), convert skips it: rule 2 leaves it: convert passes sides by'
expect 1 'scales per 32 elements against per row' gap --recipe trap-axolotl-qat-fp8-int4 llama
expect 1 '1 MISTAKE: ' gap --recipe unsloth-fp8-fp8 llama
has out.txt 'rule 2  model.layers.0.mlp.odd.weight \[20,128\] BF16  MISTAKE  '
expect 0 'unsloth-int8-int4 (qat): 4 tensors, 4 equal to the bit' gap --recipe unsloth-int8-int4 llama
has out.txt '^no mistake: .* prepare and convert are the same scheme with the same parameters$'
expect 0 '4 tensors, 4 equal to the bit' gap --recipe unsloth-int8-int4 llama -v --threads 3
has out.txt 'lm_head.weight \[64,128\] BF16  inf dB, 0.000 % differ'
expect 0 'the gap of int4 itself' gap --recipe unsloth-int4 llama --threads 1
cp out.txt one.txt
expect 0 'the gap of int4 itself' gap --recipe unsloth-int4 llama --threads 4
cmp out.txt one.txt || fail 'the number of threads shows'
expect 0 'training does not see q8_0' gap --recipe gguf-q8_0 llama
expect 77 'nothing to compare' gap --recipe axolotl-nf4 llama
expect 2 'refused: recipe' gap --recipe quark-mxfp4-experts llama
expect 2 'needs one MODEL' gap --recipe unsloth-int4
expect 2 'goes with --threads and -v alone' gap --recipe unsloth-int4 llama --scheme int4
expect 2 '--threads needs --recipe' gap --threads 2
expect 2 'from 1 to 256' gap --recipe unsloth-int4 llama --threads 0

# A folder of shards.
mkdir shards
"$tensors" write shards/1.safetensors a.weight F32 2x256 0.5,-1.25,0.3,0.011
"$tensors" write shards/2.safetensors b.weight BF16 2x256 1,2,3
index=shards/model.safetensors.index.json
echo '{"weight_map": {"a.weight": "1.safetensors", "b.weight": "2.safetensors"}}' >$index
expect 0 '2 tensors, 1024 weights' gap --weights shards --scheme int8
echo '{"weight_map": {"a.weight": "1.safetensors", "b.weight": "3.safetensors"}}' >$index
expect 1 "shard '3.safetensors' is missing, which should hold tensor 'b.weight'" gap --weights shards

expect 2 "there is no scheme 'int5' (did you mean 'int4'?); there are: fp8-int4" gap --scheme int5
expect 2 'belong to a scheme' gap --set group=32
expect 2 "parameter 'group' is given twice" gap --scheme int4 --set 'group=64 group=32'
expect 2 "has no parameter 'grop'" gap --scheme int4 --set grop=32
expect 2 'whole number' gap --seeds x
expect 2 'need --weights' gap --tensors a
expect 2 'not of --weights' gap --weights model --seed 5
expect 77 'no prepare path upstream' gap --weights model --scheme nf4-bnb
expect 77 '0 tensors' gap --weights model --tensors '^b' --scheme int4
expect 2 "'extra' is not an option" gap extra
expect 2 'nonsense' gap --nonsense
expect 0 'usage: qgauge gap' gap --help
finish
