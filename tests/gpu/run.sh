#!/usr/bin/env bash
# Proves the library on a machine with a GPU and CUDA 12.4 or newer, but without a .NET SDK; one exit code.
#
#   tests/gpu/run.sh [--out DIR] [--archive FILE] [--jobs N] [STAGE…]
#
# Stages (default: all, in this order)
#   build     the native library, with the CUDA compiler of this machine, into .gpu/build (a minute on 16 cores with CMAKE_ARGS=-DFA_CUDA_SM80_CODE=sm_90); then
#             the kernel guard by what ptxas said: it fails where the wgmma of a kernel is serialised
#   nunit     the whole NUnit suite on the GPU; FLASH_ATTENTION_REQUIRE_GPU=1 makes a skip for want of a GPU a failure
#   cli       flashattn verify: random problems against a float64 computation
#   python    the Python binding and the kernel checks against PyTorch in float64 (needs PyTorch with CUDA)
#   sanitize  memcheck, racecheck, synccheck and initcheck of compute-sanitizer on a reduced set
#   bench     ours, FlashAttention-2, cuDNN and eager PyTorch side by side, then the mask and score variants beside FlexAttention; results checked first; JSON
#             and plots into DIR (needs PyTorch, matplotlib)
#
# With --jobs N so many steps of nunit, cli, python and sanitize run at a time, the longest first, since most leave the GPU idle most of the time; those of
# build and bench are always alone. racecheck, which has taken the first copy behind a barrier for a hazard while other processes had the GPU, is repeated by
# itself where it reports one, and that run counts; both are shown.
#
# A step passes if its program returns 0 and its log says how much was done. DIR (default .gpu/results) gets a log per step and summary.txt. Exit code: 0 if all
# passed, 1 if something failed, 2 for a wrong command line.
#
# The archive is what tests/gpu/pack.sh made on a machine with the SDK; where the SDK is and --archive is not given, it is made anew. Environment: CMAKE_ARGS
# is passed to CMake, NUNIT_ARGS to the suite (for example --filter TestCategory!=Slow); STEP_SECONDS is the longest that a step may take (default 3600),
# so that a kernel that hangs does not take the rest with it.
set -uo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
out="$root/.gpu/results"
archive=""
jobs=1
stages=()
while (($#)); do
  [[ $1 != --[oaj]* || -n ${2:-} ]] || { echo "run.sh: $1 needs a value; see --help" >&2; exit 2; }
  case "$1" in
    --out) out="$2"; shift 2 ;;
    --archive) archive="$2"; shift 2 ;;
    --jobs) jobs="$2"; shift 2 ;;
    build | nunit | cli | python | sanitize | bench) stages+=("$1"); shift ;;
    -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "run.sh: unknown argument '$1'; see --help" >&2; exit 2 ;;
  esac
