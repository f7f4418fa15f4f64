# The guard over an object file keeps what it found beside it: a second run must fail as the first did, and a corrected budget must be read. A script that
# prints a listing stands for cuobjdump.
#
#   cmake -DSCRIPT=<PtxasGuard.cmake> -DTEXTS=<folder of ptxas.txt and sass.txt> -DWORK=<empty folder> -P stamps.cmake
file(REMOVE_RECURSE "${WORK}")
set(object "${WORK}/objects/src/kernels/sm80/forward/kernel.cu.o")
set(budget "${WORK}/kernels/sm80/forward/budget.txt")
file(WRITE "${WORK}/objects.txt" "${object}\n")
file(WRITE "${object}" "")
file(COPY_FILE "${TEXTS}/ptxas.txt" "${object}.ptxas.txt")
file(WRITE "${WORK}/cuobjdump" "#!/bin/sh\necho read >> '${WORK}/reads.txt'\ncat '${TEXTS}/sass.txt'\n")
file(CHMOD "${WORK}/cuobjdump" PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)

function(judge name expected_code expectation)
  execute_process(COMMAND ${CMAKE_COMMAND} -DOBJECTS=${WORK}/objects.txt -DKERNELS=${WORK}/kernels -DCUOBJDUMP=${WORK}/cuobjdump
                          -DREPORT=${WORK}/report.txt ${ARGN} -P ${SCRIPT}
                  RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT code EQUAL expected_code OR NOT output MATCHES "${expectation}")
    message(FATAL_ERROR "${name}: expected code ${expected_code} and '${expectation}', got ${code} and\n${output}")
  endif()
endfunction()

# Stamps that are not newer than what they judge do not count; file systems may keep times in seconds.
file(WRITE "${budget}" "forward_kernel require=HMMA.16816.F32.BF16\nspilling_kernel\n")
execute_process(COMMAND ${CMAKE_COMMAND} -E sleep 1.1)
judge("without machine code" 0 "6 kernels in 1 objects without serialised wgmma" -DMACHINE_CODE=OFF -DADVISORY=ON)
judge("first" 1 "no HMMA.16816.F32.BF16 in the machine code")
judge("again" 1 "no HMMA.16816.F32.BF16 in the machine code.*756 bytes of spills")
judge("elsewhere" 1 "only reported.*756 bytes of spills.*no HMMA.16816.F32.BF16 in the machine code" -DADVISORY=ON)
file(STRINGS "${WORK}/reads.txt" reads)
list(LENGTH reads num_reads)
if(NOT num_reads EQUAL 1)
  message(FATAL_ERROR "the object was read ${num_reads} times, not once")
endif()
execute_process(COMMAND ${CMAKE_COMMAND} -E sleep 1.1)
file(WRITE "${budget}" "forward_kernel require=HMMA.16816.F32\nspilling_kernel stack=216 spill=764\n")
judge("corrected" 0 "6 kernels in 1 objects keep to their budgets")
file(STRINGS "${WORK}/report.txt" kernels)
list(LENGTH kernels num_kernels)
if(NOT num_kernels EQUAL 6)
  message(FATAL_ERROR "the report has ${num_kernels} kernels, not 6")
endif()
