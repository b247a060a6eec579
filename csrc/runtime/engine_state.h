#pragma once

#include <ATen/core/Dict.h>
#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "runtime/io_spec.h"

namespace torch_trt_ext {

/// Facts by name, each a list of strings; see Backend::describe_environment.
using Facts = std::map<std::string, std::vector<std::string>>;

/// What torch.jit.save keeps of an engine.
struct EngineState {
  /// The serialized engine: uint8, 1-D, CPU, contiguous.
  at::Tensor plan;
  IoSpec io;
  /// Where the plan was made; empty when that was never known.
  Facts made_on;
  /// File names, without folders, of plugin libraries that were opened for it.
  std::vector<std::string> plugin_libraries;
  /// Whether the engine runs through CUDA graphs; see Engine::use_cuda_graphs.
  bool cuda_graphs = false;
  /// What the engine is called in profiles.
  std::string name;
};

/// The form in which a state is pickled. Its types are fixed for good, since files of every version are read through
/// them: a version number, the plan as a tensor (a raw record of the zip), and everything else by name.
using PackedState = std::tuple<int64_t, at::Tensor, c10::Dict<std::string, c10::List<std::string>>>;

/// The version that pack_state writes. unpack_state reads this one and all before it.
constexpr int64_t kStateVersion = 1;

PackedState pack_state(const EngineState& state);

/// Throws c10::ValueError when the state is of a newer version, lacks a field, or its plan does not match its checksum.
EngineState unpack_state(const PackedState& packed);

}  // namespace torch_trt_ext
