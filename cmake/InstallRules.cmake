# Installation: library, headers, CMake package (find_package(FlashAttention CONFIG) gives FlashAttention::flash_attention) and pkg-config file.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/FlashAttention")

install(TARGETS flash_attention EXPORT FlashAttentionTargets
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/flash_attention DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(FILES ../LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

install(EXPORT FlashAttentionTargets NAMESPACE FlashAttention:: DESTINATION ${package_dir})
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/FlashAttentionConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/FlashAttentionConfig.cmake
  INSTALL_DESTINATION ${package_dir})
# Until 1.0 a minor version may change the interface.
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/FlashAttentionConfigVersion.cmake VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/FlashAttentionConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/FlashAttentionConfigVersion.cmake DESTINATION ${package_dir})

# The .pc file finds its prefix from its own place, so that the tree may be moved.
file(RELATIVE_PATH FA_PC_PREFIX "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
configure_file(${CMAKE_CURRENT_LIST_DIR}/flash_attention.pc.in ${CMAKE_CURRENT_BINARY_DIR}/flash_attention.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/flash_attention.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
