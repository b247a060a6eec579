#pragma once

/// Marks a function that kernels and host code both call.
#ifdef __CUDACC__
#define TTE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define TTE_HOST_DEVICE inline
#endif