done
[[ $jobs =~ ^[1-9][0-9]*$ ]] || { echo "run.sh: --jobs: expected a number of at least 1, got '$jobs'" >&2; exit 2; }
((${#stages[@]})) || stages=(build nunit cli python sanitize bench)

build="$root/.gpu/build"
export FLASH_ATTENTION_LIBRARY="$build/libflash_attention.so"
export FLASH_ATTENTION_REQUIRE_GPU=1
export DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1
export PYTHONUNBUFFERED=1
mkdir -p "$out" && out="$(cd "$out" && pwd)" || exit 1
rm -f "$out"/*.log "$out"/*.status
summary="$out/summary.txt"
: > "$summary"

# ---- Steps ---------------------------------------------------------------------------------------------------------------------------
failed=()
waiting=()            # of each step that is to run beside others: about how many seconds it takes, a tab, and its words, quoted
declare -A process=() # of each step that runs: its process
declare -A shows=()   # and what report needs: how many last lines to show, a tab, what the log must hold
declare -A alone=()   # of each step that is repeated by itself if it returns 9 beside others: its command
repeated=()

limited() { timeout --kill-after=10 "${STEP_SECONDS:-3600}" "$@"; }

# start NAME LINES PATTERN COMMAND…: in the background, with its output in a log and, at its end, code and seconds in a file.
start() {
  local name="$1" lines="$2" pattern="$3"; shift 3
  (
    begin=$SECONDS
    "$@" > "$out/$name.log" 2>&1 < /dev/null
    echo "$? $((SECONDS - begin))" > "$out/$name.writing" && mv "$out/$name.writing" "$out/$name.status"
  ) &
  process[$name]=$!
  shows[$name]="$lines"$'\t'"$pattern"
}

# Waits for one of the steps that run, and reports it.
reap() {
  local name
  while :; do
    for name in "${!process[@]}"; do
      if [[ -f $out/$name.status ]] || ! kill -0 "${process[$name]}" 2> /dev/null; then
        report "$name"
        unset "process[$name]" "shows[$name]"
        return
      fi
    done
    sleep 0.2
  done
}

report() {
  local name="$1" code=1 seconds="?" lines="${shows[$1]%%$'\t'*}" pattern="${shows[$1]#*$'\t'}" verdict=passed
  [[ -f $out/$name.status ]] && read -r code seconds < "$out/$name.status"
  rm -f "$out/$name.status"
  case "$code" in
    0) grep -qE -- "$pattern" "$out/$name.log" || verdict="FAILED: it returned 0, but its log has no line like '$pattern'" ;;
    124 | 137) verdict="FAILED: stopped at the time limit" ;;
    *) verdict="FAILED with code $code" ;;
  esac
  if [[ $code == 9 && -n ${alone[$name]:-} ]] && ((jobs > 1)); then
    verdict="reports hazards beside other steps, is repeated by itself"
    repeated+=("$name")
    lines=20
  elif [[ $verdict != passed ]]; then
    failed+=("$name")
    lines=40
  fi
  printf '== %-24s %5s s  %s\n' "$name" "$seconds" "$verdict" | tee -a "$summary"
  tail -n "$lines" "$out/$name.log" | cut -c1-400
}

# step NAME LINES PATTERN COMMAND…: by itself, now.
step() {
  start "$@"
  reap
}

# beside SECONDS NAME LINES PATTERN COMMAND…: when `settle` comes, up to N at a time.
beside() {
  local seconds="$1"; shift
  waiting+=("$seconds"$'\t'"$(printf '%q ' "$@")")
}

# Runs what waits, the longest first; then what is to be repeated.
settle() {
  local line name
  ((${#waiting[@]})) || return 0
  while IFS= read -r line; do
    while ((${#process[@]} >= jobs)); do reap; done
    eval "start ${line#*$'\t'}"
  done < <(printf '%s\n' "${waiting[@]}" | sort -s -rn -k1,1)
  waiting=()
  while ((${#process[@]})); do reap; done
  # shellcheck disable=SC2086
  for name in "${repeated[@]}"; do step "$name-alone" 2 "SUMMARY: 0 hazards" ${alone[$name]}; done
  repeated=()
}

# Nothing goes on when this script is stopped.
stop() {
  trap - INT TERM
  ((${#process[@]})) && for child in "${process[@]}"; do pkill -TERM -P "$child" 2> /dev/null; done
  echo "stopped; logs in $out" >&2
  exit 1
}
trap stop INT TERM

# ---- What the stages do --------------------------------------------------------------------------------------------------------------
build_library() {
  # shellcheck disable=SC2086
  cmake -S "$root/native" -B "$build" -G Ninja -DFA_TESTS=OFF ${CMAKE_ARGS:-} && limited cmake --build "$build" --target flash_attention &&
    ls -l "$FLASH_ATTENTION_LIBRARY"
}

# Without the machine code, which takes longer to read than to make here; CI reads it. What exceeds budgets, which are stated for nvcc 12.4, is reported.
judge_kernels() {
  cmake -DOBJECTS="$build/cuda_objects.txt" -DKERNELS="$root/native/src/kernels" -DMACHINE_CODE=OFF -DADVISORY=ON -P "$root/cmake/PtxasGuard.cmake" && return
  grep -E "is serialised by|is not made" "$out/guard.log" | sort -u
  return 1
}

build_smoke() {
  c++ -std=c++17 -O2 -I "$root/native/include" "$root/tests/gpu/smoke.cpp" -o "$build/smoke" -L "$build" -lflash_attention -Wl,-rpath,"$build" &&
    ls "$build/smoke"
}

unpack() {
  local file="${archive:-$root/.gpu/app.tar.xz}"
  if [[ -z $archive ]] && command -v dotnet > /dev/null; then
    "$root/tests/gpu/pack.sh" "$file" || return 1
  fi
  [[ -f $file ]] || { echo "there is no $file, and no dotnet to make it with"; return 1; }
  rm -rf "$root/.gpu/app" && tar -C "$root/.gpu" -xJf "$file" && ls -d "$root/.gpu/app"
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

sanitizer() { limited compute-sanitizer --tool "$1" --error-exitcode 9 "$build/smoke" "${@:2}"; }

# NAME SECONDS ARGUMENTS…
queue_racecheck() {
  alone[$1]="sanitizer racecheck ${*:3}"
  beside "$2" "$1" 2 "SUMMARY: 0 hazards" sanitizer racecheck "${@:3}"
}

# racecheck takes long where data go through shared memory without TMA: the portable kernels in parts.
queue_sanitizers() {
  local tool part parts=4
  for tool in memcheck synccheck initcheck; do beside 12 "$tool" 2 "SUMMARY: 0 errors" sanitizer "$tool"; done
  queue_racecheck racecheck-sm90 30 --kernel sm90
  for ((part = 1; part <= parts; ++part)); do queue_racecheck "racecheck-sm80-$part" 30 --kernel sm80 --part "$part/$parts"; done
}

python_tests() { limited python3 -m unittest discover -s "$root/tests/python"; }

kernel_checks() { limited python3 "$root/tests/gpu/$1" "${@:2}"; }

queue_kernel_checks() {
  local all='(^|[ :])([1-9][0-9]*) of \2 (cases )?right' none='^[1-9][0-9]* cases, 0 failures'
  beside 50 python 4 '^Ran [1-9]' python_tests
  beside 65 kernels 1 "$none" kernel_checks check_portable.py --kernel auto
  beside 65 kernels-sm80 1 "$none" kernel_checks check_portable.py --kernel sm80
  beside 60 kernels-head-dim-512 1 "$none" kernel_checks check_portable.py --kernel sm80 --head-dim-512
  beside 40 kernels-large 1 "$none" kernel_checks check_portable.py --kernel auto --quick --large
  beside 25 many-heads 1 '^[1-9][0-9]* problems of many heads, 0 failures' kernel_checks check_many_heads.py
  beside 50 wide-logits 1 '^[1-9][0-9]* problems with wide logits, 0 failures' kernel_checks check_wide_logits.py
  beside 50 repeats 1 '^[1-9][0-9]* problems, 0 not the same' kernel_checks check_repeats.py
  beside 60 variants 1 "$all" kernel_checks check_variants.py --kernel auto --count 250
  beside 60 variants-sm80 1 "$all" kernel_checks check_variants.py --kernel sm80 --count 100
  beside 45 bias 1 "$all" kernel_checks check_bias.py --quick
  beside 15 alibi-gradients 1 "$all" kernel_checks check_alibi_gradients.py
  beside 60 mask-gradients 3 'with_special_values: [1-9][0-9]* cases, 0 failures' kernel_checks check_mask_gradients.py --quick
}

# ---- The stages ----------------------------------------------------------------------------------------------------------------------
gpu="$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2> /dev/null | head -n 1)"
echo "${gpu:-no nvidia-smi}; $(date -u +%Y-%m-%dT%H:%MZ); $jobs at a time; logs in $out" | tee -a "$summary"
unpacked=0
for stage in "${stages[@]}"; do
  [[ $stage == build || -f $FLASH_ATTENTION_LIBRARY ]] || { echo "there is no $FLASH_ATTENTION_LIBRARY; stage build makes it"; failed+=("library"); break; }
  case "$stage" in
    build)
      step build 1 libflash_attention build_library
      ((${#failed[@]} == 0)) || break
      step guard 1 'kernel guard: [1-9][0-9]* kernels' judge_kernels ;;
    nunit | cli)
      ((unpacked)) || { step unpack 1 app unpack; unpacked=1; }
      if [[ $stage == nunit ]]; then beside 110 nunit 5 'succeeded: [1-9]' run_nunit; else beside 30 cli 12 '[1-9][0-9]* passed, 0 failed' run_cli; fi ;;
    python) queue_kernel_checks ;;
    sanitize)
      step smoke-build 1 smoke build_smoke
      beside 10 smoke 1 '^[1-9][0-9]* passed, 0 failed' limited "$build/smoke" --repeat 3
      queue_sanitizers ;;
    bench)
      settle
      step bench 80 'geometric mean' limited python3 "$root/tests/benchmarks/gpu/peers.py" --json "$out/peers.json" --plots --dtypes float16,bfloat16 \
        --kernels auto,sm80 --peers fa2,cudnn,eager --base fa2,cudnn,eager
      step benchmark-deterministic 20 'cells, mean' limited python3 "$root/tests/benchmarks/gpu/deterministic.py" --dims 64,96,128,192,256 --limit 0.15 \
        --json "$out/deterministic.json"
      step benchmark-variants 60 '^bar .*(met|missed) [(]' limited python3 "$root/tests/benchmarks/gpu/variants.py" --json "$out/variants.json" ;;
  esac
done
settle

if ((${#failed[@]})); then verdict="failed: ${failed[*]} (logs in $out)"; else verdict="all passed: ${stages[*]}"; fi
echo "$verdict, $SECONDS s" | tee -a "$summary"
((${#failed[@]} == 0))
