// Loads a TorchScript model that holds an engine and runs it on ones: run_model MODEL ROWS COLUMNS.
#include <torch/script.h>
#include <torch_trt_ext/torch_trt_ext.h>

#include <iostream>
#include <string>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: run_model MODEL ROWS COLUMNS\n";
    return 2;
  }
  if (const char* const missing = torch_trt_ext_missing_runtime("openvino")) {
    std::cerr << missing << "\n";
    return 1;
  }
  try {
    torch::jit::Module model = torch::jit::load(argv[1]);
    const torch::Tensor input = torch::ones({std::stol(argv[2]), std::stol(argv[3])});
    std::cout << model.forward({input}).toTensor().sum().item<float>() << "\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
