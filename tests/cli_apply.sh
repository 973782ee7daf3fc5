#!/bin/sh
# SPDX-License-Identifier: MIT
# qgauge apply and list, end to end: results, exit codes, messages.
. "$(dirname "$0")/cli.sh"

# shows FILE LINE: a tensor of the file prints as LINE.
shows() {
    "$tensors" print "$1" | grep -qxF -e "$2" || fail "$1 lacks '$2': $("$tensors" print "$1")"
}

# Results that can be worked out by hand. int8, per row: scale max|x| / 127.5.
"$tensors" write in8 x F32 2x2 0.5,-127.5,0,255
expect 0 '' apply --scheme int8 --op convert -i in8 -o out8
shows out8 'codes I8 2x2 0 -128 0 127'
shows out8 'scales F32 2x1 1 2'
shows out8 'zeros I8 2x1 0 0'
expect 0 '' apply --scheme int8 --op fake-quant -i in8 -o fake8
shows fake8 'y F32 2x2 0 -128 0 254'
expect 0 '' apply --scheme int8 --op dequant -i out8 -o back8
shows back8 'y F32 2x2 0 -128 0 254'
"$tensors" write grad8 x F32 1x2 0.5,-127.5 g F32 1x2 3,5
expect 0 '' apply --scheme int8 --op fake-quant-grad -i grad8 -o dx8
"$tensors" print dx8 | grep -q '^dx F32 1x2 3 ' || fail "dx: $("$tensors" print dx8)"

# int4: one group -8..7 times 1, zero point 0; x = e_0 and e_1 pick columns of the weight.
"$tensors" write in4 x BF16 1x32 -8,7,0,1,2,3,-1,-2
expect 0 '' apply --scheme int4 --op convert --set group=32 -i in4 -o out4
"$tensors" print out4 | grep -q '^codes U8 1x16 120 16 50 239 ' || fail "codes: $("$tensors" print out4)"
shows out4 'scales BF16 1x1 1'
shows out4 'zeros BF16 1x1 0'
e0=1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0
e1=0,$(echo $e0 | sed 's/,0$//')
"$tensors" write mm x BF16 2x32 $e0,$e1 w BF16 1x32 -8,7,0,1,2,3,-1,-2
expect 0 '' apply --scheme int4 --op matmul --set group=32 -i mm -o mmout
shows mmout 'y BF16 2x1 -8 7'
"$tensors" write mmplanes x BF16 2x32 $e0,$e1 codes U8 1x16 120,16,50,239 scales BF16 1x1 1 \
    zeros BF16 1x1 0 something I8 1 4
expect 0 '' apply --scheme int4 --op matmul --set group=32 -i mmplanes -o mmout2
cmp -s mmout mmout2 || fail 'matmul of w and of its planes differ'

# lora: e_0 and e_1 again; a sees e_1 twice over, b doubles, s halves.
adapter="a BF16 1x32 0,2,$(echo $e0 | sed 's/1,0,//') b BF16 1x1 2 s F32 1 0.5"
"$tensors" write lo x BF16 2x32 $e0,$e1 w BF16 1x32 -8,7,0,1,2,3,-1,-2 $adapter
"$tensors" write loplanes x BF16 2x32 $e0,$e1 codes U8 1x16 120,16,50,239 scales BF16 1x1 1 \
    zeros BF16 1x1 0 $adapter
for in in lo loplanes; do
    expect 0 '' apply --scheme int4 --op lora --set group=32 -i $in -o $in.out
    shows $in.out 'y BF16 2x1 -8 9'
    expect 0 '' apply --scheme int4 --op lora --set group=32 --backend blas -i $in -o $in.out --force
    shows $in.out 'y BF16 2x1 -8 9'
done
expect 1 "there is no tensor 'a'" apply --scheme int4 --op lora -i mm -o no
expect 2 "scheme 'q8_0' has no lora" apply --scheme q8_0 --op lora -i lo -o no

# dtypes: the input's is kept; dequant takes it from a plane, or from --dtype.
for dtype in F32 BF16 F16; do
    "$tensors" write x x $dtype 2x128 1,2,-3
    for scheme in int4 fp8-int4 int8 int8-g32 int8-int4; do
        expect 0 '' apply --scheme $scheme --op fake-quant -i x -o y --force
        "$tensors" print y | grep -q "^y $dtype 2x128 " || fail "$scheme: y is not $dtype"
        expect 0 '' apply --scheme $scheme --op convert -i x -o planes --force
        expect 0 '' apply --scheme $scheme --op dequant -i planes -o y --force
    done
