#!/usr/bin/env bash
# One entry point for everything: ./build.sh --help
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$root"

usage() {
  cat <<'HELP'
Usage: ./build.sh [VERB] [OPTIONS] [-- ARGUMENTS]

Verbs
  build      native library and all managed projects (default)
  demo       attention on real text on this machine, fused beside naive (flashattn demo)
  test       every test; ends with "N passed, N failed, N skipped"
  bindings   regenerate the C# bindings from the C headers
  format     format C, C++, CUDA and C# sources in place
  check      formatting, warnings as errors, kernel budgets, drift between headers and bindings
  pack       NuGet packages into artifacts/packages
  bench      benchmarks; ARGUMENTS go to the benchmark program (demo and bindings pass theirs on too)

Options
  --no-cuda    leave the CUDA backend out
  --debug      debug build, in folders of its own
  --sanitize   build, test: only the CPU backend under ASan+UBSan and under TSan
  --verbose    show the output of every step
  --help       this text

What is missing is installed where that is allowed (root on Debian or Ubuntu; nvcc always goes into .deps/cuda), otherwise the command to run is printed.
Results: native/build*, artifacts/bin, artifacts/packages, artifacts/test-results; logs of the steps: artifacts/logs.
HELP
}

# ---- arguments -------------------------------------------------------------------------------------------------------------------------
verb="" cuda=auto configuration=Release sanitize_only=0 verbose=0 extra=()
while (($#)); do
  case "$1" in
    build|demo|test|bindings|format|check|pack|bench)
      [[ -z "$verb" ]] || { echo "build.sh: two verbs, '$verb' and '$1'; give one" >&2; exit 2; }
      verb="$1" ;;
    --no-cuda) cuda=off ;;
    --debug) configuration=Debug ;;
    --sanitize) sanitize_only=1 ;;
    --verbose) verbose=1 ;;
    --help|-h) usage; exit 0 ;;
    --) shift; extra=("$@"); break ;;
    *) echo "build.sh: unknown argument '$1'; ./build.sh --help lists verbs and options" >&2; exit 2 ;;
  esac
  shift
done
verb="${verb:-build}"

# ---- surroundings ----------------------------------------------------------------------------------------------------------------------
# A missing or read-only HOME must not stop a build: NuGet and dotnet keep their files there.
if [[ -z "${HOME:-}" || ! -d "$HOME" || ! -w "$HOME" ]]; then
  export HOME="$root/.deps/home"
  mkdir -p "$HOME"
fi
# No program of this repository formats by culture, and a bare machine has no ICU.
export DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1
export DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_GENERATE_ASPNET_CERTIFICATE=false MSBUILDDISABLENODEREUSE=1 DOTNET_CLI_USE_MSBUILD_SERVER=0
logs="$root/artifacts/logs" results="$root/artifacts/test-results"
mkdir -p "$logs"
# Two runs in one folder would build over each other. The lock is free again when this process has ended, however it ended.
if command -v flock >/dev/null; then
  exec {lock}>"$root/artifacts/.lock"
  if ! flock -n "$lock"; then echo "build.sh: another build.sh is at work in this folder; waiting for it"; flock "$lock"; fi
fi
jobs="$(nproc 2>/dev/null || echo 2)"
started=$SECONDS

# ---- steps -----------------------------------------------------------------------------------------------------------------------------
# A step is a function that runs in a process group of its own with its output in a log; several can run at once.
declare -A step_pid=() step_log=() step_start=()
cleanup() { local pid; for pid in "${step_pid[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done; }
trap cleanup EXIT
trap 'exit 130' INT TERM

close_lock() { if [[ -n "${lock:-}" ]]; then exec {lock}>&-; fi; }

start_step() {  # name function...
  local name="$1"; shift
  step_log[$name]="$logs/${name//[^a-zA-Z0-9]/-}.log"
  step_start[$name]=${EPOCHREALTIME/./}
  set -m
  # Without the lock's file: what a step leaves running (a compiler server) must not keep it.
  if ((verbose)); then (set -eo pipefail; close_lock; "$@" 2>&1 </dev/null | tee "${step_log[$name]}") &
  else (set -e; close_lock; "$@") >"${step_log[$name]}" 2>&1 </dev/null &
  fi
  step_pid[$name]=$!
  set +m
}

# Waits for a step and prints its result; its status is left in step_status.
finish_step() {  # name
  local name="$1" pid="${step_pid[$1]}" elapsed waited=0
  while ((!verbose)) && kill -0 "$pid" 2>/dev/null; do
    sleep 0.1; waited=$((waited + 1))
    if [[ -t 1 ]] && ((waited % 5 == 0)); then printf '\r\033[K  %-38s %.100s' "$name" "$(tail -n 1 "${step_log[$name]}" | tr -d '\r')"
    elif [[ ! -t 1 ]] && ((waited % 1200 == 0)); then printf '  %-38s ... %.100s\n' "$name" "$(tail -n 1 "${step_log[$name]}")"; fi
  done
  step_status=0; wait "$pid" || step_status=$?
  unset "step_pid[$name]"
  elapsed=$(( (${EPOCHREALTIME/./} - step_start[$name]) / 100000 ))
  [[ -t 1 ]] && printf '\r\033[K'
  printf '  %-38s %s  %d.%d s\n' "$name" "$( ((step_status == 0)) && echo ok || echo FAILED )" $((elapsed / 10)) $((elapsed % 10))
}

fail_step() {  # name: shows the end of its log and stops
  ((verbose)) || { echo; tail -n 40 "${step_log[$1]}"; echo; }
  echo "build.sh $verb: step '$1' failed; its whole log is ${step_log[$1]#"$root"/}" >&2
  exit 1
}

join_step() { finish_step "$1"; ((step_status == 0)) || fail_step "$1"; }
step() { start_step "$@"; join_step "$1"; }

# ---- what is needed --------------------------------------------------------------------------------------------------------------------
missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }  # tool package

