# Installs the libraries, the public header and a CMake package, so that a C++ program can
# find_package(torch_trt_ext) and link torch_trt_ext::runtime.
include(CMakePackageConfigHelpers)
set(package_folder "${CMAKE_INSTALL_DATADIR}/cmake/torch_trt_ext")

set(installed_targets torch_trt_ext_runtime)
foreach(target torch_trt_ext_openvino torch_trt_ext_plugins)
  if(TARGET ${target})
    list(APPEND installed_targets ${target})
  endif()
endforeach()
install(TARGETS ${installed_targets} LIBRARY DESTINATION lib)
if(TARGET torch_trt_ext_passes)
  # A build tree may hold one for each Python that it was configured with; the package has one.
  install(TARGETS torch_trt_ext_passes LIBRARY DESTINATION .)
endif()
install(FILES csrc/runtime/torch_trt_ext.h DESTINATION include/torch_trt_ext)
install(FILES cmake/TorchLibraries.cmake DESTINATION "${package_folder}")
configure_package_config_file(cmake/torch_trt_extConfig.cmake.in "${CMAKE_BINARY_DIR}/torch_trt_extConfig.cmake"
                              INSTALL_DESTINATION "${package_folder}")
write_basic_package_version_file("${CMAKE_BINARY_DIR}/torch_trt_extConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_BINARY_DIR}/torch_trt_extConfig.cmake" "${CMAKE_BINARY_DIR}/torch_trt_extConfigVersion.cmake"
        DESTINATION "${package_folder}")
