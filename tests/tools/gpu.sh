#!/bin/bash
# What is to be known of a GPU, in one go of at most twelve minutes: whether it computes what the CPU does, and how fast it trains beside PyTorch.
#
#   tests/tools/gpu.sh BINARIES OUT [DEVICE]
#
# BINARIES     folder with `w2s` and `w2s-bench` that know the device (docs/gpu.md); nothing is built here, and nothing downloaded
# OUT          folder for what was found: quickstart.txt, speed.md, and a log of each
# DEVICE       cuda:0 when absent. With `cpu` every step runs on small shapes, to try the script itself
#
# Speed needs Python with torch, transformers and peft; without them it is left out, and quickstart.txt is all.
# Exit code: 0 if everything ran and agreed to 1e-3.
set -uo pipefail
cd "$(dirname "$0")/../.."
if [ $# -lt 2 ]; then
  sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
binaries=$(realpath "$1") out=$2 device=${3:-cuda:0}
mkdir -p "$out"
ends=$((SECONDS + 700)) worse=0
left() { echo $((ends > SECONDS ? ends - SECONDS : 1)); }

{ date -u; uname -srm; command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv; } >"$out/machine.txt" 2>&1

# Losses, what models say, and metrics, beside the CPU's.
grids=(quickstart selective)
[ "$device" = cpu ] && grids=(judged)
if ! timeout 240 bash tests/tools/vulkan-quickstart.sh --binary "$binaries/w2s" --device "$device" --keep "$out/grids" "${grids[@]}" \
  >"$out/quickstart.txt" 2>"$out/quickstart.log"; then
  worse=1
fi
rm -rf "$out/grids"
tail -n 5 "$out/quickstart.txt"

# Tokens per second and peak memory in training, beside transformers, peft and their fused attention, each pair in turn.
if ! python3 -c "import torch, transformers, peft" 2>"$out/speed.log"; then
  echo "no torch, transformers and peft: speed is not measured" | tee -a "$out/quickstart.txt"
  exit $worse
fi
measure() {
  timeout "$(left)" python3 benches/compare.py "$binaries/w2s-bench" "$@" --device "$device" --phases train --repeats 1 --threads "$(nproc)" \
    2>>"$out/speed.log" | if [ -s "$out/speed.md" ]; then tail -n +3; else cat; fi | tee -a "$out/speed.md"
  [ "${PIPESTATUS[0]}" = 0 ] || { echo "not measured in time, or failed: $*" | tee -a "$out/speed.md"; worse=1; }
}
if [ "$device" = cpu ]; then
  measure world-finetune world-pretrain --steps 2 --rounds 1
  measure world-finetune --steps 2 --rounds 1 --precision bf16 --recompute --micro-batch 8
else
  # From the smallest on: what the time does not suffice for is left out.
  measure gpt2-lora gpt2-lora-512 --steps 4 --rounds 2 --precision bf16
  measure qwen-1.8b-lora qwen-1.8b-lora-512 --steps 3 --rounds 2 --precision bf16 --micro-batch 8
  measure qwen-7b-lora --steps 2 --rounds 1 --precision bf16 --recompute --micro-batch 8
  measure qwen-7b-lora-512 --steps 2 --rounds 1 --precision bf16 --recompute --micro-batch 4
fi
exit $worse
