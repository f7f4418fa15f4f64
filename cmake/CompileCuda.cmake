# Compiler launcher of the CUDA objects: runs nvcc and keeps what ptxas said about every kernel in <object>.ptxas.txt, where the kernel guard
# (PtxasGuard.cmake) reads it, instead of printing it. Warnings and errors are printed as usual.
#
#   cmake -P CompileCuda.cmake -- nvcc <arguments>
set(command "")
set(object "")
set(seen FALSE)
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(i RANGE ${last})
  set(argument "${CMAKE_ARGV${i}}")
  if(seen)
    if(previous STREQUAL "-o")
      set(object "${argument}")
    endif()
    set(previous "${argument}")
    string(REPLACE ";" "\\;" argument "${argument}")
    list(APPEND command "${argument}")
  elseif(argument STREQUAL "--")
    set(seen TRUE)
  endif()
endforeach()

execute_process(COMMAND ${command} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(object MATCHES "\\.(o|obj)$")
  file(WRITE "${object}.ptxas.txt" "${output}")
endif()

# Resources, times and the harmless remark on fences (C7519, see PtxasGuard.cmake) are kept in the file only; everything else reaches the user.
string(REGEX REPLACE "ptxas info +: (Compiling|Function properties|Used|Compile time|[0-9]+ bytes gmem|\\(C7519\\))[^\n]*\n" "" output "${output}")
string(REGEX REPLACE " +[0-9]+ bytes stack frame[^\n]*\n" "" output "${output}")
if(NOT output MATCHES "^[ \r\n]*$")
  message("${output}")
endif()
if(NOT result EQUAL 0)
  message(FATAL_ERROR "nvcc failed (${result}) on ${object}")
endif()
