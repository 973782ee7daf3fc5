#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge merge, end to end: results, what it costs, refusals.
. "$(dirname "$0")/cli.sh"

# shows FILE LINE: a tensor of the file prints as LINE.
shows() {
    "$tensors" print "$1" | grep -qxF -e "$2" || fail "$1 lacks '$2': $("$tensors" print "$1")"
}

# adapter FOLDER CONFIG TENSOR...: an adapter of rank 1, lora_alpha 2.
adapter() {
    mkdir -p "$1" && echo "{\"peft_type\": \"LORA\", \"r\": 1, \"lora_alpha\": 2$2}" >"$1/adapter_config.json"
    folder=$1
    shift 2
    "$tensors" write "$folder/adapter_model.safetensors" "$@"
}

A=base_model.model.q.lora_A.weight B=base_model.model.q.lora_B.weight
"$tensors" write model q.weight BF16 2x4 1,2,3,4,-1,-2,-3,-4 k.weight BF16 2x2 5,6,7,8 q.bias F32 2 9
adapter plain '' $A F32 1x4 1,0,-1,0.5 $B F32 2x1 0.5,-1

# W + 2 B A, worked out by hand; all else bit for bit.
expect 0 'written: 1 of 3 tensors are new' merge model plain -o base
shows base 'q.weight BF16 2x4 2 2 2 4.5 -3 -2 -1 -5'
shows base 'k.weight BF16 2x2 5 6 7 8'
shows base 'q.bias F32 2 9 9'
head -c 200 model >head1 && head -c 200 base >head2
cmp -s head1 head2 || fail 'the head of the file changed'
expect 0 'total' merge model plain -o unsloth --by unsloth
cmp -s base unsloth || fail 'unsloth merges these numbers otherwise'
expect 0 'total  base' merge model plain --compare --scheme int8-row
[ "$(grep -c '^q' out.txt)" = 3 ] || fail "not three ways: $(cat out.txt)"
expect 0 'base in training: int8-row; 1 matrices' merge model plain -o legacy --way legacy --scheme int8-row
shows legacy 'k.weight BF16 2x2 5 6 7 8'
"$tensors" print legacy | grep -q 'q.weight BF16 2x4 1.984375 ' || fail "legacy: $("$tensors" print legacy)"

# axolotl's way takes every matrix through NF4, the adapter's or not.
expect 0 '1 further tensors went through NF4' merge model plain -o nf4 --way round-trip
"$tensors" print nf4 | grep -q 'k.weight BF16 2x2 5 6 7 8' && fail 'k.weight did not go through NF4'
shows nf4 'q.bias F32 2 9 9'

# JSON.
expect 0 '"way":	"legacy"' merge model plain --compare --format json
expect 0 '"delta_to_error_db"' merge model plain -o json1 --format json

# DoRA: rows scaled to m; what cannot take it says so.
adapter dora ', "use_dora": true' $A F32 1x4 0 $B F32 2x1 0 base_model.model.q.lora_magnitude_vector F32 2 3,3
"$tensors" write ones q.weight BF16 1x4 1,-1,1,1
adapter dora1 ', "use_dora": true' $A F32 1x4 0 $B F32 1x1 0 base_model.model.q.lora_magnitude_vector F32 1 3
expect 0 'written' merge ones dora1 -o scaled
shows scaled 'q.weight BF16 1x4 1.5 -1.5 1.5 1.5'
# A row whose norm is 0 is NaN upstream: it is left out of the figures, with a word.
"$tensors" write zeros q.weight BF16 2x4 0,0,0,0,1,2,3,4
expect 0 'rows without a finite norm, left out: 1' merge zeros dora --compare --scheme int8-row
has out.txt '^total  base .*[0-9] %  rows without'
expect 0 '"rows_left_out":	1' merge zeros dora --compare --scheme int8-row --format json
expect 0 "refused: q: DoRA into a base of 'int8-row'" merge model dora --compare --scheme int8-row
expect 2 "unsloth's merge leaves DoRA's magnitudes out" merge model dora -o x --by unsloth
[ ! -e x ] && [ ! -e x.part ] || fail 'something is left of a merge that was refused'

# What does not belong together.
adapter other '' base_model.model.v.lora_A.weight F32 1x4 1 base_model.model.v.lora_B.weight F32 2x1 1
expect 1 "the adapter has a pair for 'v', the model no tensor 'v.weight'" merge model other -o x
adapter wide '' $A F32 1x5 1 $B F32 2x1 1
expect 2 'lora_B lora_A is [2,5], the weight is stored as [2,4]' merge model wide -o x
adapter bias '' base_model.model.q.lora_A.weight F32 1x4 1 $B F32 2x1 1 extra F32 1 1
expect 1 "'extra' is no lora_A" merge model bias -o x
adapter saved ', "modules_to_save": ["lm_head"]' $A F32 1x4 1 $B F32 2x1 1
expect 2 '"modules_to_save" is set' merge model saved -o x
adapter vector '' base_model.model.q.lora_A.weight F32 1x4 1 $B F32 2x1 1
"$tensors" write flat q.weight BF16 8 1
expect 2 'adapters are merged into matrices' merge flat vector -o x
expect 2 'K = 4, group = 128' merge model plain -o x --way legacy --scheme int4
expect 99 'exists, nothing was written' merge model plain -o base
expect 99 'absent' merge absent plain -o x
expect 99 'adapter_config.json' merge model model -o x
mkdir quantized && "$tensors" write quantized/model.safetensors q.weight BF16 2x4 1
echo '{"quantization_config": {"quant_method": "awq"}}' >quantized/config.json
expect 2 'is quantized already (awq)' merge quantized plain -o x
mkdir tied && "$tensors" write tied/model.safetensors q.weight BF16 2x4 1
echo '{"tie_word_embeddings": true}' >tied/config.json
adapter head '' base_model.model.lm_head.lora_A.weight F32 1x4 1 base_model.model.lm_head.lora_B.weight F32 2x1 1
expect 1 'its head is the embedding table' merge tied head -o x
expect 0 'written' merge tied plain -o tied2/
cmp -s tied/config.json tied2/config.json || fail 'config.json was not copied'

expect 2 'a model and an adapter are needed' merge model
expect 2 '-o OUT is needed' merge model plain
expect 2 'writes nothing' merge model plain --compare -o x
expect 2 '--way is legacy' merge model plain -o x --way all
expect 2 '--by is peft' merge model plain -o x --by me
expect 2 '--by is of --way base' merge model plain -o x --way legacy --by peft
expect 2 '--set needs --scheme' merge model plain -o x --set group=32
expect 2 "has no parameter 'grop'" merge model plain -o x --scheme int4 --set grop=32
expect 2 "there is no scheme 'int5'" merge model plain -o x --scheme int5
expect 2 'one argument too many' merge model plain more -o x
expect 0 'usage: qgauge merge' merge --help
[ ! -e x ] && [ ! -e x.part ] || fail 'something is left of merges that were refused'
finish
