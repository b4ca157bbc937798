#!/usr/bin/env bash
# convert.sh - `ssm convert` from outside: every form of config, every refusal, the bytes it writes, headers for firmware.
# SPDX-License-Identifier: MIT
#
# Usage: tests/convert.sh PATH/TO/ssm. Needs bash and coreutils; failing system calls are tested too where strace is there.

# shellcheck disable=SC2046,SC2086 # lists of tensors are words
source "$(dirname "$0")/expect.sh"
writes=yes
golden=$here/golden/mamba
one=$golden/m1_lm2_d32_hfnames.safetensors # Mamba-1, "-hf" names, a tied head
two=$golden/m2_lm2_d32_hfnames.safetensors # Mamba-2, likewise
three=$golden/m3_siso_tiny_trace.safetensors # Mamba-3, one mixer alone
s4d=$here/golden/s4d/01_zoh_h8_n4.safetensors
convert() { "$ssm" convert "$@"; }
# good NAME COMMAND...: status 0, nothing printed.
good() {
    local name=$1
    shift
    "$@" >got.out 2>got.err </dev/null
    same "$name" "$? $(cat got.out got.err)" "0 "
}
# warns NAME STDERR COMMAND...: status 0, exactly this on standard error.
warns() {
    local name=$1 want=$2
    shift 2
    "$@" >got.out 2>got.err </dev/null
    same "$name" "$? $(cat got.out)|$(cat got.err)" "0 |$want"
}
# meta FILE: its metadata without what golden files say about themselves, in one line.
meta() {
    "$ssm" inspect "$1" | grep '^#' | cut -c3- | tr -d ' ' |
        grep -v -e ^absmax -e ^rms_out -e ^f32_max -e ^seed -e ^T: -e ^mid_ -e ^input_kind -e ^weight_dtype -e ^vocab_padded | tr '\n' ' '
}
tensors() { "$ssm" inspect "$1" | grep -v '^#' | sort; }
header() { tail -c +9 "$1" | head -c "$(od -An -tu4 -N4 "$1")"; }
# emit FILE HEADER [DATA-FILE...]: a safetensors file.
emit() {
    local n=${#2}
    {
        printf "\\x$(printf %02x $((n & 255)))\\x$(printf %02x $((n >> 8 & 255)))\\x$(printf %02x $((n >> 16 & 255)))\\0\\0\\0\\0\\0"
        printf %s "$2"
        [ $# -gt 2 ] && cat "${@:3}"
    } >"$1"
}
# edit FROM TO [OLD NEW]...: a copy with other text in its header, each time everywhere.
edit() {
    local from=$1 to=$2 text
    text=$(header "$from")
    tail -c +$((9 + ${#text})) "$from" >data
    shift 2
    while [ $# -gt 1 ]; do
        [[ $text == *"$1"* ]] || no "edit: no $1 in $from"
        text=${text//"$1"/"$2"}
        shift 2
    done
    emit "$to" "$text" data
}
# model FILE METADATA NAME:DIMS...: tensors of zeros, F32, or NAME:DTYPE:DIMS with BYTES of an element as DTYPE=BYTES.
model() {
    local file=$1 text="{\"__metadata__\":{$2}" at=0 t n d type
    shift 2
    for t; do
        local name=${t%%:*} dims=${t##*:} bytes=4
        type=F32
        [[ $t == *:*:* ]] && { type=${t#*:}; type=${type%%:*}; bytes=${type#*=}; type=${type%=*}; }
        n=$bytes
        for d in ${dims//,/ }; do n=$((n * d)); done
        text+=",\"$name\":{\"dtype\":\"$type\",\"shape\":[$dims],\"data_offsets\":[$at,$((at + n))]}"
        at=$((at + n))
    done
    head -c $at /dev/zero >data
    emit "$file" "$text}" data
}
m1_layer() { # I: the tensors of a small Mamba-1 layer: d 2, d_inner 4, N 3, dt_rank 1, K 2
    local at=layers.$1
    echo "$at.norm.weight:2 $at.mixer.in_proj.weight:8,2 $at.mixer.conv1d.weight:4,1,2 $at.mixer.conv1d.bias:4" \
        "$at.mixer.x_proj.weight:7,4 $at.mixer.dt_proj.weight:4,1 $at.mixer.dt_proj.bias:4 $at.mixer.A_log:4,3" \
        "$at.mixer.D:4 $at.mixer.out_proj.weight:2,4"
}
m2_layer() { # I G*N: d 4, d_inner 8, 2 heads of 4, K 2
    local at=layers.$1 both=$((2 * $2))
    echo "$at.norm.weight:4 $at.mixer.in_proj.weight:$((16 + both + 2)),4 $at.mixer.conv1d.weight:$((8 + both)),1,2" \
        "$at.mixer.conv1d.bias:$((8 + both)) $at.mixer.dt_bias:2 $at.mixer.A_log:2 $at.mixer.D:2" \
        "$at.mixer.norm.weight:8 $at.mixer.out_proj.weight:4,8"
}
m3_layer() { # I G S R [mimo]: d 4, d_inner 8, 4 heads of 2, N 8
    local at=layers.$1 rows=$((16 + 16 * $2 * $4 + 12 + $3)) t
    echo "$at.norm.weight:4 $at.mixer.in_proj.weight:$rows,4 $at.mixer.dt_bias:4 $at.mixer.B_bias:4,$4,8" \
        "$at.mixer.C_bias:4,$4,8 $at.mixer.B_norm.weight:8 $at.mixer.C_norm.weight:8 $at.mixer.D:4" \
        "$at.mixer.out_proj.weight:4,8"
    for t in ${5:+x z o}; do echo "$at.mixer.mimo_$t:4,$4,2"; done
}

# ---- Usage

"$ssm" convert --help >got.out 2>got.err
same "--help" "$? $(head -c 18 got.out) $(wc -c <got.err)" "0 usage: ssm convert 0"
like "no files" 2 'ssm convert: expected 2 operands, got 0; see ssm convert --help' convert
like "one file" 2 'ssm convert: expected 2 operands, got 1; see ssm convert --help' convert "$one"
like "three files" 2 'ssm convert: unexpected operand "more"; see ssm convert --help' convert "$one" out more
like "unknown option" 2 'ssm convert: unknown option "--c"; see ssm convert --help' convert "$one" out --c x
like "unknown activation" 2 'ssm convert: --a-activation: got "relu", expected heavy_tail or softplus' convert "$three" out --a-activation relu
like "activation of Mamba-1" 2 'ssm convert: --a-activation goes with Mamba-3, * is mamba1' convert "$one" out --a-activation softplus
cp "$one" in.st
before=$(cksum <in.st)
like "IN is OUT" 2 'ssm convert: IN and OUT are the same file, in.st' convert in.st in.st
like "IN is OUT by another path" 2 'ssm convert: IN and OUT are the same file, in.st' convert in.st "$work/in.st"
ln in.st hard && ln -s in.st soft
like "IN is OUT by a hard link" 2 'ssm convert: IN and OUT are the same file, in.st' convert in.st hard
like "IN is OUT by a symbolic link" 2 'ssm convert: IN and OUT are the same file, soft' convert soft in.st
echo '{}' >c.json
like "--config is OUT" 2 'ssm convert: --config and OUT are the same file, c.json' convert in.st c.json --config c.json
same "nothing was changed" "$(cksum <in.st) $(cat c.json)" "$before {}"
like "IN missing" 4 'ssm convert: missing: No such file or directory' convert missing out
like "IN a folder" 4 'ssm convert: .: is a directory, expected a file' convert . out
like "IN a device" 4 'ssm convert: /dev/null: is not a regular file' convert /dev/null out
like "config missing" 4 'ssm convert: missing: No such file or directory' convert "$one" out --config missing
like "config a folder" 4 'ssm convert: .: is not a regular file' convert "$one" out --config .
like "OUT in a missing folder" 4 'ssm convert: no/where: cannot create: No such file or directory' convert "$one" no/where
like "OUT a device" 4 'ssm convert: /dev/null: is not a regular file, cannot be saved to' convert "$one" /dev/null
like "OUT a folder" 4 'ssm convert: .: is not a regular file, cannot be saved to' convert "$one" .
: >nothing.st
head -c 100 "$one" >cut.st
like "IN empty" 3 'ssm convert: nothing.st: is empty, expected a safetensors file' convert nothing.st out
like "IN cut short" 3 'ssm convert: cut.st: the file ends inside its header: expected *, got *' convert cut.st out

# ---- Golden files: metadata, names, bytes

good "Mamba-1" convert "$one" 1.st
same "Mamba-1: metadata" "$(meta 1.st)" "arch:mamba1 d_conv:4 d_inner:64 d_model:32 d_state:16 dt_rank:2 format:ssm-float format_version:1 head:tied input:tokens mlp_hidden:0 n_layer:2 norm:rms pool:none scope:lm vocab_size:40 "
good "Mamba-2" convert "$two" 2.st
same "Mamba-2: metadata" "$(meta 2.st)" "arch:mamba2 d_conv:4 d_inner:64 d_model:32 d_ssm:64 d_state:16 format:ssm-float format_version:1 head:tied headdim:16 input:tokens mlp_hidden:0 n_layer:2 ngroups:1 norm:rms norm_before_gate:false pool:none scope:lm vocab_size:40 "
good "Mamba-3" convert "$three" 3.st
same "Mamba-3: metadata" "$(meta 3.st)" "a_activation:heavy_tail a_floor:0.0001 arch:mamba3 d_inner:64 d_model:32 d_state:16 format:ssm-float format_version:1 head:none headdim:16 input:none is_mimo:false is_outproj_norm:false mimo_rank:1 mlp_hidden:0 n_layer:1 ngroups:1 norm:rms pool:none rope_angles:4 scope:mixer "
for k in 1 2 3; do
    in=$one
    [ $k == 2 ] && in=$two
    [ $k == 3 ] && in=$three
    same "$k: tensors and names" "$(tensors $k.st)" "$(tensors "$in" | sed -e 's/^backbone\.//' -e 's/^embeddings/embedding/' | sort)"
    good "$k: once more" convert "$in" again.st
    same "$k: the same bytes" "$(cksum <again.st)" "$(cksum <$k.st)"
    good "$k: of the converted file" convert $k.st twice.st
    same "$k: no change" "$(cksum <twice.st)" "$(cksum <$k.st)"
    same "$k: header in eights" $(($(od -An -tu4 -N4 $k.st) % 8)) 0
    good "$k: over an old file" convert "$in" twice.st
done
# The bytes of a tensor: begin and end in the header, then cut out.
slice() {
    local text
    text=$(header "$1")
    [[ $text =~ \"$2\":\{[^}]*\"data_offsets\":\[([0-9]+),([0-9]+) ]] || return
    tail -c +$((9 + ${#text} + BASH_REMATCH[1])) "$1" | head -c $((BASH_REMATCH[2] - BASH_REMATCH[1])) | cksum
}
for t in layers.1.mixer.in_proj.weight layers.0.mixer.A_log norm_f.weight; do
    same "bytes of $t" "$(slice 1.st $t)" "$(slice "$one" backbone.$t)"
done
same "bytes of the embedding" "$(slice 2.st embedding.weight)" "$(slice "$two" backbone.embeddings.weight)"
same "bytes of a golden tensor" "$(slice 3.st golden.output)" "$(slice "$three" golden.output)"
for file in "$golden"/*.safetensors; do # whatever else is there
    good "${file##*/}" convert "$file" first.st
    good "${file##*/} converted" convert first.st second.st
    same "${file##*/}: no change" "$(cksum <second.st)" "$(cksum <first.st)"
done

# Every tensor begins at a multiple of its element size.
model mixed.st '"format":"x"' golden.a:U8=1:3 golden.b:F64=8:1 $(m1_layer 0) norm_f.weight:2 golden.c:F16=2:5 embedding.weight:BF16=2:5,2 golden.d:C64=8:1
warns "mixed dtypes" "ssm convert: mixed.st: no config given or found: official defaults where shapes do not decide" convert mixed.st out
bad=0
while read -r size begin; do [ $((begin % size)) == 0 ] || bad=1; done < <(header out | grep -o '"dtype":"[A-Z0-9]*","shape":[^]]*],"data_offsets":.[0-9]*' |
    sed -e 's/.*dtype":"\([A-Z0-9]*\)".*\[/\1 /' -e 's/^[FIC]*64/8/' -e 's/^F32/4/' -e 's/^B*F16/2/' -e 's/^U8/1/')
same "alignment" "$bad $(tensors out | wc -l)" "0 16"

# ---- Forms of config

bare() { # FROM TO [METADATA]: a copy with other metadata, or none
    local text
    text=$(header "$1")
    tail -c +$((9 + ${#text})) "$1" >data
    emit "$2" "{${3:+\"__metadata__\":{$3\},}${text#*\"\},}" data
}
bare "$one" bare1.st
bare "$two" bare2.st
bare "$three" bare3.st
plain_meta="arch:mamba1 d_conv:4 d_inner:64 d_model:32 d_state:16 dt_rank:2 format:ssm-float format_version:1 head:tied input:tokens mlp_hidden:0 n_layer:2 norm:rms pool:none vocab_size:40 "
note="no config given or found: official defaults where shapes do not decide"
warns "shapes alone" "ssm convert: bare1.st: $note" convert bare1.st a.st
same "shapes alone: metadata" "$(meta a.st)" "$plain_meta"
warns "shapes alone, Mamba-3" "ssm convert: bare3.st: $note" convert bare3.st a.st
same "shapes alone, Mamba-3: metadata" "$(meta a.st)" "$(meta 3.st)"
like "shapes alone, Mamba-2" 3 'ssm convert: bare2.st: tensor "backbone.layers.0.mixer.in_proj.weight": 16 rows each for B and C, expected 1 \* 128 (ngroups by default \* d_state by default)' convert bare2.st out
config() { printf '%s' "$1" >c.json; } # the config of the tests to come
official='"d_model": 32, "n_layer": 2, "d_intermediate": 0, "vocab_size": 40, "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 8, "tie_embeddings": true'
config "{$official, \"ssm_cfg\": {}}"
good "official, Mamba-1" convert bare1.st a.st --config c.json
same "official, Mamba-1: metadata" "$(meta a.st)" "$plain_meta"
config "{$official, \"ssm_cfg\": {\"layer\": \"Mamba2\", \"d_state\": 16, \"headdim\": 16, \"d_ssm\": null, \"norm_before_gate\": true, \"dt_limit\": [0.0, Infinity]}}"
good "official, Mamba-2" convert bare2.st a.st --config=c.json
same "official, Mamba-2: the gate" "$("$ssm" inspect a.st | grep gate)" "# norm_before_gate: true"
hf='"d_inner": 64, "n_layer": 24, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 16, "conv_kernel": 4, "intermediate_size": 64, "expand": 2, "use_bias": false, "use_conv_bias": true, "layer_norm_epsilon": 1e-05, "tie_word_embeddings": true, "vocab_size": 40, "hidden_act": "silu", "rms_norm": true, "architectures": ["x"], "torch_dtype": "float32"'
hf1="\"model_type\": \"mamba\", \"time_step_rank\": 2, $hf"
hf2="\"model_type\": \"mamba2\", \"time_step_rank\": 16, \"num_heads\": 4, \"head_dim\": 16, \"n_groups\": 1, \"norm_before_gate\": false, $hf"
config "{$hf1}"
good "-hf, Mamba-1" convert bare1.st a.st --config c.json
same "-hf, Mamba-1: metadata" "$(meta a.st)" "$plain_meta"
config "{$hf2, \"time_step_limit\": [0.0, Infinity]}"
good "-hf, Mamba-2" convert bare2.st b.st --config c.json
same "-hf, Mamba-2: metadata" "$(meta b.st)" "$(meta 2.st | sed 's/scope:lm //')"
for limit in '[0, 1e999]' '[0.0,{"__float__":"Infinity"}]' null; do
    config "{$hf2, \"time_step_limit\": $limit}"
    good "limits $limit" convert bare2.st a.st --config c.json
    same "limits $limit: the same" "$(cksum <a.st)" "$(cksum <b.st)"
done
for limit in '[0.001, 0.1]' '[0.0]' '[]' '0' '"x"' '[0.1, Infinity]' '[-Infinity, Infinity]' '[0.0, {"__float__":"x"}]' '[0.0, {}]' '{"a":0}'; do
    config "{$hf2, \"time_step_limit\": $limit}"
    like "limits $limit" 3 'ssm convert: c.json: "time_step_limit": found *, expected \[0, Infinity\]: limits of the time step are not supported' convert bare2.st out --config c.json
done
config "{$hf2}"
sed 's/"norm_before_gate": false/"norm_before_gate": true/' c.json >d.json
warns "-hf, the gate" 'ssm convert: d.json: "norm_before_gate" is true, but models of the "-hf" form gate first whatever it says: used false' convert bare2.st a.st --config d.json
same "-hf, the gate: the same" "$(cksum <a.st)" "$(cksum <b.st)"

# In the metadata, three ways; and beside the file.
edit "$two" a.st '"config":' '"other":'
good "cfg. keys" convert a.st out
same "cfg. keys: metadata" "$(meta out )" "$(meta 2.st)"
bare "$two" a.st '"config":"{\"ssm_cfg\":{\"layer\":\"Mamba2\",\"d_state\":16}}","format":"pt"'
good "a config key" convert a.st out
bare "$two" a.st '"config":"{\"model_type\":\"mamba2\",\"state_size\":16,\"n_groups\":1}"'
good "a config key in -hf form" convert a.st out
bare "$two" a.st '"arch":"mamba2","d_state":"8","ngroups":"2","pool":"mean","task":"t","labels":"a,b","provenance":"p\n\"q\"","clip":"50","more":"gone","attn_layer_idx":"[]","vocab_size":"39","sample_rate":"8000"'
good "flat keys" convert a.st out
same "flat keys: metadata" "$(meta out)" 'arch:mamba2 clip:50 d_conv:4 d_inner:64 d_model:32 d_ssm:64 d_state:8 format:ssm-float format_version:1 head:tied headdim:16 input:tokens labels:a,b mlp_hidden:0 n_layer:2 ngroups:2 norm:rms norm_before_gate:false pool:mean provenance:p\x0a"q" sample_rate:8000 task:t vocab_size:39 '
good "flat keys again" convert out again.st
same "flat keys again: no change" "$(cksum <again.st)" "$(cksum <out)"
mkdir beside
cp bare2.st beside/model.safetensors
cp c.json beside/config.json
warns "config.json beside" "ssm convert: beside/config.json: used, it stands beside beside/model.safetensors" convert beside/model.safetensors a.st
same "config.json beside: the same" "$(cksum <a.st)" "$(cksum <b.st)"
(cd beside && "$ssm" convert model.safetensors ../a.st 2>&1) >got.out
same "config.json here" "$? $(cat got.out) $(cksum <a.st)" "0 ssm convert: config.json: used, it stands beside model.safetensors $(cksum <b.st)"
cp "$two" beside/own.st
good "its own config comes first" convert beside/own.st a.st
echo '{' >beside/config.json
like "a bad config.json beside" 3 'ssm convert: beside/config.json: not valid JSON: *' convert beside/model.safetensors out
good "--config comes before it" convert beside/model.safetensors a.st --config c.json
rm beside/config.json && mkdir beside/config.json
like "a folder beside" 4 'ssm convert: beside/config.json: is not a regular file' convert beside/model.safetensors out

# ---- Configs that disagree with the shapes

config "{${hf2/\"hidden_size\": 32/\"hidden_size\": 4096}}"
warns "a wrong hidden_size" 'ssm convert: c.json: "hidden_size" is 4096, the tensors say 32: used 32' convert bare2.st a.st --config c.json
same "a wrong hidden_size: the same" "$(cksum <a.st)" "$(cksum <b.st)"
# disagrees MODEL CONFIG KEY IS SAYS
disagrees() {
    config "$2"
    warns "$3" "ssm convert: c.json: \"$3\" is $4, the tensors say $5: used $5" convert "$1" a.st --config c.json
}
disagrees bare1.st "{${hf1/_layers\": 2/_layers\": 1}}" num_hidden_layers 1 2
disagrees bare1.st "{${hf1/e_size\": 16/e_size\": 8}}" state_size 8 16
disagrees bare1.st "{${hf1/l\": 4/l\": 3}}" conv_kernel 3 4
disagrees bare1.st "{${hf1/te_size\": 64/te_size\": 65}}" intermediate_size 65 64
disagrees bare1.st "{${hf1/d\": 2,/d\": 1.5,}}" expand 1.5 2
disagrees bare1.st "{${hf1/use_conv_bias\": true/use_conv_bias\": false}}" use_conv_bias false true
disagrees bare1.st "{${hf1/rank\": 2/rank\": 3}}" time_step_rank 3 2
disagrees bare1.st "{${hf1/vocab_size\": 40/vocab_size\": 50280}}" vocab_size 50280 40
disagrees bare1.st "{${hf1/\"mamba\"/\"mamba2\"}}" model_type '"mamba2"' mamba1
disagrees bare2.st "{${hf2/heads\": 4/heads\": 128}}" num_heads 128 4
disagrees bare2.st "{${hf2/head_dim\": 16/head_dim\": 64}}" head_dim 64 16
disagrees bare2.st "{${hf2/rms_norm\": true/rms_norm\": false}}" rms_norm false true
disagrees bare1.st '{"d_model": 64}' d_model 64 32
disagrees bare1.st '{"n_layer": 1}' n_layer 1 2
disagrees bare1.st '{"ssm_cfg": {"d_state": 17}}' ssm_cfg.d_state 17 16
disagrees bare1.st '{"ssm_cfg": {"layer": "Mamba3"}}' ssm_cfg.layer '"Mamba3"' mamba1
disagrees bare1.st '{"ssm_cfg": {"conv_bias": false}}' ssm_cfg.conv_bias false true
disagrees bare1.st '{"ssm_cfg": {"dt_rank": 1}}' ssm_cfg.dt_rank 1 2
disagrees bare1.st '{"ssm_cfg": {"d_conv": 3}}' ssm_cfg.d_conv 3 4
disagrees bare2.st '{"ssm_cfg": {"d_state": 16, "headdim": 64}}' ssm_cfg.headdim 64 16
disagrees bare2.st '{"ssm_cfg": {"d_state": 16, "d_ssm": 32}}' ssm_cfg.d_ssm 32 64
disagrees bare2.st '{"ssm_cfg": {"d_state": 16, "rmsnorm": false}}' ssm_cfg.rmsnorm false true
disagrees bare3.st '{"ssm_cfg": {"ngroups": 4}}' ssm_cfg.ngroups 4 1
disagrees bare3.st '{"ssm_cfg": {"rope_fraction": 1.0}}' ssm_cfg.rope_fraction 1.0 0.5
disagrees bare3.st '{"ssm_cfg": {"headdim": 64}}' ssm_cfg.headdim 64 16
config '{"vocab_size": 20}'
warns "a vocabulary that pads to less" 'ssm convert: c.json: "vocab_size" is 20, padded to a multiple of 8, the tensors say 40: used 40' convert bare1.st a.st --config c.json
same "a vocabulary that pads to less: used" "$(meta a.st | grep -o 'vocab_size:[0-9]*')" vocab_size:40
config '{"vocab_size": 33, "ssm_cfg": {"dt_rank": "auto", "mimo_rank": 4}}'
good "a vocabulary that pads to it" convert bare1.st a.st --config c.json
same "a vocabulary that pads to it: used" "$(meta a.st | grep -o 'vocab_size:[0-9]*')" vocab_size:33
config '{"vocab_size": 40, "pad_vocab_size_multiple": 40, "ssm_cfg": {"is_mimo": false, "mimo_rank": 4}}'
good "the whole vocabulary" convert bare1.st a.st --config c.json
config '{"d_model": 1, "ssm_cfg": {"d_state": 2, "expand": 3}}'
"$ssm" convert bare1.st a.st --config c.json 2>got.err
same "a line for each" "$? $(wc -l <got.err)" "0 3"
bare "$one" a.st '"cfg.d_model":"33","cfg.ssm_cfg.layer":"Mamba1"'
warns "in cfg. keys" 'ssm convert: a.st: metadata "cfg.d_model" is 33, the tensors say 32: used 32' convert a.st out
bare "$one" a.st '"config":"{\"d_model\":33}"'
warns "in a config key" 'ssm convert: a.st: metadata "config": "d_model" is 33, the tensors say 32: used 32' convert a.st out
bare "$one" a.st '"arch":"mamba1","d_model":"33"'
warns "in flat keys" 'ssm convert: a.st: metadata "d_model" is 33, the tensors say 32: used 32' convert a.st out
bare "$one" a.st '"format":"ssm-float","head":"none","norm":"layer"'
like "LayerNorm without its bias" 3 'ssm convert: a.st: tensor "backbone.layers.0.norm.bias": missing, expected shape \[32\], 3 missing in all' convert a.st out
bare "$one" a.st '"format":"ssm-float","head":"none","input":"none"'
warns "input" 'ssm convert: a.st: metadata "input" is "none", the tensors say tokens: used tokens' convert a.st out
same "an embedding and no head" "$(meta out | grep -o 'head:[a-z]*')" head:none

# ---- Configs that are wrong

like_config() { # NAME CONFIG PATTERN [MODEL]
    config "$2"
    like "$1" 3 "ssm convert: c.json: $3" convert "${4:-bare1.st}" out --config c.json
}
like_config "not JSON" '{"d_model": 32' 'not valid JSON: the text ends too early at byte 14'
like_config "two values" '{} {}' 'not valid JSON: text follows the end of the value at byte 3'
like_config "empty" '' 'not valid JSON: the text ends too early at byte 0'
like_config "not UTF-8" $'{"a": "\xff"}' 'not valid JSON: not valid UTF-8 at byte 7'
like_config "NaN" '{"a": NaN}' 'not valid JSON: expected a value at byte 6'
like_config "a word glued to Infinity" '{"a": 1Infinity}' 'not valid JSON: *'
like_config "Infinity glued to a word" '{"a": Infinity1}' 'not valid JSON: *'
like_config "Infinity as a size" '{"d_model": Infinity}' '"d_model": found 1e999999, expected a whole number from 1 to 2147483647'
like_config "an array" '[]' 'not a JSON object, expected { ... }'
like_config "a number" '1' 'not a JSON object, expected { ... }'
like_config "null" 'null' 'not a JSON object, expected { ... }'
like_config "a key twice" '{"d_model": 32, "d_\u006dodel": 32}' 'key "d_model" stands twice, expected every key once'
like_config "a key twice inside" '{"x": [{"y": {"a": 1, "a": 2}}]}' 'key "a" stands twice, expected every key once'
good_depth=$(printf '[%.0s' {1..31})$(printf ']%.0s' {1..31})
config "{\"x\": $good_depth}"
good "as deep as allowed" convert bare1.st a.st --config c.json
like_config "too deep" "{\"x\": [$good_depth]}" 'not valid JSON: nested deeper than the limit of 32 at byte *'
printf '{"x": "%s"}' "$(head -c 1048567 /dev/zero | tr '\0' x)" >c.json
same "a config at its limit" "$(wc -c <c.json)" 1048576
good "as long as allowed" convert bare1.st a.st --config c.json
printf ' ' >>c.json
like "too long" 3 'ssm convert: c.json: longer than the 1048576 bytes expected' convert bare1.st out --config c.json
for value in '"32"' 32.0 -1 0 true null1 '[]' '{}' 2147483648 99999999999999999999 1e3; do
    like_config "d_model $value" "{\"d_model\": $value}" "*"
done
like_config "a size in words" '{"d_model": "32"}' '"d_model": found "32", expected a whole number from 1 to 2147483647'
like_config "a size that is an object" '{"d_model": {"a": 1}}' '"d_model": found {"a": 1}, expected a whole number from 1 to 2147483647'
like_config "a flag in numbers" '{"rms_norm": 1}' '"rms_norm": found 1, expected true or false'
like_config "a fraction in words" '{"ssm_cfg": {"expand": "2"}}' '"ssm_cfg.expand": found "2", expected a number above 0'
like_config "a fraction below 0" '{"ssm_cfg": {"A_floor": -1}}' '"ssm_cfg.A_floor": found -1, expected a number from 0' bare3.st
like_config "a fraction without end" '{"ssm_cfg": {"A_floor": Infinity}}' '"ssm_cfg.A_floor": found 1e999999, expected a number from 0' bare3.st
like_config "ssm_cfg is a list" '{"ssm_cfg": []}' '"ssm_cfg": found [], expected an object'
like_config "unknown layer" '{"ssm_cfg": {"layer": "Mamba4"}}' '"ssm_cfg.layer": found "Mamba4", expected Mamba1, Mamba2 or Mamba3'
like_config "layer is a number" '{"ssm_cfg": {"layer": 3}}' '"ssm_cfg.layer": found 3, expected Mamba1, Mamba2 or Mamba3'
like_config "unknown model_type" '{"model_type": "llama"}' '"model_type": found "llama", expected mamba or mamba2'
like_config "model_type with control characters" '{"model_type": "\u001b[31m\u202e"}' '"model_type": found "\\x1b\[31m\\u{202e}", expected mamba or mamba2'
like_config "long values are cut" "{\"model_type\": \"$(printf 'n%.0s' {1..3000})\"}" '"model_type": found "nnnnn*...", expected mamba or mamba2'
like_config "another epsilon" "{${hf1/1e-05/1e-06}}" '"layer_norm_epsilon": found 1e-06, expected 1e-05, the only one supported'
config "{${hf1/1e-05/0.00001}}"
good "the epsilon spelled out" convert bare1.st a.st --config c.json
like_config "another activation" "{${hf1/silu/gelu}}" '"hidden_act": found "gelu", expected silu or swish'
like_config "attention, official" '{"attn_layer_idx": [1]}' '"attn_layer_idx": found \[1\], expected \[\]: attention layers are not supported'
like_config "attention, -hf" "{$hf1, \"attn_layer_indices\": [1]}" '"attn_layer_indices": found \[1\], expected \[\]: attention layers are not supported'
like_config "attention, another spelling" "{$hf1, \"attention_layers_idx\": [0, 1]}" '"attention_layers_idx": found \[0, 1\], expected \[\]: attention layers are not supported'
like_config "attention is no list" '{"attn_layer_idx": 1}' '"attn_layer_idx": found 1, expected a list'
like_config "attn_cfg, -hf" "{$hf1, \"attn_cfg\": {\"num_heads\": 8}}" '"attn_cfg": found {"num_heads": 8}, expected none: attention layers are not supported'
config "{\"attn_layer_idx\": [], \"attn_cfg\": {\"num_heads\": 8}}"
good "attn_cfg, official, without a layer" convert bare1.st a.st --config c.json
like_config "unknown A" '{"ssm_cfg": {"A_activation": "relu"}}' '"ssm_cfg.A_activation": found "relu", expected heavy_tail or softplus' bare3.st

# ---- Tensors

model m.st '"format":"pt","more":"x","clip":"1","cfg.d_model":"2"' $(m1_layer 0) norm_f.weight:2 embedding.weight:5,2
good "a small model" convert m.st out
same "a small model: metadata" "$(meta out)" "arch:mamba1 clip:1 d_conv:2 d_inner:4 d_model:2 d_state:3 dt_rank:1 format:ssm-float format_version:1 head:tied input:tokens mlp_hidden:0 n_layer:1 norm:rms pool:none vocab_size:5 "
like_model() { # NAME PATTERN METADATA TENSORS...
    local name=$1 pattern=$2
    shift 2
    model m.st "$@"
    like "$name" 3 "ssm convert: m.st: $pattern" convert m.st out
}
ends="norm_f.weight:2 embedding.weight:5,2"
without() { local t; for t in $(m1_layer "$2"); do [[ $t == "layers.$2.$1:"* ]] || echo "$t"; done; }
cfg='"cfg.d_model":"2"'
for t in norm.weight mixer.in_proj.weight mixer.conv1d.weight mixer.dt_proj.weight mixer.dt_proj.bias mixer.A_log mixer.D mixer.out_proj.weight; do
    like_model "without $t" "tensor \"layers.0.$t\": missing, expected *" "$cfg" $(without $t 0) $ends
done
like_model "without norm_f" 'tensor "norm_f.weight": missing, expected shape \[2\]' "$cfg" $(m1_layer 0) embedding.weight:5,2
like_model "two missing" 'tensor "layers.1.mixer.D": missing, expected shape \[4\], 2 missing in all' "$cfg" $(m1_layer 0) $(without mixer.D 1) embedding.weight:5,2
like_model "a bias in one layer only" 'tensor "layers.1.mixer.conv1d.bias": missing, expected shape \[4\]' "$cfg" $(m1_layer 0) $(without mixer.conv1d.bias 1) $ends
like_model "surplus" 'tensor "layers.0.mixer.Q": found, expected no such tensor in mamba1' "$cfg" $(m1_layer 0) $ends layers.0.mixer.Q:1
like_model "two surplus" 'tensor "aa": found, expected no such tensor in mamba1, 2 such tensors in all' "$cfg" $(m1_layer 0) $ends layers.0.mixer.Q:1 aa:1
like_model "layer 00" 'tensor "layers.00.norm.weight": found, expected no such tensor in mamba1' "$cfg" $(m1_layer 0) $ends layers.00.norm.weight:2
like_model "a shape" 'tensor "layers.0.mixer.x_proj.weight": shape \[7,5\], expected \[7,4\]' "$cfg" $(without mixer.x_proj.weight 0) layers.0.mixer.x_proj.weight:7,5 $ends
like_model "a shape in layer 1" 'tensor "layers.1.mixer.D": shape \[5\], expected \[4\]' "$cfg" $(m1_layer 0) $(without mixer.D 1) layers.1.mixer.D:5 $ends
like_model "a rank" 'tensor "layers.0.mixer.A_log": shape \[4\], expected 2 dimensions' "$cfg" $(without mixer.A_log 0) layers.0.mixer.A_log:4 $ends
like_model "a zero" 'tensor "layers.0.mixer.A_log": shape \[4,0\], expected dimensions from 1 to 2147483647' "$cfg" $(without mixer.A_log 0) layers.0.mixer.A_log:4,0 $ends
like_model "a huge one" 'tensor "norm_f.weight": shape \[2147483648,0\], expected dimensions from 1 to 2147483647' "$cfg" $(m1_layer 0) norm_f.weight:2147483648,0 embedding.weight:5,2
like_model "a dtype" 'tensor "layers.0.mixer.D": dtype F64, expected F32, F16 or BF16' "$cfg" $(without mixer.D 0) layers.0.mixer.D:F64=8:4 $ends
like_model "no model" 'not a model this program knows: *' "$cfg" golden.x:1 a:1
like_model "nothing" 'not a model this program knows: *' "$cfg" golden.x:0
like_model "both spellings" 'tensor "*embedding*.weight": becomes "embedding.weight" as tensor "*embedding*.weight" does, expected only one of them' "$cfg" $(m1_layer 0) $ends embeddings.weight:5,2
like_model "with the prefix and without" 'tensor "*norm_f.weight": becomes "norm_f.weight" as tensor "*norm_f.weight" does, expected only one of them' "$cfg" $(m1_layer 0) $ends backbone.norm_f.weight:2
like_model "attention by name" 'tensor "layers.1.self_attn.q_proj.weight": part of an attention layer, expected Mamba layers only' "$cfg" $(m1_layer 0) $ends layers.1.self_attn.q_proj.weight:2
like_model "attention by what it lacks" 'tensor "layers.1.mixer.x_proj.weight": missing, expected shape \[7,4\], 5 missing in all: attention layers are not supported, if this is one' "$cfg" $(m1_layer 0) \
    layers.1.norm.weight:2 layers.1.mixer.in_proj.weight:8,2 layers.1.mixer.conv1d.weight:4,1,2 layers.1.mixer.conv1d.bias:4 layers.1.mixer.out_proj.weight:2,4 $ends
like_model "a name with control characters" 'tensor "\\x1b\[31m\\x0a": found, expected no such tensor in mamba1' "$cfg" $(m1_layer 0) $ends '\u001b[31m\n:1'
long=$(printf 'n%.0s' {1..500})
like_model "a long name" 'tensor "nnnnnn*nnn...": found, expected no such tensor in mamba1' "$cfg" $(m1_layer 0) $ends $long:1
like_model "an unknown arch" 'metadata "arch": found "s5", expected s4d, mamba1, mamba2 or mamba3' '"arch":"s5"' $(m1_layer 0) $ends
like_model "an integer model" 'metadata "format": found ssm-int, a quantized model, expected a float model' '"format":"ssm-int"' $(m1_layer 0) $ends
like_model "a newer version" 'metadata "format_version": found "2", expected 1' '"format":"ssm-float","format_version":"2"' $(m1_layer 0) $ends
like_model "an unknown pool" 'metadata "pool": found "max", expected none, last or mean' '"arch":"mamba1","pool":"max"' $(m1_layer 0) $ends
like_model "a clip in words" 'metadata "clip": found "much", expected a number from 0' '"arch":"mamba1","clip":"much"' $(m1_layer 0) $ends
like_model "a clip that is null" 'metadata "clip": found "null", expected a number from 0' '"arch":"mamba1","clip":"null"' $(m1_layer 0) $ends
like_model "a flat size in words" 'metadata "d_model": found "two", expected a whole number from 1 to 2147483647' '"arch":"mamba1","d_model":"two"' $(m1_layer 0) $ends
like_model "a bad config key" 'metadata "config": not valid JSON: *' '"config":"{"' $(m1_layer 0) $ends
like_model "a bad config key: types" 'metadata "config": "d_model": found "2", expected a whole number*' '"config":"{\"d_model\":\"2\"}"' $(m1_layer 0) $ends
like_model "a bad cfg. key" 'metadata "cfg.rms_norm": found "yes", expected true or false' '"cfg.rms_norm":"yes"' $(m1_layer 0) $ends
like_model "what the config asks for: a head" 'tensor "lm_head.weight": missing, expected 2 dimensions' '"cfg.tie_embeddings":"false"' $(m1_layer 0) $ends
like_model "what the config asks for: LayerNorm" 'tensor "layers.0.norm.bias": missing, expected shape \[2\], 2 missing in all' '"cfg.rms_norm":"false"' $(m1_layer 0) $ends
like_model "what the config asks for: an MLP" 'tensor "layers.0.mlp.fc2.weight": missing, expected 2 dimensions' '"cfg.d_intermediate":"8"' $(m1_layer 0) $ends
like_model "what the config asks for: biases" 'tensor "layers.0.mixer.in_proj.bias": missing, expected shape \[8\], 2 missing in all' '"cfg.ssm_cfg.bias":"true"' $(m1_layer 0) $ends
like_model "what the config asks for: an embedding" 'tensor "embedding.weight": missing, expected 2 dimensions' '"cfg.vocab_size":"5"' $(m1_layer 0) norm_f.weight:2
like_model "a public head alone" 'tensor "embedding.weight": missing, expected 2 dimensions' "$cfg" $(m1_layer 0) norm_f.weight:2 lm_head.weight:5,2

# Layers: all there, up to the limit.
like_model "fewer layers than the config says" "tensor \"layers.1.mixer.in_proj.weight\": missing, found 1 layers, expected 2 as the config says: a checkpoint in several files is not supported, join them first" '"cfg.n_layer":"2"' $(m1_layer 0) $ends
like_model "a later part" 'tensor "layers.0.mixer.out_proj.weight": missing, expected 2 dimensions: a checkpoint in several files is not supported, join them first' "$cfg" $(m1_layer 1) $ends
like_model "a gap" 'tensor "layers.1.mixer.out_proj.weight": missing, expected shape \[2,4\], 10 missing in all: a checkpoint in several files is not supported, join them first' "$cfg" $(m1_layer 0) $(m1_layer 2) $ends
all=$(for ((i = 0; i < 256; ++i)); do m1_layer $i; done)
model m.st "$cfg" $all $ends
good "256 layers" convert m.st out
same "256 layers: metadata" "$(meta out | grep -o 'n_layer:[0-9]*')" n_layer:256
like_model "257 layers" 'tensor "layers.256.*": layer 256, expected at most 256 layers' "$cfg" $(m1_layer 0) $(m1_layer 256) $ends

# Heads, MLPs, norms, inputs.
says() { # NAME PATTERN-OF-METADATA METADATA TENSORS...
    local name=$1 want=$2
    shift 2
    model m.st "$@"
    good "$name" convert m.st a.st
    # shellcheck disable=SC2053
    if [[ $(meta a.st) == $want ]]; then ok; else no "$name: metadata" "  got:  $(meta a.st)" "  want: $want"; fi
    good "$name, again" convert a.st again.st
    same "$name, again: no change" "$(cksum <again.st)" "$(cksum <a.st)"
}
head_of() { tensors a.st | grep -c '^head.weight '; }
public="backbone.norm_f.weight:2 backbone.embedding.weight:5,2 lm_head.weight:5,2"
says "a head equal to the embedding" '*head:tied*' "$cfg" $(m1_layer 0) $public
same "a head equal to the embedding: dropped" "$(head_of)" 0
says "the same, said to be tied" '*head:tied*' '"cfg.tie_embeddings":"true"' $(m1_layer 0) $public
same "the same, said to be tied: dropped" "$(head_of)" 0
says "the same, said not to be tied" '*head:linear*' '"cfg.tie_embeddings":"false"' $(m1_layer 0) $public
same "the same, said not to be tied: kept" "$(head_of)" 1
says "the same with a bias" '*head:linear*' "$cfg" $(m1_layer 0) $public head.bias:5
model m.st "$cfg" $(m1_layer 0) $public
n=$(wc -c <m.st)
printf '\x40' | dd of=m.st bs=1 seek=$((n - 1)) conv=notrunc status=none # the head's last weight becomes 2
good "a head of its own" convert m.st a.st
same "a head of its own: kept" "$(head_of) $(meta a.st | grep -o ' head:[a-z]*')" "1  head:linear"
same "a head of its own: bytes" "$(slice a.st head.weight)" "$(slice m.st lm_head.weight)"
text=$(header m.st)
tail -c +$((9 + ${#text})) m.st >data
emit tied.st "${text/'"cfg.d_model":"2"'/'"cfg.tie_embeddings":"true"'}" data
warns "a head of its own, said to be tied" 'ssm convert: tied.st: metadata "cfg.tie_embeddings" is true, the tensors say false: used false' convert tied.st a.st
same "a head of its own, said to be tied: kept" "$(head_of)" 1
like_model "a public head of another size" 'tensor "lm_head.weight": shape \[6,2\], expected \[5,2\]' "$cfg" $(m1_layer 0) $ends lm_head.weight:6,2
like_model "a public head of another dtype" 'tensor "lm_head.weight": dtype F64, expected F32, F16 or BF16' "$cfg" $(m1_layer 0) $ends lm_head.weight:F64=8:5,2
says "a head of another dtype" '*head:linear*' "$cfg" $(m1_layer 0) $ends lm_head.weight:BF16=2:5,2
says "classes from tokens" '*d_output:3*head:linear*input:tokens*' '"arch":"mamba1","head":"linear"' $(m1_layer 0) $ends head.weight:3,2 head.bias:3
says "features" '*d_input:7*d_output:3*head:linear*input:features*' '"arch":"mamba1","pool":"last"' $(m1_layer 0) norm_f.weight:2 input_proj.weight:2,7 input_proj.bias:2 head.weight:3,2 head.bias:3
says "features without biases or head" '*d_input:7*d_output:2*head:none*input:features*' '"arch":"mamba1"' $(m1_layer 0) norm_f.weight:2 input_proj.weight:2,7
says "a backbone" '*head:none input:none*' "$cfg" $(m1_layer 0) norm_f.weight:2
says "LayerNorm" '*norm:layer*' "$cfg" $(m1_layer 0) layers.0.norm.bias:2 norm_f.bias:2 $ends
says "an MLP" '*mlp_hidden:128*' '"cfg.d_intermediate":"100"' $(m1_layer 0) $ends layers.0.norm2.weight:2 layers.0.mlp.fc1.weight:256,2 layers.0.mlp.fc2.weight:2,128
says "biases" '*arch:mamba1*' '"cfg.ssm_cfg.bias":"true"' $(m1_layer 0) $ends layers.0.mixer.in_proj.bias:8 layers.0.mixer.out_proj.bias:2
says "without a convolution's bias" '*arch:mamba1*' "$cfg" $(without mixer.conv1d.bias 0) $ends
model m.st '"cfg.d_intermediate":"300"' $(m1_layer 0) $ends layers.0.norm2.weight:2 layers.0.mlp.fc1.weight:256,2 layers.0.mlp.fc2.weight:2,128
warns "another MLP" 'ssm convert: m.st: metadata "cfg.d_intermediate" is 300, the tensors say 128: used 128' convert m.st a.st
like_model "an MLP without its norm" 'tensor "layers.0.norm2.weight": missing, expected shape \[2\]' "$cfg" $(m1_layer 0) $ends layers.0.mlp.fc1.weight:256,2 layers.0.mlp.fc2.weight:2,128
like_model "half an MLP" 'tensor "layers.0.mlp.fc1.weight": shape \[128,2\], expected \[256,2\]' "$cfg" $(m1_layer 0) $ends layers.0.norm2.weight:2 layers.0.mlp.fc1.weight:128,2 layers.0.mlp.fc2.weight:2,128
like_model "two inputs" 'tensor "input_proj.weight": found, expected no such tensor in mamba1' "$cfg" $(m1_layer 0) $ends input_proj.weight:2,3
like_model "no input where features are said" 'tensor "input_proj.weight": missing, expected 2 dimensions' '"arch":"mamba1","input":"features"' $(m1_layer 0) norm_f.weight:2

# Mamba-2: groups and states.
ends="norm_f.weight:4 embedding.weight:8,4"
says "one group" '*d_ssm:8*d_state:3*headdim:4*ngroups:1*' '"cfg.ssm_cfg.d_state":"3"' $(m2_layer 0 3) $ends
says "two groups" '*d_state:3*ngroups:2*' '"cfg.ssm_cfg.d_state":"3","cfg.ssm_cfg.ngroups":"2"' $(m2_layer 0 6) $ends
says "official defaults" '*d_state:128*ngroups:1*' '"cfg.n_layer":"1"' $(m2_layer 0 128) $ends
says "-hf defaults" '*d_state:1*ngroups:2*' '"cfg.model_type":"mamba2","cfg.state_size":"1","cfg.n_groups":"2"' $(m2_layer 0 2) $ends
like_model "groups and states do not fit" 'tensor "layers.0.mixer.in_proj.weight": 6 rows each for B and C, expected 2 \* 4 (ngroups \* d_state)' '"cfg.ssm_cfg.d_state":"4","cfg.ssm_cfg.ngroups":"2"' $(m2_layer 0 6) $ends
like_model "groups alone do not fit" 'tensor "layers.0.mixer.in_proj.weight": 6 rows each for B and C, expected 2 \* 128 (ngroups \* d_state by default)' '"cfg.ssm_cfg.ngroups":"2"' $(m2_layer 0 6) $ends
like_model "huge groups and states" 'tensor "layers.0.mixer.in_proj.weight": 6 rows each for B and C, expected 2147483647 \* 2147483647 (ngroups \* d_state)' '"cfg.ssm_cfg.d_state":"2147483647","cfg.ssm_cfg.ngroups":"2147483647"' $(m2_layer 0 6) $ends
like_model "-hf default groups do not fit" 'tensor "layers.0.mixer.in_proj.weight": 6 rows each for B and C, expected 8 \* 3 (ngroups by default \* d_state)' '"cfg.model_type":"mamba2","cfg.state_size":"3"' $(m2_layer 0 6) $ends
like_model "more groups than heads" 'tensor "layers.0.mixer.dt_bias": 2 heads, expected a multiple of 3 groups' '"cfg.ssm_cfg.d_state":"1","cfg.ssm_cfg.ngroups":"3"' $(m2_layer 0 3) $ends
m2_with() { local t; for t in $(m2_layer 0 3); do [[ $t == "layers.0.mixer.${1%%:*}:"* ]] && t=layers.0.mixer.$1; echo "$t"; done; }
like_model "odd rows" 'tensor "layers.0.mixer.in_proj.weight": 23 rows, expected 2 \* 8 + 2 \* ngroups \* d_state + 2 (d_inner, heads)' "$cfg" $(m2_with in_proj.weight:23,4) $ends
like_model "too few rows" 'tensor "layers.0.mixer.in_proj.weight": 18 rows, expected 2 \* 8 + *' "$cfg" $(m2_with in_proj.weight:18,4) $ends
like_model "odd channels" 'tensor "layers.0.mixer.conv1d.weight": 13 channels, expected 6 for B and C and a multiple of 2 heads, at most 8' "$cfg" $(m2_with conv1d.weight:13,1,2) $ends
like_model "too few channels" 'tensor "layers.0.mixer.conv1d.weight": 6 channels, *' "$cfg" $(m2_with conv1d.weight:6,1,2) $ends
like_model "too many channels" 'tensor "layers.0.mixer.conv1d.weight": 16 channels, *' "$cfg" $(m2_with conv1d.weight:16,1,2) $ends
ssm2='"cfg.ssm_cfg.d_state":"3"'
like_model "a convolution of rank 2" 'tensor "layers.0.mixer.conv1d.weight": shape \[14,2\], expected 3 dimensions' "$ssm2" $(m2_with conv1d.weight:14,2) $ends
says "D for every channel" '*arch:mamba2*' "$ssm2" $(m2_with D:8) $ends
like_model "D for neither" 'tensor "layers.0.mixer.D": shape \[3\], expected \[2\]' "$ssm2" $(m2_with D:3) $ends
says "without the gated norm" '*arch:mamba2*' '"cfg.ssm_cfg.d_state":"3","cfg.ssm_cfg.rmsnorm":"false"' $(m2_layer 0 3 | tr ' ' '\n' | grep -v mixer.norm) $ends
like_model "the gated norm is asked for" 'tensor "layers.0.mixer.norm.weight": missing, expected shape \[8\]' '"cfg.ssm_cfg.d_state":"3","cfg.ssm_cfg.rmsnorm":"true"' $(m2_layer 0 3 | tr ' ' '\n' | grep -v mixer.norm) $ends
says "a parallel MLP in the mixer" '*d_inner:8*d_ssm:6*headdim:3*' "$ssm2" layers.0.norm.weight:4 layers.0.mixer.in_proj.weight:24,4 layers.0.mixer.conv1d.weight:12,1,2 layers.0.mixer.conv1d.bias:12 \
    layers.0.mixer.dt_bias:2 layers.0.mixer.A_log:2 layers.0.mixer.D:2 layers.0.mixer.norm.weight:6 layers.0.mixer.out_proj.weight:4,8 $ends

# Mamba-3: groups, angles, ranks.
for g in 1 2 4; do
    says "$g groups, half of the angles" "*ngroups:$g*rope_angles:2*" '"cfg.ssm_cfg.layer":"Mamba3"' $(m3_layer 0 $g 2 1) $ends
    says "$g groups, all angles" "*ngroups:$g*rope_angles:4*" "\"cfg.ssm_cfg.rope_fraction\":\"1.0\",\"cfg.ssm_cfg.ngroups\":\"$g\"" $(m3_layer 0 $g 4 1) $ends
done
says "rank 3" '*is_mimo:true*mimo_rank:3*ngroups:2*rope_angles:2*' '"cfg.ssm_cfg.is_mimo":"true","cfg.ssm_cfg.mimo_rank":"3","cfg.ssm_cfg.ngroups":"2"' $(m3_layer 0 2 2 3 mimo) $ends
says "rank 1 with its tensors" '*is_mimo:true*mimo_rank:1*' '"cfg.ssm_cfg.is_mimo":"true","cfg.ssm_cfg.mimo_rank":"1"' $(m3_layer 0 1 2 1 mimo) $ends
says "the output norm" '*is_outproj_norm:true*' '"cfg.ssm_cfg.is_outproj_norm":"true"' $(m3_layer 0 1 2 1) layers.0.mixer.norm.weight:8 $ends
says "A" '*a_activation:softplus a_floor:0.75*' '"cfg.ssm_cfg.A_activation":"softplus","cfg.ssm_cfg.A_floor":"7.5e-1"' $(m3_layer 0 1 2 1) $ends
says "a floor of nine digits" '*a_activation:heavy_tail a_floor:1.0000001 *' '"arch":"mamba3","a_floor":"1.00000011920928955"' $(m3_layer 0 1 2 1) $ends
good "--a-activation" convert m.st a.st --a-activation softplus
same "--a-activation: metadata" "$(meta a.st | grep -o 'a_act[^ ]*')" a_activation:softplus
good "--a-activation, kept" convert a.st again.st
same "--a-activation, kept: no change" "$(cksum <again.st)" "$(cksum <a.st)"
good "--a-activation wins" convert a.st again.st --a-activation heavy_tail
same "--a-activation wins: metadata" "$(meta again.st | grep -o 'a_act[^ ]*')" a_activation:heavy_tail
config '{"ssm_cfg": {"layer": "Mamba3"}}'
good "the file's own A beside --config" convert a.st again.st --config c.json
same "the file's own A beside --config: metadata" "$(meta again.st | grep -o 'a_act[^ ]*')" a_activation:softplus
like_model "no such rows" 'tensor "layers.0.mixer.in_proj.weight": 47 rows, expected 46 (d_inner 8, d_state 8, 4 heads, rank 1, ngroups 1, rope_fraction 0.5)' "$cfg" $(m3_layer 0 1 3 1) $ends
like_model "no angles" 'tensor "layers.0.mixer.in_proj.weight": 44 rows, expected 48 (*, ngroups 1, rope_fraction 1)' '"cfg.ssm_cfg.rope_fraction":"1.0"' $(m3_layer 0 1 0 1) $ends
like_model "three groups of four heads" 'tensor "layers.0.mixer.in_proj.weight": 78 rows, expected 62 (*, ngroups 2, rope_fraction 0.5)' '"cfg.ssm_cfg.ngroups":"2"' $(m3_layer 0 3 2 1) $ends
like_model "groups beyond the heads" 'tensor "layers.0.mixer.in_proj.weight": 78 rows, expected others (*, ngroups 2147483647, rope_fraction 0.5)' '"cfg.ssm_cfg.ngroups":"2147483647"' $(m3_layer 0 3 2 1) $ends
like_model "no group" 'tensor "layers.0.mixer.in_proj.weight": 30 rows, expected 46 (*' "$cfg" $(m3_layer 0 0 2 1) $ends
like_model "a rank without its tensors" 'tensor "layers.0.mixer.mimo_x": missing, expected shape \[4,2,2\], 3 missing in all' "$cfg" $(m3_layer 0 1 2 2) $ends
like_model "MIMO is asked for" 'tensor "layers.0.mixer.mimo_x": missing, expected shape \[4,1,2\], 3 missing in all' '"cfg.ssm_cfg.is_mimo":"true"' $(m3_layer 0 1 2 1) $ends
like_model "the output norm is asked for" 'tensor "layers.0.mixer.norm.weight": missing, expected shape \[8\]' '"cfg.ssm_cfg.is_outproj_norm":"true"' $(m3_layer 0 1 2 1) $ends
like_model "Mamba-3 with a convolution" 'tensor "layers.0.mixer.conv1d.weight": found, expected no such tensor in mamba3' "$cfg" $(m3_layer 0 1 2 1) layers.0.mixer.conv1d.weight:8,1,4 $ends
m3_odd="layers.0.norm.weight:4 layers.0.mixer.in_proj.weight:54,4 layers.0.mixer.dt_bias:3 layers.0.mixer.B_bias:3,1,8 layers.0.mixer.C_bias:3,1,8 layers.0.mixer.B_norm.weight:8 layers.0.mixer.C_norm.weight:8 layers.0.mixer.D:3 layers.0.mixer.out_proj.weight:4,8"
like_model "heads that do not divide" 'tensor "layers.0.mixer.out_proj.weight": shape \[4,8\], expected columns in a multiple of 3 heads' "$cfg" $m3_odd $ends
like_model "MIMO with an odd state" 'tensor "layers.0.mixer.B_bias": shape \[4,1,5\], expected an even d_state with MIMO' "$cfg" layers.0.mixer.in_proj.weight:39,4 layers.0.mixer.B_bias:4,1,5 layers.0.mixer.mimo_x:4,1,2 layers.0.mixer.out_proj.weight:4,8 $ends
for key in is_mimo:false:true mimo_rank:4:3 ngroups:1:2 d_state:16:8; do
    IFS=: read -r key is is_not <<<"$key"
    model m.st "\"cfg.ssm_cfg.is_mimo\":\"true\",\"cfg.ssm_cfg.$key\":\"$is\"" $(m3_layer 0 2 2 3 mimo) $ends
    [ $key == is_mimo ] && model m.st '"cfg.ssm_cfg.is_mimo":"false"' $(m3_layer 0 2 2 3 mimo) $ends
    warns "$key in a MIMO model" "ssm convert: m.st: metadata \"cfg.ssm_cfg.$key\" is $is, the tensors say $is_not: used $is_not" convert m.st a.st
done

# One mixer alone is a model only where nothing says that there is more.
like_model "a model without a norm" 'tensor "layers.0.norm.weight": missing, expected shape \[4\]' "$cfg" $(m3_layer 0 1 2 1 | tr ' ' '\n' | grep -v 0.norm) $ends
like_model "a mixer that should be a backbone" 'tensor "layers.0.norm.weight": missing, expected shape \[4\], 2 missing in all' '"scope":"backbone"' $(m3_layer 0 1 2 1 | tr ' ' '\n' | grep -v 0.norm)
says "a backbone that is said to be a mixer" '*pool:none rope_angles:2 ' '"scope":"mixer","cfg.n_layer":"1"' $(m3_layer 0 1 2 1) norm_f.weight:4 golden.x:1
says "a mixer alone" '*head:none*input:none*scope:mixer*' '"cfg.n_layer":"1"' $(m3_layer 0 1 2 1 | tr ' ' '\n' | grep -v 0.norm)

# ---- Files of other kinds

cp "$one" model-00001-of-00002.safetensors
like "one file of several" 3 'ssm convert: model-00001-of-00002.safetensors: one file of several: a checkpoint in several files is not supported, join them first' convert model-00001-of-00002.safetensors out
mv model-00001-of-00002.safetensors model-00001-of-00001.safetensors
good "the only file of one" convert model-00001-of-00001.safetensors a.st
echo '{"weight_map": {}}' >model.safetensors.index.json
like "an index" 3 'ssm convert: model.safetensors.index.json: the index of several files: a checkpoint in several files is not supported, join them first' convert model.safetensors.index.json out
pickle='a torch pickle, expected safetensors; in Python: import torch, safetensors.torch as s; s.save_file({k: v.clone() for k, v in torch.load("IN", map_location="cpu", weights_only=True).items()}, "model.safetensors")'
printf 'PK\x03\x04\x00\x00\x08\x08\x00\x00' >pytorch_model.bin
like "a torch zip" 3 "ssm convert: pytorch_model.bin: $pickle" convert pytorch_model.bin out
printf 'PK\x03\x04\x14\x00\x00\x00\x00\x00' >pytorch_model.bin
like "another zip" 3 "ssm convert: pytorch_model.bin: $pickle" convert pytorch_model.bin out
for version in 2 3 4 5; do
    printf '\x80\x0'$version'\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20' >pytorch_model.bin
    like "a pickle of version $version" 3 "ssm convert: pytorch_model.bin: $pickle" convert pytorch_model.bin out
done
printf 'GGUF\x03\x00\x00\x00\x00\x00' >model.gguf
like "GGUF" 3 'ssm convert: model.gguf: GGUF is not supported by this version' convert model.gguf out
printf 'GGUF' >model.gguf
like "GGUF alone" 3 'ssm convert: model.gguf: GGUF is not supported by this version' convert model.gguf out
printf 'PK' >two.st
like "two bytes" 3 'ssm convert: two.st: shorter than the 8 bytes *' convert two.st out
pad() { printf '%*s' "$1" ''; } # a header whose length reads "PK": 0x4b50
text=$(header 1.st)
emit pk.st "$text$(pad $((0x4b50 - ${#text})))" <(tail -c +$((9 + ${#text})) 1.st)
same "a file that begins with PK" "$(head -c 2 pk.st)" PK
good "a file that begins with PK, and is safetensors" convert pk.st a.st
same "a file that begins with PK: the same" "$(cksum <a.st)" "$(cksum <1.st)"

# S4D passes through.
good "S4D" convert "$s4d" a.st
same "S4D: tensors" "$(tensors a.st)" "$(tensors "$s4d")"
same "S4D: metadata" "$(meta a.st)" "arch:s4d clip:0 clipped_components:0 d_input:1 d_model:8 d_output:4 d_state:4 disc:zoh format:ssm-float format_version:1 init:lin n_layers:1 pool:mean prenorm:False seq_len:32 trace_every:1 "
good "S4D, again" convert a.st again.st
same "S4D, again: no change" "$(cksum <again.st)" "$(cksum <a.st)"
same "S4D: scores" "$(printf '0.1\n0.2\n' | "$ssm" score a.st 2>&1)" "$(printf '0.1\n0.2\n' | "$ssm" score "$s4d" 2>&1)"
next=$here/../weights/next.safetensors
good "the shipped model" convert "$next" a.st
same "the shipped model: metadata" "$("$ssm" inspect a.st | grep '^#')" "$("$ssm" inspect "$next" | grep '^#')"
like "S4D with a config" 2 'ssm convert: --config and --a-activation go with Mamba models, * is an S4D model' convert "$s4d" out --config c.json
like "S4D with an activation" 2 'ssm convert: --config and --a-activation go with Mamba models, * is an S4D model' convert "$s4d" out --a-activation softplus
edit "$s4d" a.st prenorm prenurm
like "S4D without its metadata" 3 'ssm convert: a.st: metadata "prenorm": metadata missing, expected true or false' convert a.st out

# ---- Firmware: a model as a C++ header

array() { "$ssm" convert "$1" --c-array "$2"; }
like "--c-array without a model" 2 'ssm convert: expected 1 file with --c-array, got 0; see ssm convert --help' convert --c-array out
like "--c-array beside OUT" 2 'ssm convert: expected 1 file with --c-array, got 2; see ssm convert --help' convert "$next" a.st --c-array out
like "--c-array with a config" 2 'ssm convert: --config and --a-activation do not go with --c-array: convert first' convert "$one" --c-array out --config c.json
like "--c-array with an activation" 2 'ssm convert: --config and --a-activation do not go with --c-array: convert first' convert "$three" --c-array out --a-activation softplus
like "no name" 2 'ssm convert: --c-array no/: "" cannot name an array, expected a letter first' array "$next" no/
like "a digit first" 2 'ssm convert: --c-array 3d.h: "3d" cannot name an array, expected a letter first' array "$next" 3d.h
like "an underscore first" 2 'ssm convert: --c-array _m.h: "_m" cannot name an array, expected a letter first' array "$next" _m.h
like "a blank" 2 'ssm convert: --c-array a b.h: "a b" cannot name an array, expected letters, digits, - and _ only' array "$next" 'a b.h'
like "a line's end" 2 'ssm convert: --c-array a\\x0ab.h: "a\\x0ab" cannot name an array, expected letters, digits, - and _ only' array "$next" $'a\nb.h'
like "two dashes" 2 'ssm convert: --c-array a--b.h: "a__b" cannot name an array, expected no two of - and _ side by side' array "$next" a--b.h
like "a long name" 2 'ssm convert: --c-array m*: "mm*" cannot name an array, expected at most 60 bytes' array "$next" "$(printf 'm%.0s' {1..61}).h"
for word in int alignas xor_eq ssm main; do
    like "the word $word" 2 "ssm convert: --c-array $word.h: \"$word\" cannot name an array, expected none that C++ or this program keeps for itself" array "$next" $word.h
done
like "the array over its model" 2 'ssm convert: MODEL and --c-array are the same file, hard' array in.st hard
like "the array of a file that is none" 3 'ssm convert: nothing.st: is empty, expected a safetensors file' array nothing.st out
like "the array of a checkpoint" 3 'ssm convert: bare2.st: *' array bare2.st out
like "the array of a missing file" 4 'ssm convert: missing: No such file or directory' array missing out
like "the array in a missing folder" 4 'ssm convert: no/where: cannot create the temporary file beside it: *' array "$next" no/where
like "the array as a folder" 4 'ssm convert: beside: is not a regular file, cannot be saved to' array "$next" beside

# Models of every cell and engine: the bytes, and that a program can load each with nothing but its header.
weights=$here/../weights
cp "$weights/parity-i8.safetensors" 'p\"i8.st'
good "a path of hard characters" array 'p\"i8.st' parity-i8.h
same "the command" "$(sed -n 3p parity-i8.h)" '//     ssm convert p\x5c\x22i8.st --c-array parity-i8.h'
same "its switches" "$(sed -n 7p parity-i8.h)" '//     -DSSM_NO_FILES -DSSM_NO_FLOAT -DSSM_NO_S4D -DSSM_NO_MAMBA1 -DSSM_NO_MAMBA2'
same "lines that fit" "$(awk 'length > 120' parity-i8.h)" ""
names=parity_i8
printf '#define SSM_IMPLEMENTATION\n#include "ssm.hpp"\n#include "parity-i8.h"\n' >arrays.cpp
k=0
for file in "$weights"/{next,next-i4,parity,smnist-i8}.safetensors "$golden"/m[123]_*hfnames.safetensors "$golden"/m3_mimo*.safetensors "$here"/golden/int/*_m[12]_*.safetensors \
    "$here"/golden/int/04_*.safetensors; do
    k=$((k + 1))
    good "array of ${file##*/}" array "$file" a$k.h
    sed -n '/ = {$/,$p' a$k.h | tail -n +2 | tr -dc '0-9,' | tr ',' '\n' | awk '{ printf "\\%03o", $1 }' >octal
    same "bytes of ${file##*/}" "$(printf "$(cat octal)" | cksum)" "$(cksum <"$file")"
    names+=" a$k"
    echo "#include \"a$k.h\"" >>arrays.cpp
done
good "once more" array "$weights/next.safetensors" a1.h
cat >>arrays.cpp <<'TXT'
template <size_t N> int runs(const unsigned char* p, size_t bytes, size_t state, size_t scratch, const ssm::Config& c) {
    alignas(16) static unsigned char ram[N];
    ssm::Arena       arena{ram, N, 0};
    ssm::LoadOptions options;
    ssm::Model       m;
    ssm::State       s;
    ssm::Scratch     w;
    options.expect = &c;
    return ssm::load(&m, {p, bytes}, &arena, options) == ssm::Status::ok && ssm::make_state(&s, m, &arena) == ssm::Status::ok &&
           ssm::make_scratch(&w, m, 1, &arena) == ssm::Status::ok && s.bytes == state && w.bytes == scratch;
}
#define RUNS(m) runs<m##_arena_bytes>(m, m##_bytes, m##_state_bytes, m##_scratch_bytes, m##_config)
int main() { return 0
TXT
for name in $names; do echo "+ RUNS($name)"; done >>arrays.cpp
echo '; }' >>arrays.cpp
if command -v "${CXX:-g++}" >/dev/null; then
    good "the headers compile" "${CXX:-g++}" -std=c++17 -O0 -Wall -Wextra -Wshadow -Wconversion -Werror -DSSM_NO_SIMD -I"$here/.." arrays.cpp -o arrays
    ./arrays
    same "models that load from their headers" $? "$(echo $names | wc -w)"
    for flag in -m64 -mx32; do # pointers of 8 and 4 bytes: the size is exact
        echo "#include \"$here/../ssm.hpp\"" >size.cpp
        for name in $names; do
            printf '#include "%s.h"\nstatic_assert(%s_arena_bytes == ssm::arena_bytes(%s_config));\n' "${name/_/-}" $name $name >>size.cpp
        done
        "${CXX:-g++}" $flag -E -include stddef.h -x c++ /dev/null >/dev/null 2>&1 || continue
        good "arenas with $flag" "${CXX:-g++}" -std=c++17 $flag -fsyntax-only size.cpp
    done
fi

# ---- Writing

cp "$one" old
if command -v strace >/dev/null && strace -qq -o /dev/null true 2>/dev/null; then
    export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 # its leak check does not work under strace
    for fault in write:error=ENOSPC write:error=ENOSPC:when=3 fsync:error=EIO rename:error=EROFS; do
        cp old kept
        strace -qq -o /dev/null -e inject=$fault "$ssm" convert "$one" kept >/dev/null 2>got.err
        same "a failing $fault" "$? $(cksum <kept) $(ls -- *.tmp* 2>/dev/null)" "4 $(cksum <old) "
        case $fault in
        write:*:when=3 | [fr]*) same "a failing $fault: one line" "$(wc -l <got.err)" 1 ;;
        esac
    done
fi
(trap '' XFSZ; ulimit -f 1; "$ssm" convert "$one" old >/dev/null 2>got.err; echo $? >status) 2>/dev/null
same "a size limit" "$(cat status) $(cat got.err) $(cksum <old) $(ls -- *.tmp* 2>/dev/null)" "4 ssm convert: old: cannot write: File too large $(cksum <"$one") "

# Damaged headers and configs: an answer, and never a file.
damaged=0
size=$(header "$two" | wc -c)
for ((i = 0; i < 300; ++i)); do
    at=$((8 + i * 7919 % size)) byte=$((i * 104729 % 256))
    cp "$two" damaged.st
    printf "\\x$(printf %02x $byte)" | dd of=damaged.st bs=1 seek=$at conv=notrunc status=none
    rm -f out
    "$ssm" convert damaged.st out >/dev/null 2>&1
    status=$?
    if [ $status == 0 ]; then [ -e out ] && damaged=$((damaged + 1)); elif [ $status == 3 ] && [ ! -e out ]; then damaged=$((damaged + 1)); fi
done
same "damaged headers" $damaged 300
config "{$hf2}"
damaged=0
size=$(wc -c <c.json)
for ((i = 0; i < 300; ++i)); do
    at=$((i * 7919 % size)) byte=$((i * 104729 % 256))
    cp c.json d.json
    printf "\\x$(printf %02x $byte)" | dd of=d.json bs=1 seek=$at conv=notrunc status=none
    rm -f out
    "$ssm" convert bare2.st out --config d.json >/dev/null 2>&1
    status=$?
    if [ $status == 0 ]; then [ -e out ] && damaged=$((damaged + 1)); elif [ $status == 3 ] && [ ! -e out ]; then damaged=$((damaged + 1)); fi
done
same "damaged configs" $damaged 300

echo "$passed passed, $failed failed"
[ $failed == 0 ]
