#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "runtime/callable.h"
#include "runtime/engine.h"
#include "runtime/engine_state.h"
#include "runtime/io_binding.h"
#include "runtime/io_spec.h"

namespace torch_trt_ext {

/// An engine as TorchScript sees it: built from a plan, called with a list of tensors, saved and loaded with the model.
///
/// The plan is kept beside the engine, so that a model can be saved again wherever it was loaded. Where the plan cannot
/// run (no GPU, another GPU, another TensorRT), the object exists all the same: can_run() is false, why_not() says why,
/// and only forward() fails.
///
/// Thread safety: every method may be called by several threads at once. How forward() is ordered on a GPU is said at
/// Engine::run.
class EngineExtension : public Callable {
 public:
  /// Takes a plan as its user has it. Throws c10::ValueError when it is no plan, is cut short, or does not have the
  /// named inputs and outputs, and c10::Error when what would run it is here and refuses it.
  EngineExtension(std::string kind, const std::string& plan, const IoNames& io_names);

  /// Takes what torch.jit.save kept. A plan that cannot run here is no error.
  EngineExtension(std::string kind, const PackedState& packed);

  std::vector<at::Tensor> forward(std::vector<at::Tensor> inputs) override;

  bool can_run() const { return engine_ != nullptr; }
  /// Empty when can_run(), else a sentence.
  const std::string& why_not() const { return why_not_; }
  /// True when forward(inputs) would pass its checks: this engine runs here, and a profile takes these tensors. What a
  /// TensorRT shape tensor holds is not looked at.
  bool can_run_with(at::TensorList inputs) const;

  /// Says that the caller ran something else in place of forward(); counted as "fallbacks".
  void count_fallback() { fallbacks_.fetch_add(1, std::memory_order_relaxed); }

  /// Turns Engine::use_cuda_graphs on or off, kept when saved, also where the engine cannot run. Off at first.
  void set_cuda_graphs(bool enabled);
  bool cuda_graphs() const;

  /// What the engine is called in profiles ("torch_trt_ext::<name>" in torch's profiler), kept when saved; empty at
  /// first.
  void set_name(const std::string& name);
  std::string name() const;

  /// See Engine; the budget is kept when saved. Throw c10::Error unless can_run(), and c10::ValueError for a budget
  /// that is negative, or for an engine whose weights all stay on the device.
  int64_t streamable_weight_bytes() const { return required_engine().streamable_weight_bytes(); }
  void set_weight_budget(int64_t bytes);

  /// See Engine. Without effect where the engine cannot run.
  void set_input_tracking(bool enabled);
  void wait_for_inputs();

  /// See Engine. Throw c10::Error unless can_run().
  std::string layer_info() const { return required_engine().layer_info(); }
  void set_profiling(bool enabled);
  std::vector<std::tuple<std::string, int64_t, double>> profile() const;

  PackedState state() const;
  /// What never changes: settings have methods of their own.
  const EngineState& unpacked_state() const { return state_; }

  /// Shapes of the inputs (outputs) in the caller's order, -1 where they vary. Where the engine cannot run, what was
  /// saved of them; throws c10::Error when that is nothing.
  const std::vector<std::vector<int64_t>>& input_shapes() const { return known_shapes().inputs; }
  const std::vector<std::vector<int64_t>>& output_shapes() const { return known_shapes().outputs; }
  /// [profile][input][min, opt, max][dimension], likewise.
  std::vector<std::vector<std::vector<std::vector<int64_t>>>> profiles() const;
  /// "calls": how often forward() ran the engine; "fallbacks": how often count_fallback() was called; beside them, what
  /// Engine::counters() gives.
  c10::Dict<std::string, int64_t> counters() const;

 private:
  void load(bool from_user, c10::optional<at::Device> device);
  const Engine& required_engine() const;
  const IoShapes& known_shapes() const;

  std::string kind_;
  /// Held to read or change `cuda_graphs`, `name` and `weight_budget` in state_.
  mutable std::mutex settings_mutex_;
  EngineState state_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<IoBinding> binding_;
  std::string why_not_;
  std::atomic<int64_t> calls_{0};
  std::atomic<int64_t> fallbacks_{0};
};

/// Reads names and types off a plan, in the plan's own order. Throws c10::Error when the plan cannot be loaded here.
IoNames read_io_names(const std::string& kind, const std::string& plan);

}  // namespace torch_trt_ext
