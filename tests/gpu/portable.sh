#!/usr/bin/env bash
# Builds the native library on a GPU machine and proves the portable kernels: checks against float64, compute-sanitizer, benchmark beside the peers.
#   tests/gpu/portable.sh [OUT]      logs and peers.json go to OUT (default: gpu-results); needs nvcc, cmake, ninja, and PyTorch with CUDA
# Exit code 0 only if the build, every check and every sanitizer passed. SKIP="sanitizers benchmark" leaves parts out.
set -uo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
out="${1:-gpu-results}"
mkdir -p "$out"
build="${BUILD:-$(mktemp -d)}"
failed=0
export PYTHONUNBUFFERED=1

note() { if [ "$2" = 0 ]; then echo "$1: passed"; else echo "$1: FAILED ($2)"; failed=1; fi; }

{ cmake -S "$root/native" -B "$build" -G Ninja && ninja -C "$build" flash_attention; } > "$out/build.log" 2>&1
note build $?
export FLASH_ATTENTION_LIBRARY="$build/libflash_attention.so"
python3 "$root/tests/gpu/check_portable.py" --kernel "${KERNEL:-sm80}" --large > "$out/check.log" 2>&1
note checks $?
tail -n 12 "$out/check.log"
if [[ " ${SKIP:-} " != *" sanitizers "* ]]; then
  for tool in memcheck racecheck synccheck initcheck; do
    # initcheck must see what PyTorch writes, too; the others only need our kernels.
    only=(--kernel-name kernel_substring=sm80)
    [ $tool = initcheck ] && only=()
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 150 compute-sanitizer --tool $tool "${only[@]}" --error-exitcode 9 \
      python3 "$root/tests/gpu/check_portable.py" --sanitized > "$out/$tool.log" 2>&1 &
    pids[${#pids[@]}]=$!
    tools[${#tools[@]}]=$tool
  done
  for i in "${!pids[@]}"; do
    wait "${pids[$i]}"
    note "${tools[$i]}" $?
    tail -n 2 "$out/${tools[$i]}.log"
  done
fi
if [[ " ${SKIP:-} " != *" benchmark "* ]]; then
  python3 "$root/tests/benchmarks/gpu/peers.py" --peers "${PEERS:-fa2,cudnn,eager}" --dtypes float16,bfloat16 --json "$out/peers.json" > "$out/peers.log" 2>&1
  note benchmark $?
  cat "$out/peers.log"
fi
exit $failed
