#!/usr/bin/env bash
# The program and the same network in PyTorch compute the same logits, loss and gradients, for every form of attention;
# and PyTorch takes the weights of a trained model. Needs PLUVIA and MPIEXEC, as ctest sets them.
source "$(dirname "$0")/lib/opening.sh"
tools=$here/../../tools/reference
make_case=$(dirname "${PLUVIA:?the program}")/tests/reference_case
find_python torch yaml || exit 77

cat >model.yaml <<'YAML'
target: {leads_hours: [6, 9, 24], thresholds_mm: [0.2, 1, 5]}
model: {history: 4, channels: [16, 32, 48], head_init: random, attention: {window: 4, radius: 2}}
YAML
number=0
# case NY NX key=value...
case_of() { number=$((number + 1)); "$make_case" "case$number.safetensors" "$1" "$2" model.yaml "${@:3}"; }
case_of 19 22 model.attention.form=windowed
case_of 19 22 model.attention.form=windowed model.input_merge=2 model.attention.levels=0,2 model.attention.window=3 \
  model.attention.global=linear
case_of 19 22 model.attention.form=neighbourhood model.skip_radius=1 model.attention.global=linear
case_of 19 22 model.attention.form=neighbourhood model.temporal_core=recurrent model.attention.global=softmax
case_of 21 17 model.attention.form=neighbourhood model.input_merge=2 model.attention.radius=3
case_of 13 14 model.attention.form=joint model.skip_radius=1 model.input_merge=2
case_of 13 14 model.attention.form=joint model.attention.global=linear
OMP_NUM_THREADS=2 "$python" "$tools/compare.py" case?.safetensors

# It also reads a configuration as users write it, with defaults left out.
"$python" "$tools/st_unet.py" --count "$here/../../inputs/bench_reference.yaml"

# The comparison notices another network: windows of 5 instead of 4 cells.
sed 's/window: 4/window: 5/' case1.safetensors >other.safetensors
if "$python" "$tools/compare.py" other.safetensors; then echo "FAILED: another network passes"; exit 1; fi

# The weights of a trained model, and its configuration, are all that PyTorch needs.
small_archive 24 32
run 2 train deck.yaml train.output=run model.head_init=random >/dev/null 2>err || { cat err; exit 1; }
for name in best 00000002; do run 1 export "run/checkpoint_$name.h5" "$name.safetensors"; done
PYTHONPATH=$tools "$python" - <<'END'
import torch
from st_unet import StUnet, load_weights, read_safetensors, read_settings

base = torch.randn(1, 2, 24, 32, 4)
for name in ("best", "00000002"):
    arrays, texts = read_safetensors(f"{name}.safetensors")
    inputs = arrays["stem.weight"].shape[3]
    network = StUnet(read_settings(texts["configuration"]), inputs)
    load_weights(network, arrays)
    with torch.inference_mode():
        logits = network(torch.randn(1, 3, 24, 32, inputs), base)
    assert logits.isfinite().all() and (logits - base).std() > 0.1, name
END