done
expect 0 '' apply --scheme fp8-int4 --op convert -i x -o planes --force
expect 0 '' apply --scheme fp8-int4 --op dequant -i planes -o y --force
"$tensors" print y | grep -q '^y BF16 ' || fail 'dequant without --dtype is not BF16'
expect 0 '' apply --scheme fp8-int4 --op dequant --dtype f32 -i planes -o y --force
"$tensors" print y | grep -q '^y F32 ' || fail 'dequant --dtype f32 is not F32'
expect 0 '' apply --scheme int8-int4 --op convert --operand activation -i x -o planes --force
"$tensors" print planes | grep -q '^scales F16 2x1 ' || fail 'operand activation'

# The same input gives the same bytes.
expect 0 '' apply --scheme int4 --op convert -i x -o one
expect 0 '' apply --scheme int4 --op convert -i x -o two
cmp -s one two || fail 'two runs differ'

# A backend's kernel writes the same planes; the output may replace the input.
expect 0 '' apply --scheme int4 --op convert --backend c -i x -o kernel
cmp -s one kernel || fail 'the c kernel and the definition differ'
cp x both
expect 0 '' apply --scheme int4 --op convert --force -i both -o both
cmp -s one both || fail 'in place'

# Input that does not fit: 1, and a sentence.
"$tensors" write bad x F32 2x100 1 rank1 F32 128 1
expect 1 "bad: tensor 'x': K = 100, group = 128: the group does not divide K" \
    apply --scheme int4 --op fake-quant -i bad -o no
"$tensors" write bad v F32 2x128 1 z F32 1 1
expect 1 "bad: there is no tensor 'x', which convert reads; the file has 'v', 'z'" \
    apply --scheme int4 --op convert -i bad -o no
"$tensors" write bad
expect 1 'the file has no tensor at all' apply --scheme int4 --op convert -i bad -o no
"$tensors" write bad x F32 128 1
expect 1 "tensor 'x' has shape [128]; it must have two dimensions: flatten it to [rows, K]" \
    apply --scheme int4 --op convert -i bad -o no
"$tensors" write bad x F32 2x2x128 1
expect 1 'has shape [2, 2, 128]; it must have two' apply --scheme int4 --op convert -i bad -o no
"$tensors" write bad x I8 2x128 1
expect 1 "tensor 'x' is I8; it must be F32, BF16 or F16" apply --scheme int4 --op convert -i bad -o no
"$tensors" write bad x F32 0x128 1
expect 1 "tensor 'x' has shape [0, 128]: it is empty" apply --scheme int4 --op convert -i bad -o no
"$tensors" write bad x F32 2x128 1 g BF16 2x128 1
expect 1 "tensor 'g' is BF16 [2, 128], expected F32 [2, 128]" \
    apply --scheme int4 --op fake-quant-grad -i bad -o no
"$tensors" write bad x F32 2x128 1 g F32 1x128 1
expect 1 "tensor 'g' is F32 [1, 128], expected F32 [2, 128]" \
    apply --scheme int4 --op fake-quant-grad -i bad -o no
"$tensors" write bad codes U8 4x64 1 scales BF16 4x1 1 zeros BF16 1x4 0
expect 1 "tensor 'scales' is BF16 [4, 1], expected BF16 [1, 4]" \
    apply --scheme int4 --op dequant -i bad -o no
"$tensors" write bad codes U8 4x64 1 scales BF16 1x4 1 zeros F32 1x4 0
expect 1 "tensor 'zeros' is F32 [1, 4], expected BF16 [1, 4]; see --set scale-dtype" \
    apply --scheme int4 --op dequant -i bad -o no
"$tensors" write bad codes U8 4x64 1 scales I8 1x4 1 zeros F32 1x4 0
expect 1 "tensor 'scales' is I8; it must be" apply --scheme int4 --op dequant -i bad -o no
"$tensors" write bad codes I8 4x64 1 scales BF16 1x4 1 zeros BF16 1x4 0
expect 1 "tensor 'codes' is I8 [4, 64], expected U8 [4, 64]" \
    apply --scheme int4 --op dequant -i bad -o no
"$tensors" write bad codes U8 64 1
expect 1 'codes have two dimensions' apply --scheme int4 --op dequant -i bad -o no
"$tensors" write bad codes U8 4x64 1
expect 1 "no tensor 'scales', which dequant reads" apply --scheme int4 --op dequant -i bad -o no
"$tensors" write bad x BF16 2x128 1 w F32 4x128 1
expect 1 "'x' is BF16 and 'w' is F32; they must share a dtype" \
    apply --scheme int4 --op matmul -i bad -o no
