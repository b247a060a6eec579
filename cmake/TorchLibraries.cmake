# Defines torch_trt_ext::torch, what links against libtorch without its Python part, and TORCH_TRT_EXT_TORCH_HAS_CUDA.
#
# Torch's own package configuration insists on a full CUDA toolkit whenever torch was built with CUDA; headers and
# libraries are all that is needed here, so they are taken from TORCH_ROOT (a libtorch folder) or from pip's torch.
if(TARGET torch_trt_ext::torch)
  return()
endif()
if(NOT TORCH_ROOT)
  if(DEFINED ENV{TORCH_ROOT})
    set(TORCH_ROOT "$ENV{TORCH_ROOT}")
  elseif(COMMAND site_package_folder)
    site_package_folder(torch TORCH_ROOT)
  endif()
endif()
if(NOT EXISTS "${TORCH_ROOT}/include/torch/custom_class.h")
  message(FATAL_ERROR "torch_trt_ext needs libtorch, found none at '${TORCH_ROOT}'; pip install torch in the Python "
                      "that CMake uses (-DPython_EXECUTABLE=...), or set TORCH_ROOT to a libtorch folder")
endif()
set(TORCH_ROOT "${TORCH_ROOT}" CACHE PATH "libtorch: the folder that holds include/ and lib/")

add_library(torch_trt_ext::torch INTERFACE IMPORTED GLOBAL)
set_property(
  TARGET torch_trt_ext::torch
  PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${TORCH_ROOT}/include" "${TORCH_ROOT}/include/torch/csrc/api/include")
set_property(TARGET torch_trt_ext::torch PROPERTY INTERFACE_SYSTEM_INCLUDE_DIRECTORIES
                                                  "${TORCH_ROOT}/include" "${TORCH_ROOT}/include/torch/csrc/api/include")
set(torch_libraries "${TORCH_ROOT}/lib/libtorch_cpu.so" "${TORCH_ROOT}/lib/libc10.so")
set(TORCH_TRT_EXT_TORCH_HAS_CUDA OFF)
if(EXISTS "${TORCH_ROOT}/lib/libc10_cuda.so")
  set(TORCH_TRT_EXT_TORCH_HAS_CUDA ON)
endif()
set_property(TARGET torch_trt_ext::torch PROPERTY INTERFACE_LINK_LIBRARIES "${torch_libraries}")
