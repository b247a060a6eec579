#pragma once

#include <ATen/core/Dict.h>
#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Optional.h>

#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "runtime/io_shapes.h"
#include "runtime/io_spec.h"

namespace torch_trt_ext {

/// Facts by name, each a list of strings; see Backend::describe_environment.
using Facts = std::map<std::string, std::vector<std::string>>;

/// What torch.jit.save keeps of an engine.
struct EngineState {
  /// The serialized engine: uint8, 1-D, CPU, contiguous.
  at::Tensor plan;
  IoSpec io;
  /// Not known when the engine never ran where it was saved, nor in files from before they were kept.
  IoShapes shapes;
  /// Where the plan was made; empty when that was never known.
  Facts made_on;
  /// File names, without folders, of plugin libraries that were opened for it.
  std::vector<std::string> plugin_libraries;
  /// Whether the engine runs through CUDA graphs; see Engine::use_cuda_graphs.
  bool cuda_graphs = false;
  /// What the engine is called in profiles.
  std::string name;
  /// See Engine::set_weight_budget; none when it was never set.
  c10::optional<int64_t> weight_budget;
};

/// The form in which a state is pickled. Its types are fixed for good, since files of every version are read through
/// them: a version number, the plan as a tensor (a raw record of the zip), and everything else by name.
using PackedState = std::tuple<int64_t, at::Tensor, c10::Dict<std::string, c10::List<std::string>>>;

/// The version that pack_state writes. unpack_state reads this one and all before it.
///
/// A new fact is a new name in the dictionary and no new version: readers pass over names that they do not know, and
/// take a default for one that an older file lacks (cuda_graphs, name, shapes, weight_budget, all checksums but
/// plan_xxh64). The version goes up only when a reader that passes over the change would run the engine wrongly, as
/// when a name gets another meaning; that reader then says that the file is too new. unpack_state of version 2 must
/// first turn the dictionary of version 1 into its own, then read it as any other, so that only one form is ever read.
/// tests/fixtures has files of each version that was ever written, which must load for good.
constexpr int64_t kStateVersion = 1;

PackedState pack_state(const EngineState& state);

/// Throws c10::ValueError when the state is of a newer version, lacks a field, holds what is no text, or does not match
/// its checksums: one over the plan, and one over everything else, which torch keeps none of.
EngineState unpack_state(const PackedState& packed);

}  // namespace torch_trt_ext
