#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge convert, end to end. What the upstream libraries make of its output: golden/gen/readback_layouts.py.
. "$(dirname "$0")/cli.sh"

# A folder with two matrices, a norm, and files beside them.
mkdir m
"$tensors" write m/model.safetensors \
    model.layers.0.mlp.up_proj.weight BF16 64x256 1,-2,0.5,3.25,7,-1.5,0.01,2 \
    model.layers.0.mlp.down_proj.weight BF16 96x128 0.1,0.25,-3,1,0.75,-0.125,5 \
    model.layers.0.input_layernorm.weight BF16 128 1,2 ids I8 3 1,2,3
cat >m/config.json <<'JSON'
{"model_type": "llama", "tie_word_embeddings": false, "num_attention_heads": 2, "num_hidden_layers": 1,
 "hidden_size": 128, "intermediate_size": 64}
JSON
echo '{"tokens": 3}' >m/tokenizer.json
echo x >m/pytorch_model.bin

# Our layout holds what apply computes; the rest is copied.
expect 0 'tensors converted' convert m --scheme int4 -o ours
for file in config.json tokenizer.json model.safetensors; do
    [ -e ours/$file ] || fail "ours/$file is missing"
done
[ -e ours/pytorch_model.bin ] && fail 'other weights were copied'
ls -d ours.part* 2>/dev/null && fail 'something provisional is left'
"$qgauge" convert m --scheme int4 -o ours --force 2>&1 | grep -q 'pytorch_model.bin is not carried over' ||
    fail 'nothing is said about pytorch_model.bin'
"$tensors" print ours/model.safetensors >ours.txt
"$tensors" print m/model.safetensors >m.txt
for name in input_layernorm ids; do
    [ "$(grep $name ours.txt)" = "$(grep $name m.txt)" ] || fail "$name was not copied"
done
for name in up_proj down_proj; do
    shape=64x256 values=1,-2,0.5,3.25,7,-1.5,0.01,2
    [ $name = up_proj ] || { shape=96x128 values=0.1,0.25,-3,1,0.75,-0.125,5; }
    "$tensors" write x.safetensors x BF16 $shape $values
    "$qgauge" apply --scheme int4 --op convert -i x.safetensors -o y.safetensors --force || fail apply
    "$tensors" print y.safetensors | while read -r plane rest; do
        grep -qF "$name.weight.$plane $rest" ours.txt || fail "$name.weight.$plane is not what apply computes"
    done
done

# Every public layout, by its own names; the configuration says which it is.
layout() { # layout SCHEME METHOD NAME...
    rm -rf out
    expect 0 'tensors converted' convert m --scheme "$1" -o out
    has out/config.json "\"quant_method\":.*\"$2\""
    has out/config.json '"model_type":.*"llama"'
    "$tensors" print out/model.safetensors >out.names
    shift 2
    for name in "$@"; do
        grep -q "up_proj\.$name " out.names || fail "no up_proj.$name in: $(cut -c1-80 out.names)"
    done
}
layout ct-int4 compressed-tensors weight_packed weight_scale weight_shape
layout ct-int8 compressed-tensors weight_packed weight_scale weight_shape
layout ct-fp8 compressed-tensors weight weight_scale
layout gptq gptq qweight qzeros scales g_idx
layout awq awq qweight qzeros scales
layout nf4-bnb bitsandbytes weight weight.absmax weight.quant_map weight.quant_state.bitsandbytes__nf4
layout nf4-bnb-double bitsandbytes weight.nested_absmax weight.nested_quant_map
layout fp4-bnb bitsandbytes weight.quant_state.bitsandbytes__fp4
layout llm-int8 bitsandbytes weight SCB weight_format
layout int8-int4 torchao _weight_qdata _weight_scale _weight_zero_point
layout fp8 torchao _weight_qdata _weight_scale
layout int8-int8 qgauge weight.codes weight.scales
layout mxfp4 qgauge weight.codes weight.scales

