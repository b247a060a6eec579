# Defines torch_trt_ext::tensorrt_headers. The library itself is opened at run time and never linked.
#
# TENSORRT_ROOT/include, then the system's, then those that the wheel kernel-lens carries.
if(NOT TORCH_TRT_EXT_WITH_CUDA)
  return()
endif()
site_package_folder(kernel_lens kernel_lens_folder)
set(tensorrt_hints "")
if(TENSORRT_ROOT)
  list(APPEND tensorrt_hints "${TENSORRT_ROOT}/include")
endif()
if(DEFINED ENV{TENSORRT_ROOT})
  list(APPEND tensorrt_hints "$ENV{TENSORRT_ROOT}/include")
endif()
list(APPEND tensorrt_hints /usr/include/x86_64-linux-gnu /usr/include/aarch64-linux-gnu /usr/include
     /usr/local/tensorrt/include)
if(kernel_lens_folder)
  list(APPEND tensorrt_hints "${kernel_lens_folder}/include/tensorrt")
endif()
find_path(TORCH_TRT_EXT_TENSORRT_INCLUDE NvInfer.h PATHS ${tensorrt_hints} NO_DEFAULT_PATH)
if(NOT TORCH_TRT_EXT_TENSORRT_INCLUDE)
  message(FATAL_ERROR "torch_trt_ext needs TensorRT's headers (NvInfer.h), found none in ${tensorrt_hints}; "
                      "pip install kernel-lens==2.0.1, or set TENSORRT_ROOT")
endif()
file(STRINGS "${TORCH_TRT_EXT_TENSORRT_INCLUDE}/NvInferVersion.h" version_lines
     REGEX "#define (TRT_MAJOR_ENTERPRISE|NV_TENSORRT_MAJOR) +[0-9]+")
list(GET version_lines 0 version_line)
string(REGEX MATCH "[0-9]+" tensorrt_major "${version_line}")
if(tensorrt_major LESS 10)
  message(FATAL_ERROR "torch_trt_ext needs TensorRT 10 or newer, found version ${tensorrt_major} in "
                      "${TORCH_TRT_EXT_TENSORRT_INCLUDE}; set TENSORRT_ROOT to a newer one")
endif()
message(STATUS "torch_trt_ext: TensorRT ${tensorrt_major} headers in ${TORCH_TRT_EXT_TENSORRT_INCLUDE}")
add_library(torch_trt_ext::tensorrt_headers INTERFACE IMPORTED GLOBAL)
set_property(TARGET torch_trt_ext::tensorrt_headers PROPERTY INTERFACE_INCLUDE_DIRECTORIES
                                                             "${TORCH_TRT_EXT_TENSORRT_INCLUDE}")
set_property(TARGET torch_trt_ext::tensorrt_headers PROPERTY INTERFACE_SYSTEM_INCLUDE_DIRECTORIES
                                                             "${TORCH_TRT_EXT_TENSORRT_INCLUDE}")
