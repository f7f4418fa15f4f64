# Extracts every ```c block of the README, compiles it against the installed tree and runs it.
cmake_minimum_required(VERSION 3.24)
file(MAKE_DIRECTORY "${OUTPUT}")
include("${CMAKE_CURRENT_LIST_DIR}/../../cmake/ReadmeBlocks.cmake")
read_code_blocks("${README}" c program)
foreach(number RANGE 1 ${program_count})
  file(WRITE "${OUTPUT}/example_${number}.c" "${program_${number}}")
  execute_process(COMMAND "${COMPILER}" -std=c11 -pedantic -Wall -Wextra -Werror "${OUTPUT}/example_${number}.c" "-I${PREFIX}/include"
    -o "${OUTPUT}/example_${number}" "-L${PREFIX}/${LIBDIR}" -lflash_attention -lm "-Wl,-rpath,${PREFIX}/${LIBDIR}" COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND "${OUTPUT}/example_${number}" COMMAND_ERROR_IS_FATAL ANY)
endforeach()
message(STATUS "${program_count} C example(s) compiled and ran")