# A tied model: the head becomes a tensor of its own, and the configuration says so; numbers stay as they were.
mkdir tied
"$tensors" write tied/model.safetensors model.embed_tokens.weight BF16 64x128 1,-2,0.5,3.25,7,-1.5 \
    model.layers.0.self_attn.q_proj.weight BF16 64x128 0.1,0.25,-3,1,0.75 \
    model.layers.0.mlp.up_proj.weight BF16 64x128 0.1,0.25,-3 model.norm.weight BF16 128 1,2
cat >tied/config.json <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": true, "rope_theta": 10000.0,
 "num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 128, "intermediate_size": 64}
JSON
expect 0 '4 tensors converted, 1 copied' convert tied --recipe unsloth-int8-int4 -o untied
has untied/config.json '"tie_word_embeddings": false, "rope_theta": 10000.0'
"$tensors" print untied/model.safetensors | grep -q 'lm_head._weight_qdata' || fail 'there is no head'
expect 0 '3 tensors converted, 1 copied' convert tied --scheme int4 --tensors 'proj|embed' -o named --layout qgauge
has named/config.json '"tie_word_embeddings": true'
expect 2 'refused: recipe' convert tied --recipe quark-mxfp4-experts -o no

# GGUF: names, metadata, what it cannot hold.
expect 0 'the tokenizer is not carried over' convert tied --scheme q8_0 -o x.gguf
has out.txt '2 tensors converted, 2 copied.*layout gguf'
for word in blk.0.attn_q.weight blk.0.ffn_up.weight token_embd.weight output_norm.weight llama.rope.freq_base general.file_type; do
    grep -aq $word x.gguf || fail "no $word in x.gguf"
done
grep -aq self_attn x.gguf && fail 'a name was not mapped'
expect 0 '1 tensors converted, 3 copied' convert x.gguf --scheme q4_0 --tensors token_embd -o y.gguf
grep -aq llama.rope.freq_base y.gguf || fail 'metadata was not copied'
expect 2 'are quantized already' convert x.gguf --scheme q4_0 -o no.gguf
expect 2 'safetensors has no such dtype' convert x.gguf --scheme int4 --tensors token_embd -o no
expect 2 "layout 'gguf' cannot hold tensor 'model.layers.0.self_attn.q_proj.weight' as int4" convert tied --scheme int4 -o no.gguf
expect 2 'is not one of safetensors files' convert tied --scheme q8_0 --layout gguf -o no
expect 2 'which llama.cpp does not compute with' convert m --scheme q8_0 --set act=ref -o no.gguf
sed 's/"llama"/"gpt2"/' tied/config.json >other && mkdir gpt && cp tied/model.safetensors gpt/ && cp other gpt/config.json
expect 2 "model_type 'gpt2': names and metadata of GGUF are known here for llama and mistral only" convert gpt --scheme q8_0 -o no.gguf
expect 2 "layout 'awq' cannot hold tensor" convert m --scheme int4 --layout awq -o no
expect 2 "there is no layout 'x'" convert m --scheme int4 --layout x -o no
expect 0 'bitsandbytes' convert --layouts

# Every scheme that converts weights, into one file; what it refuses, it refuses with a sentence.
"$qgauge" list schemes | awk '/convert/ && !/activation:/ {print $1}' >schemes.txt
for scheme in $("$qgauge" list schemes --format json | grep -o '"name": "[^"]*", "summary"' | cut -d'"' -f4); do
    "$qgauge" convert m --scheme "$scheme" -o one.safetensors --force >out.txt 2>&1
    code=$?
    [ $code = 0 ] && continue
    [ $code = 2 ] && grep -Eq 'K = |cannot take weights|does not take BF16' out.txt ||
        fail "$scheme: exit code $code: $(cat out.txt)"
done

