#pragma once

#include <torch/csrc/jit/api/module.h>

namespace torch_trt_ext::passes {

/// Makes convolutions of traced code what scripted code has. torch.jit.trace writes torch.backends.cudnn's flags into
/// each (`aten::_convolution`), TF32 among them, and whoever turns TF32 off later does so in vain.
void untie_traced_convolutions(torch::jit::Module& module);

}  // namespace torch_trt_ext::passes
