#!/usr/bin/env bash
# Mutation check, by hand: does a test fail for each of the small defects in mutations.txt? Each one is put into a copy of the native sources, the CPU library
# is built from it, and the smoke subset of the suite must fail. The unchanged copy must pass.
#
#   tests/mutation/run.sh [text]      only the mutations whose name contains the text
#
# Needs python3, cmake, ninja and the suite built once: dotnet build tests/FlashAttention.Tests -c Release. Environment: FLASH_ATTENTION_TESTS, the built test
# program, if it is not in artifacts/; MUTATION_JOBS, parallel compile jobs (default: all processors); MUTATION_CMAKE_ARGS, more arguments of the configure
# step, for example -DFA_CPU_TARGETS=avx2 to compile less. Exit code 0: every mutation was noticed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
tests=${FLASH_ATTENTION_TESTS:-$root/artifacts/bin/FlashAttention.Tests/release/FlashAttention.Tests}
only=${1:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

[[ -x $tests ]] || { echo "FLASH_ATTENTION_TESTS: expected the built test program, got '$tests'" >&2; exit 2; }
cp -r "$root/native" "$root/cmake" "$work/"
rm -rf "$work"/native/build*

build() { cmake --build "$work/build" -j "${MUTATION_JOBS:-$(nproc)}" > "$work/build.log" 2>&1; }

# The result of the suite: 0 if it passed.
suite() {
  FLASH_ATTENTION_LIBRARY=$work/build/libflash_attention.so FLASH_ATTENTION_TEST_DEVICES=cpu FLASH_ATTENTION_TEST_SUBSET=smoke \
    timeout 300 "$tests" --filter "FullyQualifiedName~AccuracyTests|FullyQualifiedName~EdgeTests" > "$work/suite.log" 2>&1
}

failed_tests() { sed -n 's/^ *failed: *\([0-9]*\)$/\1/p' "$work/suite.log" | tail -1; }

# replace FILE TEXT REPLACEMENT, literally; fails if TEXT does not occur.
replace() {
  python3 - "$@" << 'PYTHON'
import sys
path, text, replacement = sys.argv[1:]
source = open(path, encoding="utf-8").read()
if text not in source:
    sys.exit(f"{path}: does not contain: {text}")
open(path, "w", encoding="utf-8").write(source.replace(text, replacement))
PYTHON
}

# shellcheck disable=SC2086  # several arguments
cmake -S "$work/native" -B "$work/build" -G Ninja -DFA_CUDA=OFF ${MUTATION_CMAKE_ARGS:-} > "$work/configure.log" 2>&1 ||
  { cat "$work/configure.log" >&2; exit 2; }
build || { cat "$work/build.log" >&2; exit 2; }
suite || { cat "$work/suite.log" >&2; echo "the unchanged sources must pass" >&2; exit 2; }
printf '%-46s %s\n' mutation result
printf '%-46s %s\n' "(none)" "passes"

trim() { sed 's/^[[:space:]]*//; s/[[:space:]]*$//' <<< "$1"; }

missed=0
while IFS='|' read -r name file text replacement; do
  name=$(trim "$name") file=$(trim "$file") text=$(trim "$text") replacement=$(trim "$replacement")
  [[ $name == *"$only"* ]] || continue
  source=$work/native/src/$file
  cp "$source" "$work/original"
  replace "$source" "$text" "$replacement"
  if ! build; then
    result="DOES NOT BUILD"
    missed=$((missed + 1))
  elif suite; then
    result="NOT NOTICED"
    missed=$((missed + 1))
  else
    result="noticed, $(failed_tests) tests fail"
  fi
  printf '%-46s %s\n' "$name" "$result"
  cp "$work/original" "$source"
done < <(grep -v '^ *#' "$here/mutations.txt")

if ((missed > 0)); then
  echo "$missed mutations were not noticed" >&2
  exit 1
fi
echo "every mutation was noticed"
