#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/export.h"

namespace torch_trt_ext {

/// One input or output as the engine itself declares it.
struct TensorInfo {
  std::string name;
  at::ScalarType dtype;
  /// -1 marks a dimension that varies from call to call.
  std::vector<int64_t> shape;
  /// True for a tensor the engine reads or writes in host memory (a TensorRT shape tensor).
  bool on_host = false;
};

/// The shapes of one input that one optimization profile accepts: min <= shape <= max, dimension by dimension.
struct ShapeRange {
  std::vector<int64_t> min;
  std::vector<int64_t> opt;
  std::vector<int64_t> max;
};

/// How long a layer took, over all calls while the engine was profiled.
struct LayerTime {
  std::string name;
  int64_t calls = 0;
  double milliseconds = 0;
};

/// One range for each of Engine::inputs(), in that order.
using Profile = std::vector<ShapeRange>;

/// A plan made ready to run on one device.
///
/// Thread safety: run() may be called by several threads at once, on the same stream or on different ones.
class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  virtual ~Engine() = default;

  virtual const std::vector<TensorInfo>& inputs() const = 0;
  virtual const std::vector<TensorInfo>& outputs() const = 0;
  /// Never empty. Where shapes are static, one profile with min == opt == max.
  virtual const std::vector<Profile>& profiles() const = 0;
  /// Where inputs must live and where outputs come to live.
  virtual at::Device device() const = 0;

  /// Whether the engine computes rightly with what this tensor holds; asked only where the answer decides what else to
  /// run. `input` is an index into inputs(), the tensor has passed the other checks.
  virtual bool accepts_values(size_t /*input*/, const at::Tensor& /*tensor*/) const { return true; }

  /// Runs the engine on `inputs`, in the order of inputs(), and keeps them until it needs them no more.
  ///
  /// The caller has checked them: count, dtype, device and the range of profiles()[profile]; each is contiguous.
  /// Outputs are fresh tensors in the order of outputs(). On a GPU the work is ordered after what the current stream
  /// already holds and before what is put there later. The host does not wait for it, unless an output's shape depends
  /// on the data, or a CUDA graph is being captured.
  virtual std::vector<at::Tensor> run(std::vector<at::Tensor> inputs, size_t profile) = 0;

  /// Whether run() may record its work in CUDA graphs and replay them. Without effect on engines that have no use for
  /// it.
  virtual void use_cuda_graphs(bool /*enabled*/) {}

  /// Whether runs mark when they have read their inputs, which costs each a little. Off at first.
  virtual void set_input_tracking(bool /*enabled*/) {}
  /// Makes the current stream wait until every run that was started so far, while they were tracked, has read its
  /// inputs, so that what the stream does next may write to them though the run goes on. Runs that a caller's CUDA
  /// graph captured, and those of engines that return when they are done, are not waited for.
  virtual void wait_for_inputs() {}

  /// Weights that need not stay in the device's memory, in bytes; 0 for an engine that was not built so.
  virtual int64_t streamable_weight_bytes() const { return 0; }
  /// How many of these bytes may stay there, 0 or more; the rest comes from the host's memory in each run. Waits for
  /// all work of the engine. Called only where there are any. Throws c10::Error while a caller's CUDA graph has the
  /// engine.
  virtual void set_weight_budget(int64_t /*bytes*/) {}

  /// The engine's layers after all fusion, JSON: an object whose "Layers" is a list of names or of objects with a
  /// "Name", as the library that runs it says. Throws c10::Error when that cannot tell.
  virtual std::string layer_info() const = 0;
  /// Whether run() times each layer, which makes it wait for the work and slower. Turning it on forgets earlier times.
  virtual void set_profiling(bool enabled) = 0;
  /// What was timed so far.
  virtual std::vector<LayerTime> profile() const = 0;

  /// Counters by name, e.g. {"contexts": 2}. What they count is documented where they are counted.
  virtual std::map<std::string, int64_t> counters() const { return {}; }
};

/// Why a good plan cannot run in this process. The plan is kept: it may run elsewhere.
struct Misfit {
  enum class Kind {
    /// What would run the plan is absent (no GPU, no TensorRT, no OpenVINO), so nothing about the plan could be tried.
    kMissingRuntime,
    /// It is there and refuses the plan (another version, another GPU, a plugin that nobody registered).
    kRefused,
  };
  Kind kind;
  /// A sentence that says what is wrong and what to do.
  std::string message;
};

/// What Backend::load returns: an engine, or the reason why there is none.
struct LoadResult {
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Misfit> misfit;
};

/// Turns plans of one kind into engines. One object a kind lives as long as the process.
class Backend {
 public:
  virtual ~Backend() = default;

  /// Empty when load() can be tried in this process, else a sentence that says what is missing and how to get it.
  virtual std::string missing_runtime() { return ""; }

  /// Adds a folder to look for the library that runs the plans; without effect once it is loaded.
  virtual void add_library_folder(const std::string& /*folder*/) {}

  /// Throws c10::ValueError when `plan` (uint8, CPU, contiguous) cannot be a complete plan of this kind, judged by its
  /// own header, before the library that would run it sees a byte. Needs neither that library nor a device.
  virtual void check_plan(const at::Tensor& plan) const = 0;

  /// Makes an engine from a plan that passed check_plan. `device` is the GPU that the model was loaded to, if
  /// it was loaded to one; a backend for the CPU runs on the CPU all the same.
  /// May throw c10::ValueError for a plan that its library calls broken; TensorRT does not tell that from other
  /// refusals.
  virtual LoadResult load(const at::Tensor& plan, c10::optional<at::Device> device) = 0;

  /// Facts about where and for what the plan was made, kept with the saved state for messages, each a list of strings:
  /// e.g. {"tensorrt_version": ["10.6.0"], "gpu": ["NVIDIA H200"], "compute_capability": ["9.0"]}.
  virtual std::map<std::string, std::vector<std::string>> describe_environment() const = 0;

  /// Like load's misfit, for a plan saved elsewhere: names the difference between `saved` (an earlier
  /// describe_environment) and here, or is empty. Used to make refusals readable.
  virtual std::string explain_difference(const std::map<std::string, std::vector<std::string>>& saved) const = 0;
};

/// Makes `backend` the one that runs plans of `kind` ("tensorrt", "openvino"). Called once, when its library is loaded.
TORCH_TRT_EXT_API void register_backend(const std::string& kind, std::unique_ptr<Backend> backend);

/// The backend for `kind`, or null when its library is not loaded.
TORCH_TRT_EXT_API Backend* find_backend(const std::string& kind);

/// Why plans of `kind` cannot run in this process, or empty: what Backend::missing_runtime says, or that there is no
/// such backend.
std::string explain_missing_runtime(const std::string& kind);

}  // namespace torch_trt_ext
