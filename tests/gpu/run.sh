#!/usr/bin/env bash
# Proves the library on a machine with a GPU and CUDA 12.4 or newer, but without a .NET SDK; one exit code.
#
#   tests/gpu/run.sh [--out DIR] [--archive FILE] [--jobs N] [STAGE…]
#
# Stages (default: all, in this order)
#   build     the native library, with the CUDA compiler of this machine, into .gpu/build (half a minute on 16 cores with CMAKE_ARGS=-DFA_CUDA_SM80_CODE=sm_90)
#   nunit     the whole NUnit suite on the GPU; FLASH_ATTENTION_REQUIRE_GPU=1 makes a skip for want of a GPU a failure
#   cli       flashattn verify: random problems against a float64 computation
#   python    the Python binding and the kernel checks against PyTorch in float64 (needs PyTorch with CUDA)
#   sanitize  memcheck, racecheck, synccheck and initcheck of compute-sanitizer on a reduced set
#   bench     ours, FlashAttention-2, cuDNN and eager PyTorch side by side, then the mask and score variants beside FlexAttention; results checked first; JSON
#             and plots into DIR (needs PyTorch, matplotlib)
#
# Steps run one after the other, or with --jobs N so many at a time but for those of build and bench, which are always alone: the checks leave the GPU idle most
# of the time. With 16 cores, 80 GB of GPU memory and --jobs 16 all stages but bench take about 200 s, bench another 170.
#
# The archive is what tests/gpu/pack.sh made on a machine with the SDK; if there is none and this machine has the SDK, it is made here. Environment: CMAKE_ARGS
# is passed to CMake, NUNIT_ARGS to the suite (for example --filter TestCategory!=Slow); STEP_SECONDS is the longest that a step may take (default 3600),
# so that a kernel that hangs does not take the rest with it.
set -uo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
out="$root/.gpu/results"
archive="$root/.gpu/app.tar.xz"
jobs=1
stages=()
while (($#)); do
  case "$1" in
    --out) out="${2:?--out needs a folder}"; shift 2 ;;
    --archive) archive="${2:?--archive needs a file}"; shift 2 ;;
    --jobs) jobs="${2:?--jobs needs a number}"; shift 2 ;;
    build | nunit | cli | python | sanitize | bench) stages+=("$1"); shift ;;
    -h | --help) sed -n '2,22s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
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

limited() { timeout --kill-after=10 "${STEP_SECONDS:-3600}" "$@"; }

# Runs a step with its output in a log, whose last lines are shown.
step() {
  start "$@"
  local last=("${running[@]: -3}")
  running=("${running[@]:0:${#running[@]}-3}")
  report "${last[@]}"
}

# The same, but with --jobs N beside up to N - 1 others; `settle` waits for them.
beside() {
  ((jobs > 1)) || { step "$@"; return; }
  while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
  start "$@"
}

running=()  # of each step: name, lines to show, process
start() {
  local name="$1" lines="$2"; shift 2
  (begin=$SECONDS code=0; "$@" || code=$?; echo $((SECONDS - begin)) > "$out/$name.seconds"; exit $code) > "$out/$name.log" 2>&1 < /dev/null &
  running+=("$name" "$lines" "$!")
}

settle() {
  local i
  for ((i = 0; i < ${#running[@]}; i += 3)); do report "${running[@]:i:3}"; done
  running=()
}

report() {
  local name="$1" code=0 seconds
  wait "$3" || code=$?
  seconds="$(cat "$out/$name.seconds" 2> /dev/null) s"; rm -f "$out/$name.seconds"
  echo "== $name"
  case "$code" in
    0) echo "   passed in $seconds" ;;
    124 | 137) echo "   FAILED: stopped after $seconds"; failed+=("$name") ;;
    *) echo "   FAILED with code $code in $seconds"; failed+=("$name") ;;
  esac
  tail -n "$2" "$out/$name.log"
}

# The library alone: the kernel guard judges the code of another compiler than the one its budgets are stated for, and takes longer than everything else here.
build_library() {
  # shellcheck disable=SC2086
  cmake -S "$root/native" -B "$build" -G Ninja -DFA_TESTS=OFF ${CMAKE_ARGS:-} && limited cmake --build "$build" --target flash_attention
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
  # shellcheck disable=SC2086
  cd "$root/.gpu/app" && FLASH_ATTENTION_TEST_DEVICES=cuda limited ./FlashAttention.Tests ${NUNIT_ARGS:-}
}

# Plain problems, all of which the GPU computes; then problems with variants, where those that no kernel computes are counted.
run_cli() {
  cd "$root/.gpu/app" && ./flashattn info && limited ./flashattn verify --device cuda --count 100 --with none &&
    limited ./flashattn verify --device cuda --count 100
}

sanitizer() { limited compute-sanitizer --tool "$1" --error-exitcode 9 "$build/smoke"; }

kernel_checks() { limited python3 "$root/tests/gpu/$1" "${@:2}"; }

for stage in "${stages[@]}"; do
  case "$stage" in
    build)
      step build 3 build_library
      [[ -f "$FLASH_ATTENTION_LIBRARY" ]] || { failed+=("library"); break; } ;;
    nunit | cli)
      ((unpacked)) || { step unpack 2 unpack; unpacked=1; }
      if [[ $stage == nunit ]]; then beside nunit 40 run_nunit; else beside cli 12 run_cli; fi ;;
    python)
      beside python 12 limited python3 -m unittest discover -s "$root/tests/python"
      beside kernels 4 kernel_checks check_portable.py --kernel auto
      beside kernels-sm80 4 kernel_checks check_portable.py --kernel sm80
      beside kernels-head-dim-512 4 kernel_checks check_portable.py --kernel sm80 --head-dim-512
      beside kernels-large 4 kernel_checks check_portable.py --kernel auto --quick --large
      beside many-heads 4 kernel_checks check_many_heads.py
      beside variants 4 kernel_checks check_variants.py --kernel auto
      beside bias 4 kernel_checks check_bias.py --quick
      beside variants-sm80 4 kernel_checks check_variants.py --kernel sm80 --count 200
      beside alibi-gradients 4 kernel_checks check_alibi_gradients.py
      beside mask-gradients 4 kernel_checks check_mask_gradients.py --quick ;;
    sanitize)
      step smoke-build 3 build_smoke
      beside smoke 4 limited "$build/smoke" --repeat 3
      for tool in memcheck racecheck synccheck initcheck; do beside "$tool" 2 sanitizer "$tool"; done ;;
    bench)
      settle
      step bench 80 limited python3 "$root/tests/benchmarks/gpu/peers.py" --json "$out/peers.json" --plots --dtypes float16,bfloat16 --kernels auto,sm80 \
        --peers fa2,cudnn,eager --base fa2,cudnn,eager
      step benchmark-variants 60 limited python3 "$root/tests/benchmarks/gpu/variants.py" --json "$out/variants.json" ;;
  esac
done
settle

if ((${#failed[@]})); then echo "failed: ${failed[*]} (logs in $out)"; exit 1; fi
echo "all of: ${stages[*]}"