install_packages() {
  apt-get -q update
  DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${missing[@]}"
}

require_tools() {  # native | test | bindings | format ...
  local kind
  missing=()
  for kind in "$@"; do
    case "$kind" in
      native) need c++ g++; need cmake cmake; need ninja ninja-build ;;
      test) need clang clang; need pkg-config pkg-config
            [[ -e /usr/include/gtest/gtest.h || -e /usr/local/include/gtest/gtest.h ]] || missing+=(libgtest-dev)
            [[ -e /usr/include/zlib.h ]] || missing+=(zlib1g-dev) ;;
      bindings) need clang clang ;;
      format) need clang-format clang-format ;;
    esac
  done
  if ((${#missing[@]})); then
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    if ! command -v apt-get >/dev/null; then
      echo "build.sh: missing here (names of Debian's packages): ${missing[*]}. Install them with this system's package manager and run again." >&2; exit 1
    elif ((EUID != 0)); then
      echo "build.sh: missing here: ${missing[*]}. Run" >&2
      echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2; exit 1
    fi
    step "system packages" install_packages
  fi
}

require_dotnet() {
  local version=""
  command -v dotnet >/dev/null && version="$(dotnet --version 2>/dev/null || true)"
  if [[ ! "$version" =~ ^([0-9]+)\. ]] || ((BASH_REMATCH[1] < 10)); then
    {
      echo "build.sh: the .NET SDK 10 is needed (found: ${version:-none}). Any one of these installs it:"
      echo "  sudo apt-get install -y dotnet-sdk-10.0     # Ubuntu, or Debian with Microsoft's package source"
      echo "  curl -sSL https://dot.net/v1/dotnet-install.sh | bash -s -- --channel 10.0 && export PATH=\"\$HOME/.dotnet:\$PATH\""
    } >&2
    exit 1
  fi
}

find_nvcc() {  # prints an nvcc of version 12.4 or newer
  local nvcc version
  for nvcc in "${CUDACXX:-}" "$(command -v nvcc || true)" "$root/.deps/cuda/bin/nvcc" /usr/local/cuda/bin/nvcc; do
    [[ -x "$nvcc" ]] || continue
    [[ "$nvcc" != "$root"/.deps/* || -e "$root/.deps/cuda/.complete" ]] || continue
    version="$("$nvcc" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')"
    read -r major minor <<<"$version"
    if ((major > 12 || (major == 12 && minor >= 4))); then echo "$nvcc"; return; fi
  done
}

has_gpu() { compgen -G '/dev/nvidia[0-9]*' >/dev/null || { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }; }

# Decides on CUDA once: the compiler is fetched if need be; where that cannot be done the library is built without it, said loudly.
settle_cuda() {
  [[ "$cuda" == auto ]] || return 0
  if [[ -z "$(find_nvcc)" ]]; then
    start_step "CUDA compiler" cmake/fetch-cuda.sh
    finish_step "CUDA compiler"
    if ((step_status != 0)); then
      [[ -z "${FLASH_ATTENTION_REQUIRE_CUDA:-}" ]] || fail_step "CUDA compiler"
      grep '^fetch-cuda:\|^E:' "${step_log[CUDA compiler]}" | sed 's/^/  /' || true
      echo "  ==> LEFT OUT: the CUDA backend. The CPU backend is complete. To add CUDA, install CUDA 12.4 or newer and set CUDACXX=/path/to/nvcc," \
           "or set FLASH_ATTENTION_DEBIAN_MIRROR=<a Debian mirror> and run again (README.md, \"CUDA compiler\")."
      cuda=off; return 0
    fi
  fi
  cuda=on
  export CUDACXX; CUDACXX="$(find_nvcc)"
}

# ---- native ----------------------------------------------------------------------------------------------------------------------------
native_folder() {
  local name=build
  [[ "$cuda" != off ]] || name+="-cpu"
  [[ "$configuration" == Release ]] || name+="-debug"
  echo "$root/native/$name"
}

native_build() {  # tests: ON or OFF
  local folder targets=(flash_attention); folder="$(native_folder)"
  local options=("-DCMAKE_BUILD_TYPE=$configuration" -DFA_WERROR=ON "-DFA_CUDA=$([[ "$cuda" == on ]] && echo ON || echo OFF)")
  if [[ "$1" == ON ]]; then options+=(-DFA_TESTS=ON) targets=(all); elif [[ "$cuda" == on ]]; then targets+=(fa_kernel_guard); fi
  cmake -S native -B "$folder" -G Ninja "${options[@]}"
  cmake --build "$folder" -j "$jobs" --target "${targets[@]}"
}

sanitizer_build() {  # name sanitizers instruction-sets (empty: all)
  cmake -S native -B "native/build-$1" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DFA_CUDA=OFF -DFA_TESTS=ON -DFA_WERROR=ON \
    "-DFA_SANITIZE=$2" "-DFA_CPU_TARGETS=$3"
  cmake --build "native/build-$1" -j "$jobs"
}

run_ctest() {  # name folder
  mkdir -p "$results"
  ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 \
    ctest --test-dir "$2" -j "$jobs" --output-on-failure --no-tests=error --output-junit "$results/$1.xml"
}

# ---- managed ---------------------------------------------------------------------------------------------------------------------------
msbuild_options() { printf '%s\n' -c "$configuration" -v:minimal -nologo "-p:FlashAttentionNativeDirectory=$(native_folder)/"; }
output_folder() { echo "$root/artifacts/bin/$1/${configuration,,}"; }

managed_build() {  # [project or solution]
  local options; mapfile -t options < <(msbuild_options)
  dotnet build "${1:-FlashAttention.sln}" "${options[@]}"
}

pack_step() {
  local options project; mapfile -t options < <(msbuild_options)
  rm -rf artifacts/packages
  for project in managed/FlashAttention managed/FlashAttention.Cli; do dotnet pack "$project" "${options[@]}" -o artifacts/packages; done
  ls -l artifacts/packages
}

generator() { dotnet "$(output_folder FlashAttention.BindingGenerator)/FlashAttention.BindingGenerator.dll" "$@"; }

flashattn() { dotnet "$(output_folder FlashAttention.Cli)/flashattn.dll" "$@"; }

format_native() {  # clang-format arguments
  find native/include native/src tests bindings \( -name '*.h' -o -name '*.c' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 \
    | xargs -0 clang-format "$@"
}

# ---- verbs -----------------------------------------------------------------------------------------------------------------------------
verb_build() {
  require_tools native
  if ((sanitize_only)); then build_sanitizers; return; fi
  require_dotnet
  settle_cuda
  step "native library" native_build OFF
  step "managed projects" managed_build
  echo "  library: $(library_path | sed "s|^$root/||")  program: artifacts/bin/FlashAttention.Cli/${configuration,,}/flashattn"
}

library_path() { echo "$(native_folder)/libflash_attention.so"; }

build_sanitizers() {
  require_tools native test
  step "build ASan+UBSan" sanitizer_build asan address,undefined ""
  step "build TSan" sanitizer_build tsan thread "plain;avx2"
}

# The demo needs no GPU, and without one the kernels of a GPU need not be compiled for it.
verb_demo() {
  require_tools native; require_dotnet
  if [[ "$cuda" == auto && ! -e native/build/libflash_attention.so ]] && ! has_gpu; then
    echo "  no NVIDIA GPU here: the demo builds the CPU backend only (./build.sh builds everything)"
    cuda=off
  fi
  settle_cuda
  step "native library" native_build OFF
  step "command line" managed_build managed/FlashAttention.Cli
  echo
  flashattn demo "${extra[@]}"
}

verb_test() {
  rm -rf "$results"; mkdir -p "$results"
  if ((sanitize_only)); then build_sanitizers; test_sanitizers; report; return; fi
  require_tools native test; require_dotnet
  # The managed projects compile while the compiler for CUDA is fetched and the kernels compile.
  start_step "managed projects" managed_build
  settle_cuda
  start_step "native library and tests" native_build ON
  join_step "managed projects"
  join_step "native library and tests"
  step "managed, with the library" managed_build
  test_step "native tests" native "$(native_folder)"
  local project
  for project in FlashAttention.BindingGenerator FlashAttention.Cli FlashAttention; do
    test_step "$project.Tests" "$project.Tests" ""
  done
  step "packages" pack_step
  step "package tests, configure" package_tests_configure
  test_step "package and README" package artifacts/package-tests
  build_sanitizers
  test_sanitizers
  report
}

test_sanitizers() {
  test_step "run under ASan+UBSan" asan native/build-asan
  test_step "run under TSan" tsan native/build-tsan
}

package_tests_configure() {
  cmake -S tests/PackageConsumer -B artifacts/package-tests -G Ninja "-DFEED=$root/artifacts/packages" \
    "-DLIBRARY=$(library_path)" "-DGENERATOR=$(output_folder FlashAttention.BindingGenerator)/FlashAttention.BindingGenerator.dll"
}

# Runs one group of tests, going on after failures. A run that fails without a failed test in its results (a crash, no results) is counted as one failure.
broken_runs=0
test_step() {  # title results-name folder (empty: an NUnit program)
  if [[ -n "$3" ]]; then start_step "$1" run_ctest "$2" "$3"; else start_step "$1" run_nunit "$2"; fi
  finish_step "$1"
  local passed failed skipped
  read -r passed failed skipped < <(count_results "$results/$2".*)
  printf '  %-38s %s passed, %s failed, %s skipped\n' "" "$passed" "$failed" "$skipped"
  if ((step_status != 0)); then
    ((failed > 0)) || broken_runs=$((broken_runs + 1))
    ((verbose)) || { grep -E '^failed |\*\*\*Failed|\*\*\*Exception|error|Error' "${step_log[$1]}" | head -n 20 | sed 's/^/    /' || true; }
    echo "    whole log: ${step_log[$1]#"$root"/}"
  fi
}

run_nunit() {  # assembly
  FLASH_ATTENTION_LIBRARY="$(library_path)" dotnet "$(output_folder "$1")/$1.dll" --no-progress --no-ansi \
    --results-directory "$results" --report-trx --report-trx-filename "$1.trx"
}

# Sums passed, failed and skipped over TRX files (NUnit) and JUnit files (CTest).
count_results() {
  awk '
    FILENAME ~ /\.trx$/ { while (match($0, /<UnitTestResult [^>]*outcome="[A-Za-z]+"/)) {
        text = substr($0, RSTART, RLENGTH); $0 = substr($0, RSTART + RLENGTH); sub(/.*outcome="/, "", text); sub(/"/, "", text)
        if (text == "Passed") passed++; else if (text == "NotExecuted" || text == "Inconclusive") skipped++; else failed++ } next }
    match($0, /<testcase [^>]*status="[a-z]+"/) {
        text = substr($0, RSTART, RLENGTH); sub(/.*status="/, "", text); sub(/"/, "", text)
        if (text == "run") passed++; else if (text == "fail") failed++; else skipped++ }
    END { print passed + 0, failed + 0, skipped + 0 }' "$@" 2>/dev/null || echo "0 0 0"
}

report() {
  local passed failed skipped
  read -r passed failed skipped < <(count_results "$results"/*)
  failed=$((failed + broken_runs))
  echo "  results: artifacts/test-results, $((SECONDS - started)) s"
  if ((passed + failed == 0)); then echo "build.sh test: no test ran" >&2; failed=1; fi
  echo "$passed passed, $failed failed, $skipped skipped"
  ((failed == 0)) || exit 1
}

verb_bindings() {
  require_tools bindings; require_dotnet
  step "generator" managed_build bindings/generator
  step "bindings" generator generate "${extra[@]}"
  tail -n 20 "${step_log[bindings]}"
}

verb_format() {
  require_tools format; require_dotnet
  step "C, C++, CUDA" format_native -i
  step "C#" dotnet format FlashAttention.sln
}

verb_check() {
  require_tools native bindings format; require_dotnet
  settle_cuda
  step "format of C, C++, CUDA" format_native --dry-run -Werror
  step "native, warnings as errors" native_build OFF
  step "managed, warnings as errors" managed_build
  step "format of C#" dotnet format FlashAttention.sln --verify-no-changes --no-restore
  step "bindings against headers" generator verify --library "$(library_path)"
}

verb_pack() {
  require_tools native; require_dotnet
  settle_cuda
  step "native library" native_build OFF
  step "packages" pack_step
  ls artifacts/packages
}

verb_bench() {
  require_tools native; require_dotnet
  settle_cuda
  step "native library" native_build OFF
  step "benchmarks" managed_build tests/benchmarks/FlashAttention.Benchmarks
  dotnet "$(output_folder FlashAttention.Benchmarks)/FlashAttention.Benchmarks.dll" "${extra[@]}"
}

echo "FlashAttention: $verb ($configuration)"
"verb_$verb"
