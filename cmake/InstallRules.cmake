# Installation: library, headers, CMake package and pkg-config file.
include(GNUInstallDirs)
install(TARGETS flash_attention EXPORT FlashAttentionTargets)
install(DIRECTORY include/flash_attention TYPE INCLUDE)
