#pragma once

#include <torch/script.h>

#include <map>
#include <string>
#include <vector>

/// An engine inside a loaded model.
struct ModelEngine {
  /// Where the model has it, e.g. "postprocess.engine".
  std::string path;
  /// Its class: "TRTEngineExtension" or "OpenVINOEngineExtension".
  std::string kind;
  c10::IValue object;

  bool can_run() const;
  /// Empty when can_run().
  std::string why_not() const;
  /// At least "calls", runs of the engine, and "fallbacks", runs of what the model has in its place.
  std::map<std::string, int64_t> counters() const;
};

/// All engines of `model`, in the order in which the model lists them.
std::vector<ModelEngine> find_engines(const torch::jit::Module& model);

/// Where the model takes its input: on the GPU when an engine or a tensor of it is there.
torch::Device find_device(const torch::jit::Module& model, const std::vector<ModelEngine>& engines);
