# Installs the library into the build tree and builds outside programs against it, the way a user does.
set(installed "${CMAKE_CURRENT_BINARY_DIR}/installed")
file(REMOVE_RECURSE "${installed}" "${CMAKE_CURRENT_BINARY_DIR}/consumers")

add_test(NAME install_tree COMMAND ${CMAKE_COMMAND} --install ${PROJECT_BINARY_DIR} --config $<CONFIG> --prefix ${installed})
set_tests_properties(install_tree PROPERTIES FIXTURES_SETUP installed_tree)

foreach(consumer consumer-c consumer-cpp)
  add_test(NAME ${consumer}_find_package
    COMMAND ${CMAKE_CTEST_COMMAND} --build-and-test ${CMAKE_CURRENT_SOURCE_DIR}/${consumer} ${CMAKE_CURRENT_BINARY_DIR}/consumers/${consumer}
      --build-generator ${CMAKE_GENERATOR} --build-config $<CONFIG>
      --build-options -DCMAKE_PREFIX_PATH=${installed} -DCMAKE_C_COMPILER=${CMAKE_C_COMPILER} -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}
        -DCMAKE_BUILD_TYPE=Release -DFA_EXPECTED_VERSION=${PROJECT_VERSION}
      --test-command ${CMAKE_CURRENT_BINARY_DIR}/consumers/${consumer}/consumer)
  set_tests_properties(${consumer}_find_package PROPERTIES FIXTURES_REQUIRED installed_tree
    ENVIRONMENT_MODIFICATION "PATH=path_list_prepend:${installed}/bin")
endforeach()

find_program(FA_PKG_CONFIG NAMES pkg-config pkgconf)
if(FA_PKG_CONFIG AND UNIX)
  foreach(consumer consumer-c consumer-cpp)
    if(consumer STREQUAL "consumer-c")
      set(compile ${CMAKE_C_COMPILER} -std=c11 -pedantic -Wall -Wextra -Werror ${CMAKE_CURRENT_SOURCE_DIR}/${consumer}/main.c)
    else()
      set(compile ${CMAKE_CXX_COMPILER} -std=c++17 -pedantic -Wall -Wextra -Werror ${CMAKE_CURRENT_SOURCE_DIR}/${consumer}/main.cpp)
    endif()
    add_test(NAME ${consumer}_pkg_config
      COMMAND ${CMAKE_COMMAND} "-DCOMPILE=${compile}" -DPKG_CONFIG=${FA_PKG_CONFIG} -DPREFIX=${installed} -DLIBDIR=${CMAKE_INSTALL_LIBDIR}
        -DVERSION=${PROJECT_VERSION} -DOUTPUT=${CMAKE_CURRENT_BINARY_DIR}/consumers/${consumer}_pkg_config
        -P ${CMAKE_CURRENT_SOURCE_DIR}/pkg_config.cmake)
    set_tests_properties(${consumer}_pkg_config PROPERTIES FIXTURES_REQUIRED installed_tree)
  endforeach()
endif()

# The C examples of README.md: every ```c block is a program that must compile without a warning, run and succeed.
add_test(NAME readme_c_examples
  COMMAND ${CMAKE_COMMAND} "-DCOMPILER=${CMAKE_C_COMPILER}" -DPREFIX=${installed} -DLIBDIR=${CMAKE_INSTALL_LIBDIR}
    -DREADME=${CMAKE_CURRENT_SOURCE_DIR}/../../README.md -DOUTPUT=${CMAKE_CURRENT_BINARY_DIR}/consumers/readme
    -P ${CMAKE_CURRENT_SOURCE_DIR}/readme_c.cmake)
set_tests_properties(readme_c_examples PROPERTIES FIXTURES_REQUIRED installed_tree)
if(MSVC)
  set_tests_properties(readme_c_examples PROPERTIES DISABLED TRUE)
endif()
