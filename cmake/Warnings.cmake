# Warnings for the library's own C and C++ code; errors with FA_WERROR.
function(fa_set_warnings target)
  if(MSVC)
    # The sources are UTF-8; getenv is standard C, whatever C4996 says of it.
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:C,CXX>:/W4 /utf-8 $<$<BOOL:${FA_WERROR}>:/WX>>)
    target_compile_definitions(${target} PRIVATE _CRT_SECURE_NO_WARNINGS)
  else()
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:C,CXX>:-Wall -Wextra -Wshadow -Wno-unknown-pragmas>
      $<$<AND:$<BOOL:${FA_WERROR}>,$<COMPILE_LANGUAGE:C,CXX>>:-Werror>)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
      # GCC 12 and 13 report an overlapping copy inside "text" + std::string (GCC bug 105651).
      target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
    endif()
  endif()
endfunction()