# Shards: the same tensors, an index, and the same bytes with any number of threads.
expect 0 'in 3 files' convert m --scheme int4 --shard-size 5KB -o shards --threads 1
has shards/model.safetensors.index.json '"total_size":'
has shards/model.safetensors.index.json '"model.layers.0.mlp.up_proj.weight.codes":.*"model-00001-of-00003.safetensors"'
cat shards/model-*.safetensors >/dev/null || fail 'no shards'
for file in shards/model-*.safetensors; do "$tensors" print "$file"; done | sort >shards.txt
sort ours.txt | cmp -s - shards.txt || fail 'shards hold other tensors than one file'
"$tensors" write big.safetensors a.weight BF16 1000x2048 1,-2,0.5,3.25,7,-1.5,0.01,2,-0.3
for scheme in int4 gptq q4_K fp8-block nf4-bnb-double; do
    for n in 1 2 7; do
        "$qgauge" convert big.safetensors --scheme $scheme --threads $n --force -o $n.safetensors \
            --format json >$n.json 2>out.txt
    done
    [ $scheme = gptq ] && { has out.txt 'N is no multiple of 32'; continue; }
    cmp -s 1.safetensors 2.safetensors && cmp -s 1.safetensors 7.safetensors ||
        fail "$scheme: other bytes with other threads"
    cmp -s 1.json 2.json && cmp -s 1.json 7.json || fail "$scheme: other figures with other threads"
done

# The table.
expect 0 'worst dB' convert m --scheme int4 --table --force -o ours
has out.txt 'up_proj.weight *int4 .*\[[0-9]*, [0-9]*\.\.[0-9]*\]'
has out.txt 'input_layernorm.weight *- '
expect 0 'tensors converted' convert m --scheme int4 -o with.safetensors --results r.h5
"$qgauge" export --format json r.h5 >r.json || fail 'the results cannot be read'
has r.json '"kernel":.*"int4.convert.c"'
has r.json '"worst_cols":.*128'
[ "$(grep -c '"bytes_before":' r.json)" = 4 ] || fail 'not a row per tensor'
expect 99 'r.h5: the file exists' convert m --scheme int4 -o no --results r.h5