"$tensors" write bad x BF16 2x128 1 w BF16 4x256 1
expect 1 "'x' has K = 128 and the weight has K = 256" apply --scheme int4 --op matmul -i bad -o no
"$tensors" write bad x BF16 2x100 1 w BF16 4x100 1
expect 1 "bad: tensor 'w': K = 100, group = 128" apply --scheme int4 --op matmul -i bad -o no
"$tensors" write bad x BF16 2x128 1
expect 1 "no 'w' to convert, so the planes" apply --scheme int4 --op matmul -i bad -o no
printf 'hello, this is no safetensors file' >bad
expect 1 'bad: not a safetensors file' apply --scheme int4 --op convert -i bad -o no
head -c 40 x >bad
expect 1 'bad: truncated' apply --scheme int4 --op convert -i bad -o no
expect 1 '.: not a regular file' apply --scheme int4 --op convert -i . -o no
expect 1 "no kernel for convert of scheme 'int4' (weight) on backend 'abacus'; there is: int4.convert.c" \
    apply --scheme int4 --op convert --backend abacus -i x -o no
expect 1 "on backend 'c' variant abacus; there is: int4.convert.c" \
    apply --scheme int4 --op convert --backend c --variant abacus -i x -o no

# Bytes that no quantizer writes still give a result.
"$tensors" write odd x F32 1x32 nan,inf,-inf,1e38 codes I8 1x32 -128,127 scales F32 1x1 nan zeros I8 1x1 127
expect 0 '' apply --scheme int8-int4 --op matmul -i odd -o odd1
"$tensors" write odd x F32 1x128 nan,inf codes U8 2x64 255,0,128 scales F8_E4M3 1x2 nan row_scales F32 2 inf
expect 0 '' apply --scheme fp8-int4 --op matmul -i odd -o odd2

# Usage: 2, and what there is instead.
expect 2 "there is no scheme 'int3' (did you mean 'int4'?); there are: fp8-int4" apply --scheme int3 --op convert -i x -o no
expect 2 "there is no operation 'pack'; there are: fake-quant" apply --scheme int4 --op pack -i x -o no
expect 2 'has no convert of activation; it has: fake-quant of weight' \
    apply --scheme int4 --op convert --operand activation -i x -o no
expect 2 "not 'bias'" apply --scheme int4 --op convert --operand bias -i x -o no
expect 2 "has no parameter 'gruop'; it has: group" \
    apply --scheme int4 --op convert --set gruop=64 -i x -o no
expect 2 "a whole number from 32 to 256, not '1'" apply --scheme int4 --op convert --set group=1 -i x -o no
expect 2 'write NAME=VALUE' apply --scheme int4 --op convert --set group -i x -o no
expect 2 'parameters are written --set' apply --scheme int4 --op convert --set group=64 eps=0 -i x -o no
expect 2 '--scheme NAME (or --layer NAME) is missing' apply --op convert -i x -o no
expect 2 '--op NAME is missing' apply --scheme int4 -i x -o no
expect 2 '-i FILE is missing' apply --scheme int4 --op convert -o no
expect 2 '-o FILE is missing' apply --scheme int4 --op convert -i x
expect 2 "'--scheme' needs a value" apply --scheme
expect 2 "there is no option '--schema'" apply --schema int4
expect 2 '--variant needs --backend' apply --scheme int4 --op convert --variant a -i x -o no
expect 2 '--dtype is for dequant' apply --scheme int4 --op convert --dtype F32 -i x -o no
expect 2 "--dtype is F32, BF16 or F16, not 'I8'" apply --scheme int4 --op dequant --dtype I8 -i x -o no
expect 2 "'scales' in one is F16, and that decides" \
    apply --scheme int4 --op dequant --dtype F32 -i one -o no

# Files: 99, and nothing is left or lost.
expect 99 'missing: No such file' apply --scheme int4 --op convert -i missing -o no
expect 99 'one: the file exists, nothing was written' apply --scheme int4 --op convert -i x -o one
cmp -s one two || fail 'the existing file was touched'
expect 99 '/dev/null: not a regular file' apply --scheme int4 --op convert --force -i x -o /dev/null
[ -c /dev/null ] || fail '/dev/null is no more'
expect 99 'there is no such folder' apply --scheme int4 --op convert -i x -o nowhere/no
"$tensors" write big x F32 64x4096 1,2,3
(
    ulimit -f 8
    "$qgauge" apply --scheme int8 --op convert -i big -o no >out.txt 2>&1
    [ $? = 99 ]
) || fail "a full disk: $(cat out.txt)"
grep -q 'no: nothing was written: File too large' out.txt || fail "a full disk: $(cat out.txt)"
for left in no no.part one.part; do
    [ ! -e $left ] || fail "$left was left behind"
done

