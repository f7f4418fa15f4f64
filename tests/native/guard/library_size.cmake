# The README says how large the library is.
#
#   cmake -DLIBRARY=<libflash_attention.so> -DREADME=<README.md> -P library_size.cmake
file(SIZE "${LIBRARY}" bytes)
file(STRINGS "${README}" line REGEX "With nvcc 12[.]4 it is [0-9]+[.][0-9] MB")
if(NOT line MATCHES "it is ([0-9]+)[.]([0-9]) MB")
  message(FATAL_ERROR "${README}: expected 'With nvcc 12.4 it is N.N MB'")
endif()
math(EXPR stated "(${CMAKE_MATCH_1} * 10 + ${CMAKE_MATCH_2}) * 100000")
math(EXPR least "${stated} * 95 / 100")
math(EXPR most "${stated} * 105 / 100")
if(bytes LESS least OR bytes GREATER most)
  message(FATAL_ERROR "${LIBRARY} has ${bytes} bytes, the README says ${stated}")
endif()
message(STATUS "${bytes} bytes, the README says ${stated}")