# Kill -9 in the middle, or a signal: --resume gives the very bytes.
set --
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do set -- "$@" "layer$i.weight" BF16 512x1024 1,-2,0.5,3.25,7,-1.5,0.01,2,-0.3; done
mkdir long && "$tensors" write long/model.safetensors "$@"
expect 0 '12 tensors converted, 0 copied;' convert long --scheme q4_K --shard-size 1MB -o whole
stop() { # stop SIGNAL [touch]: starts the conversion, sends SIGNAL when some tensors are finished
    "$qgauge" convert long --scheme q4_K --shard-size 1MB -o part >part.txt 2>&1 &
    pid=$!
    n=0
    while [ "$(grep -ac q4_K part.part.journal 2>/dev/null || echo 0)" = 0 ] && [ $n -lt 500 ]; do
        sleep 0.02
        n=$((n + 1))
    done
    size=$(stat -c %s part.part.journal)
    while [ "$(stat -c %s part.part.journal 2>/dev/null || echo 999999)" -lt $((size + 150)) ]; do sleep 0.02; done
    [ -z "$2" ] || touch long/model.safetensors
    kill -"$1" $pid
    wait $pid
    code=$?
}
same() { # the folders hold the same
    (cd whole && cksum ./*) >whole.txt && (cd part && cksum ./*) >part.txt
    cmp -s whole.txt part.txt || fail "$1: other bytes than in one go"
}
for signal in KILL TERM; do
    stop $signal
    [ $code = 137 ] || [ $code = 143 ] || fail "$signal: exit code $code: $(cat part.txt)"
    [ $signal = KILL ] || has part.txt 'the same command with --resume goes on'
    [ -e part ] && fail "$signal: the folder has its name already"
    expect 2 'begun with another recipe' convert long --scheme q6_K --resume -o part
    expect 0 '12 tensors converted' convert long --scheme q4_K --shard-size 1MB --resume -o part
    has out.txt '[1-9][0-9]* of them by an earlier run'
    same $signal
    ls -d part.part* 2>/dev/null && fail "$signal: something provisional is left"
    rm -rf part
done
expect 2 'there is no conversion to resume' convert long --scheme q4_K --resume -o part

# Another input than the one it was begun with.
stop KILL
touch long/model.safetensors
expect 2 "the model's files changed since the conversion began" convert long --scheme q4_K --shard-size 1MB --resume -o part
expect 0 'copied;' convert long --scheme q4_K --shard-size 1MB -o part
same 'begun anew'

# The model changes while it is read.
rm -rf part
stop CONT touch
[ $code = 99 ] || fail "a model that changes: exit code $code: $(cat part.txt)"
has part.txt 'long/model.safetensors.*changed'
[ -e part ] && fail 'a model that changes: the folder has its name'
expect 2 "the model's files changed" convert long --scheme q4_K --shard-size 1MB --resume -o part
rm -rf part.part*

# What exists is not touched without --force, and the model never.
expect 99 'it exists, nothing was written' convert m --scheme int4 -o ours
expect 2 'the model itself lies there' convert m --scheme int4 --force -o m
expect 2 'the model itself lies there' convert big.safetensors --scheme int4 --force -o big.safetensors
mkdir folder.safetensors
expect 2 'is no regular file' convert m --scheme int4 --force -o folder.safetensors

# A shard that the index does not know is no weight to lose without a word.
cp -r whole stray && cp ours/model.safetensors stray/model-00009-of-00009.safetensors
expect 1 'the index knows no tensor of it' recipe check gguf-q8_0 stray

# --force replaces what a conversion wrote, and nothing else.
mkdir theirs && echo mine >theirs/thesis.txt
expect 2 "holds 'thesis.txt', which no conversion" convert m --scheme int4 --force -o theirs
mkdir -p deep/m && cp m/* deep/m
expect 2 "holds 'm', which no conversion" convert deep/m --scheme int4 --force -o deep
ln -s ours link && ln -s nowhere dangling
expect 2 'a symbolic link' convert m --scheme int4 --force -o link
expect 2 'a symbolic link' convert m --scheme int4 -o dangling
for out in . .. / m/..; do
    expect 2 'name a folder that is to be made' convert m --scheme int4 --force -o $out
done
expect 2 'is no result file' convert m --scheme int4 --force -o ours --results m/model.safetensors
expect 2 '-o is the same' convert m --scheme int4 --force -o y.safetensors --results y.safetensors
expect 99 'no such folder' convert m --scheme int4 --force -o ours --results no/where/r.h5
[ "$(cat theirs/thesis.txt)" = mine ] && [ -e deep/m/config.json ] && [ -h link ] || fail 'something of theirs is gone'
"$tensors" print m/model.safetensors | cmp -s - m.txt || fail 'the model was changed'
ls -d ..part .part ./*.part* 2>/dev/null && fail 'something provisional is left'
"$tensors" write head.safetensors lm_head.weight BF16 64x128 1,-2,0.5
expect 2 'never look for a quantized head' convert head.safetensors --scheme awq --tensors . --layout awq -o no
expect 99 'No such file' convert absent --scheme int4 -o no
expect 99 'No such file' convert m --scheme int4 -o absent/no

# A disk that is full: a sentence, and nothing is left.
(ulimit -f 100 && trap '' XFSZ && exec "$qgauge" convert big.safetensors --scheme int8 -o full) >out.txt 2>&1
code=$?
[ $code = 99 ] || fail "full disk: exit code $code: $(cat out.txt)"
has out.txt 'too large\|No space'
ls -d full* 2>/dev/null && fail 'full disk: something is left'

# Mistakes in what is asked.
expect 2 'which model?' convert
expect 2 'where to?' convert m --scheme int4
expect 2 'give either --recipe or --scheme' convert m -o no
expect 2 "there is no scheme 'int5'" convert m --scheme int5 -o no
expect 2 'is not a size' convert m --scheme int4 --shard-size 5XB -o no
expect 2 'is not a number of threads' convert m --scheme int4 --threads 0 -o no
expect 2 'K = 128, group = 256' convert m --scheme int4 --set group=256 -o no
ls -d no* 2>/dev/null && fail 'a refused conversion left something'
finish