# list
expect 0 'int8-int4        int8 per-token' list schemes
expect 0 'scales       by scale-dtype' list schemes -v
expect 0 '"must_divide_k":	true' list schemes --format json
expect 0 '"available":	true' list backends --format json
expect 0 '"kernels":' list --format json
expect 0 'w            input              [N, K]' list layers -v
expect 0 '"layers":' list layers --format json
expect 0 'nonfinite ' list fills
expect 0 'nvcc' list resources
expect 0 'int4.convert.c ' list kernels
expect 2 "there is no list 'planes'; there are: schemes, layers, kernels, backends, fills" list planes
expect 2 "--format is text or json, not 'xml'" list --format xml
expect 2 'one list at a time' list schemes kernels
expect 2 "there is no option '--all'" list --all
expect 0 'usage: qgauge list' list --help
expect 0 'usage: qgauge apply' apply --help

# Layers. x = (1, 2), w = 3 rows of 2, A = (1, -1), B = (2, 0, 1)^T: y = x w^T + s (-1) B^T.
"$tensors" write lora x F32 1x2 1,2 w F32 3x2 1,0,0,1,1,1 a F32 1x2 1,-1 b F32 3x1 2,0,1
expect 0 '' apply --layer lora-unsloth --op forward -i lora -o lora1
shows lora1 'y F32 1x3 -1 2 2'
expect 0 '' apply --layer lora-unsloth --op forward --set s=2 -i lora -o lora2
shows lora2 'y F32 1x3 -3 2 1'
# With int8 as the base's scheme: w converted and dequantized, or its planes; by hand the same.
expect 0 '' apply --layer lora-unsloth --op forward --scheme int8 -i lora -o lora3
"$tensors" write lora-base x F32 3x2 1,0,0,1,1,1
expect 0 '' apply --scheme int8 --op convert -i lora-base -o lora-codes
expect 0 '' apply --scheme int8 --op dequant -i lora-codes -o lora-dense
with_prefix() { awk '{ printf "w.%s %s %s %s", $1, $2, $3, $4; for (i = 5; i <= NF; i++) printf ",%s", $i; printf " " }'; }
"$tensors" write lora-planes x F32 1x2 1,2 a F32 1x2 1,-1 b F32 3x1 2,0,1 $("$tensors" print lora-codes | with_prefix)
expect 0 '' apply --layer lora-unsloth --op forward --scheme int8 -i lora-planes -o lora4
cmp -s lora3 lora4 || fail 'a layer of w and of its planes differ'
expect 2 "there is no layer 'lora'; there are: experts, " apply --layer lora --op forward -i lora -o no
expect 2 "layer 'lora-unsloth' has no matmul" apply --layer lora-unsloth --op matmul -i lora -o no
expect 2 "layer 'lora-unsloth' has no parameter 'r'" apply --layer lora-unsloth --op forward \
    --set r=2 -i lora -o no
expect 2 '--backend and --operand are not for layers' apply --layer lora-unsloth --op forward \
    --backend c -i lora -o no
expect 1 "there is no tensor 'mask', which forward reads" apply --layer lora-unsloth --op forward \
    --set p=0.5 -i lora -o no
"$tensors" write lora-none x F32 1x2 1,2 a F32 1x2 1,-1 b F32 3x1 2,0,1
expect 1 "there is no tensor 'w.codes'" apply --layer lora-unsloth --op forward --scheme int8 \
    -i lora-none -o no
"$tensors" write lora-bad x F32 1x2 1,2 w F32 3x2 1,0,0,1,1,1 a F32 1x3 1,-1,0 b F32 3x1 2,0,1
expect 1 "'a' [RK] says K = 3, others say 2" apply --layer lora-unsloth --op forward -i lora-bad -o no
"$tensors" write lora-qat x F32 1x32 1 w F32 1x32 1 a F32 4x32 1 b F32 1x4 1
"$tensors" write lora-g x F32 1x2 1,2 w F32 3x2 1,0,0,1,1,1 a F32 1x2 1,-1 b F32 3x1 2,0,1 g F32 1x3 1,0,0
expect 0 '' apply --layer lora-unsloth --op backward --set s=2 -i lora-g -o lora6
shows lora6 'dx F32 1x2 5 -4'
shows lora6 'da F32 1x2 4 8'
shows lora6 'db F32 3x1 -2 0 0'
# QAT: B's rows are as long as the rank, which the group need not divide.
expect 1 'qat of w [N,K]: K = 2, group = 32' apply --layer lora-unsloth --op forward --set qat=int8-g32 -i lora -o no
expect 0 '' apply --layer lora-unsloth --op forward --set qat=int8-g32 --set qat-indivisible=skip -i lora -o lora5
cmp -s lora1 lora5 || fail 'weights that are passed over change the result'
expect 1 'b [N,R]' apply --layer lora-unsloth --op forward --set qat=int4 --set qat-group=32 -i lora-qat -o no
expect 1 'go on through the fake quantizers' apply --layer lora-unsloth --op backward --set qat=int8 -i lora-g -o no
expect 1 'set bias=off' apply --layer lora-unsloth --op backward --set bias=on -i lora-g -o no
[ ! -e no ] || fail 'a refused layer left an output'

finish
