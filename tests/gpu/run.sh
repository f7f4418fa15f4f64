#!/usr/bin/env bash
# Proves the library on a machine with a GPU and CUDA 12.4 or newer, but without a .NET SDK; one exit code.
#
#   tests/gpu/run.sh [--out DIR] [--archive FILE] [STAGE…]
#
# Stages (default: all, in this order)
#   build     the native library, with the CUDA compiler of this machine, into .gpu/build
#   nunit     the whole NUnit suite on the GPU; FLASH_ATTENTION_REQUIRE_GPU=1 makes a skip for want of a GPU a failure
#   cli       flashattn verify: random problems against a float64 computation
#   python    the Python binding and the kernel checks against PyTorch in float64 (needs PyTorch with CUDA)
#   sanitize  memcheck, racecheck, synccheck and initcheck of compute-sanitizer on a reduced set
#   bench     ours, FlashAttention-2, cuDNN and eager PyTorch side by side, results checked first; JSON and plots into DIR (needs PyTorch, matplotlib)
#
# The archive is what tests/gpu/pack.sh made on a machine with the SDK; if there is none and this machine has the SDK, it is made here. CMAKE_ARGS is passed
# to CMake.
set -uo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
out="$root/.gpu/results"
archive="$root/.gpu/app.tar.xz"
stages=()
while (($#)); do
  case "$1" in
    --out) out="${2:?--out needs a folder}"; shift 2 ;;
    --archive) archive="${2:?--archive needs a file}"; shift 2 ;;
    build | nunit | cli | python | sanitize | bench) stages+=("$1"); shift ;;
    -h | --help) sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "run.sh: unknown argument '$1'; see --help" >&2; exit 2 ;;
  esac
done
((${#stages[@]})) || stages=(build nunit cli python sanitize bench)

mkdir -p "$out"
build="$root/.gpu/build"
export FLASH_ATTENTION_LIBRARY="$build/libflash_attention.so"
export FLASH_ATTENTION_REQUIRE_GPU=1
export DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1
failed=()
unpacked=0

# Runs a step with its output in a log; the last lines are shown.
step() {
  local name="$1" lines="$2" seconds=$SECONDS; shift 2
  echo "== $name"
  if "$@" > "$out/$name.log" 2>&1; then echo "   passed in $((SECONDS - seconds)) s"; else echo "   FAILED in $((SECONDS - seconds)) s"; failed+=("$name"); fi
  tail -n "$lines" "$out/$name.log"
}

build_library() {
  # shellcheck disable=SC2086
  cmake -S "$root/native" -B "$build" -G Ninja -DFA_TESTS=OFF ${CMAKE_ARGS:-} && cmake --build "$build"
}

build_smoke() {
  c++ -std=c++17 -O2 -I "$root/native/include" "$root/tests/gpu/smoke.cpp" -o "$build/smoke" -L "$build" -lflash_attention -Wl,-rpath,"$build"
}

unpack() {
  if [[ ! -f "$archive" ]]; then
    command -v dotnet > /dev/null || { echo "there is no $archive, and no dotnet to make it with"; return 1; }
    "$root/tests/gpu/pack.sh" "$archive" || return 1
  fi
  rm -rf "$root/.gpu/app" && tar -C "$root/.gpu" -xJf "$archive"
}

run_nunit() {
  cd "$root/.gpu/app" && FLASH_ATTENTION_TEST_DEVICES=cuda ./FlashAttention.Tests
}

run_cli() {
  cd "$root/.gpu/app" && ./flashattn info && ./flashattn verify --device cuda --count 100
}

for stage in "${stages[@]}"; do
  case "$stage" in
    build) step build 3 build_library ;;
    nunit | cli)
      ((unpacked)) || { step unpack 2 unpack; unpacked=1; }
      if [[ $stage == nunit ]]; then step nunit 40 run_nunit; else step cli 12 run_cli; fi ;;
    python)
      step python 12 python3 -m unittest discover -s "$root/tests/python"
      step kernels 8 python3 "$root/tests/gpu/check_portable.py" --kernel auto
      step kernels-sm80 4 python3 "$root/tests/gpu/check_portable.py" --kernel sm80
      step kernels-large 4 python3 "$root/tests/gpu/check_portable.py" --large ;;
    sanitize)
      step smoke-build 3 build_smoke
      step smoke 4 "$build/smoke" --repeat 10
      for tool in memcheck racecheck synccheck initcheck; do
        step "$tool" 4 compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/smoke"
      done ;;
    bench)
      step bench 80 python3 "$root/tests/benchmarks/gpu/peers.py" --json "$out/peers.json" --plots --dtypes float16,bfloat16 --kernels auto,sm80 \
        --peers fa2,cudnn,eager --base fa2,cudnn,eager ;;
  esac
done

if ((${#failed[@]})); then echo "failed: ${failed[*]} (logs in $out)"; exit 1; fi
echo "all of: ${stages[*]}"
