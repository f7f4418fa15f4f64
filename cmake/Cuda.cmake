# The CUDA backend: runtime helpers and kernels. Portable kernels (src/kernels/sm80) become machine code for sm_80 and sm_90 and PTX for what comes after;
# Hopper kernels (src/kernels/sm90) need the architecture-specific target sm_90a.
# The compiler comes from CUDACXX / CMAKE_CUDA_COMPILER, from the PATH, or from the project-local .deps/cuda (cmake/fetch-cuda.sh).
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(_nvcc nvcc HINTS "${CMAKE_CURRENT_SOURCE_DIR}/../.deps/cuda/bin" /usr/local/cuda/bin)
  if(NOT _nvcc)
    message(FATAL_ERROR "nvcc was not found. Run cmake/fetch-cuda.sh (Debian packages, no root needed), or install CUDA 12.4 or newer and set CUDACXX, "
                        "or configure with -DFA_CUDA=OFF.")
  endif()
  set(CMAKE_CUDA_COMPILER "${_nvcc}")
endif()
if(NOT CMAKE_CUDA_HOST_COMPILER)
  find_program(_host_cxx NAMES g++-12 g++)
  if(_host_cxx AND NOT MSVC)
    set(CMAKE_CUDA_HOST_COMPILER "${_host_cxx}")
  endif()
endif()
set(CMAKE_CUDA_ARCHITECTURES OFF)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
  message(FATAL_ERROR "CUDA 12.4 or newer is needed, found ${CMAKE_CUDA_COMPILER_VERSION} (${CMAKE_CUDA_COMPILER})")
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_COMPILER_LAUNCHER "${CMAKE_COMMAND};-P;${CMAKE_CURRENT_LIST_DIR}/CompileCuda.cmake;--")

# Line numbers in the machine code, for profilers and compute-sanitizer; they change no instruction and more than double the library.
option(FA_CUDA_LINEINFO "Keep source line numbers in CUDA code" OFF)
set(FA_CUDA_SM80_CODE "sm_80,sm_90,compute_80" CACHE STRING "Code of the portable kernels, a comma-separated list for nvcc")

file(GLOB FA_CUDA_RUNTIME_SOURCES CONFIGURE_DEPENDS src/runtime/cuda_*.cu src/runtime/cuda_*.cpp)
file(GLOB_RECURSE FA_SM80_SOURCES CONFIGURE_DEPENDS src/kernels/sm80/*.cu)
file(GLOB_RECURSE FA_SM90_SOURCES CONFIGURE_DEPENDS src/kernels/sm90/*.cu)

function(fa_cuda_objects name)
  cmake_parse_arguments(ARG "" "" "SOURCES;CODE" ${ARGN})
  if(NOT ARG_SOURCES)
    return()
  endif()
  add_library(${name} OBJECT ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/include ${CMAKE_CURRENT_SOURCE_DIR}/src)
  target_compile_definitions(${name} PRIVATE FLASH_ATTENTION_BUILD)
  set_target_properties(${name} PROPERTIES CUDA_ARCHITECTURES OFF)
  target_compile_options(${name} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:${ARG_CODE} --expt-relaxed-constexpr -Xfatbin=-compress-all $<$<BOOL:${FA_CUDA_LINEINFO}>:-lineinfo> -Xptxas=-v
      -diag-suppress=20012>)
  target_sources(flash_attention PRIVATE $<TARGET_OBJECTS:${name}>)
  set_property(GLOBAL APPEND PROPERTY FA_CUDA_OBJECT_LIBRARIES ${name})
endfunction()

# The kernel guard: registers, spills and tensor-core instructions of every kernel against its budget.txt, once per changed object.
function(fa_cuda_guard)
  get_property(libraries GLOBAL PROPERTY FA_CUDA_OBJECT_LIBRARIES)
  get_filename_component(toolkit_bin "${CMAKE_CUDA_COMPILER}" DIRECTORY)
  find_program(FA_CUOBJDUMP cuobjdump HINTS "${toolkit_bin}" REQUIRED)
  # Each version of ptxas allocates registers in its own way; the budgets are stated for 12.4, which CI compiles with.
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.5)
    set(advisory OFF)
  else()
    set(advisory ON)
  endif()
  set(objects "")
  foreach(library IN LISTS libraries)
    list(APPEND objects "$<TARGET_OBJECTS:${library}>")
  endforeach()
  file(GENERATE OUTPUT "${CMAKE_BINARY_DIR}/cuda_objects.txt" CONTENT "$<JOIN:${objects},\n>\n")
  set(FA_CUDA_GUARD_COMMAND ${CMAKE_COMMAND} -DOBJECTS=${CMAKE_BINARY_DIR}/cuda_objects.txt -DKERNELS=${CMAKE_CURRENT_SOURCE_DIR}/src/kernels
      -DCUOBJDUMP=${FA_CUOBJDUMP} -DREPORT=${CMAKE_BINARY_DIR}/kernel_resources.txt -DADVISORY=${advisory} -P ${CMAKE_SOURCE_DIR}/../cmake/PtxasGuard.cmake
      CACHE INTERNAL "Judges all kernels of this build")
  add_custom_target(fa_kernel_guard ALL COMMAND ${FA_CUDA_GUARD_COMMAND} COMMENT "Checking kernels against their budgets" VERBATIM)
  add_dependencies(fa_kernel_guard ${libraries})
endfunction()

fa_cuda_objects(fa_cuda_runtime SOURCES ${FA_CUDA_RUNTIME_SOURCES} CODE -gencode=arch=compute_80,code=[sm_80,compute_80])
fa_cuda_objects(fa_kernels_sm80 SOURCES ${FA_SM80_SOURCES} CODE -gencode=arch=compute_80,code=[${FA_CUDA_SM80_CODE}])
fa_cuda_objects(fa_kernels_sm90 SOURCES ${FA_SM90_SOURCES} CODE -gencode=arch=compute_90a,code=sm_90a)
fa_cuda_guard()
string(REPLACE "," " " _sm80_code "${FA_CUDA_SM80_CODE}")
target_compile_definitions(fa_cuda_runtime PRIVATE "FA_CUDA_BUILD_INFO=\"CUDA ${CMAKE_CUDA_COMPILER_VERSION} (${_sm80_code} sm_90a)\"")

target_sources(flash_attention PRIVATE src/dispatch/table_cuda.cpp)
find_library(FA_CUDART_STATIC NAMES cudart_static HINTS ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES} REQUIRED)
target_link_libraries(flash_attention PRIVATE "${FA_CUDART_STATIC}" ${CMAKE_DL_LIBS})
if(UNIX)
  target_link_libraries(flash_attention PRIVATE rt)
endif()
