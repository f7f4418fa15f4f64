# Builds and runs programs that know FlashAttention only as a package from a local folder: a copy of this folder's Consumer program or, with -DREADME=, every
# ```csharp block of the README as the whole program. Restores into an empty package folder, so that nothing cached can stand in for the package under test.
#   -DDOTNET= -DFEED= -DROOT= -DWORK= [-DREADME=] -P consume_package.cmake
cmake_minimum_required(VERSION 3.24)
file(REMOVE_RECURSE "${WORK}")
file(MAKE_DIRECTORY "${WORK}")

file(GLOB packages "${FEED}/FlashAttention.[0-9]*.nupkg")
list(LENGTH packages num_packages)
if(NOT num_packages EQUAL 1)
  message(FATAL_ERROR "expected one FlashAttention package in ${FEED}, found [${packages}]")
endif()
string(REGEX REPLACE ".*/FlashAttention\\.([0-9].*)\\.nupkg$" "\\1" version "${packages}")

# FlashAttention may come from the local folder only; everything else from the sources that this machine has.
execute_process(COMMAND "${DOTNET}" nuget list source --format short OUTPUT_VARIABLE text COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "E [^\r\n]+" enabled "${text}")
set(sources "<add key=\"under-test\" value=\"${FEED}\" />")
set(mappings "<packageSource key=\"under-test\"><package pattern=\"FlashAttention\" /></packageSource>")
set(number 0)
foreach(line IN LISTS enabled)
  string(REGEX REPLACE "^E " "" source "${line}")
  math(EXPR number "${number} + 1")
  string(APPEND sources "<add key=\"source-${number}\" value=\"${source}\" />")
  string(APPEND mappings "<packageSource key=\"source-${number}\"><package pattern=\"*\" /></packageSource>")
endforeach()
file(WRITE "${WORK}/nuget.config" "<configuration><packageSources><clear />${sources}</packageSources>"
  "<packageSourceMapping><clear />${mappings}</packageSourceMapping></configuration>\n")

# These cut the programs off from the repository's own build settings.
foreach(file Directory.Build.props Directory.Build.targets Directory.Packages.props)
  file(WRITE "${WORK}/${file}" "<Project />\n")
endforeach()

function(run_program name source)
  set(folder "${WORK}/${name}")
  file(MAKE_DIRECTORY "${folder}")
  file(WRITE "${folder}/Program.cs" "${source}")
  file(READ "${CMAKE_CURRENT_LIST_DIR}/Consumer.csproj.in" project)
  string(REPLACE "@VERSION@" "${version}" project "${project}")
  file(WRITE "${folder}/${name}.csproj" "${project}")
  execute_process(COMMAND "${DOTNET}" build "${folder}" -c Release -nologo -v:minimal -o "${folder}/out" "-p:RestorePackagesPath=${WORK}/packages"
    COMMAND_ERROR_IS_FATAL ANY)
  # Run away from the repository and without hints, so that the library must come out of the package.
  unset(ENV{FLASH_ATTENTION_LIBRARY})
  execute_process(COMMAND "${DOTNET}" "${folder}/out/${name}.dll" WORKING_DIRECTORY "${folder}/out" COMMAND_ERROR_IS_FATAL ANY)
endfunction()

if(NOT README)
  file(READ "${CMAKE_CURRENT_LIST_DIR}/Consumer.cs.txt" source)
  run_program(Consumer "${source}")
  return()
endif()

include("${CMAKE_CURRENT_LIST_DIR}/../../cmake/ReadmeBlocks.cmake")
read_code_blocks("${README}" csharp program)
foreach(number RANGE 1 ${program_count})
  run_program("Example${number}" "${program_${number}}")
endforeach()
message(STATUS "${program_count} C# example(s) compiled and ran")
