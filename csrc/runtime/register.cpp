#include <torch/library.h>

#include "runtime/engine_extension.h"

namespace torch_trt_ext {
namespace {

/// Gives a torch class its backend. One C++ type a torch name, as torch wants it.
#define TORCH_TRT_EXT_ENGINE_CLASS(Class, kind)                                                                \
  class Class : public EngineExtension {                                                                       \
   public:                                                                                                     \
    Class(const std::string& plan, const IoNames& io_names) : EngineExtension(kind, plan, io_names) {}         \
    explicit Class(const PackedState& packed) : EngineExtension(kind, packed) {}                               \
    static IoNames read_io_names(const std::string& plan) { return torch_trt_ext::read_io_names(kind, plan); } \
  }

TORCH_TRT_EXT_ENGINE_CLASS(TRTEngineExtension, "tensorrt");
/// The name under which PAI-Blade's users know it.
TORCH_TRT_EXT_ENGINE_CLASS(TorchAddonsTRTEngineExtension, "tensorrt");
TORCH_TRT_EXT_ENGINE_CLASS(OpenVINOEngineExtension, "openvino");

#undef TORCH_TRT_EXT_ENGINE_CLASS

template <typename Class>
using Self = c10::intrusive_ptr<Class>;

template <typename Class>
void define_engine_class(torch::Library& library, const char* name) {
  library.class_<Class>(name)
      .def(torch::init<const std::string&, const IoNames&>(), "Makes an engine from a serialized one.",
           {torch::arg("engine"), torch::arg("io_names")})
      .def("forward",
           [](const Self<Class>& self, std::vector<at::Tensor> inputs) { return self->forward(std::move(inputs)); })
      .def("can_run", [](const Self<Class>& self) { return self->can_run(); })
      .def("why_not", [](const Self<Class>& self) { return self->why_not(); })
      .def("can_run_with",
           [](const Self<Class>& self, const std::vector<at::Tensor>& inputs) { return self->can_run_with(inputs); })
      .def("count_fallback", [](const Self<Class>& self) { self->count_fallback(); })
      .def("set_cuda_graphs", [](const Self<Class>& self, bool enabled) { self->set_cuda_graphs(enabled); })
      .def("cuda_graphs", [](const Self<Class>& self) { return self->cuda_graphs(); })
      .def("set_name", [](const Self<Class>& self, const std::string& name) { self->set_name(name); })
      .def("name", [](const Self<Class>& self) { return self->name(); })
      .def("streamable_weight_bytes", [](const Self<Class>& self) { return self->streamable_weight_bytes(); })
      .def("set_weight_budget", [](const Self<Class>& self, int64_t bytes) { self->set_weight_budget(bytes); })
      .def("set_input_tracking", [](const Self<Class>& self, bool enabled) { self->set_input_tracking(enabled); })
      .def("wait_for_inputs", [](const Self<Class>& self) { self->wait_for_inputs(); })
      .def("layer_info", [](const Self<Class>& self) { return self->layer_info(); })
      .def("set_profiling", [](const Self<Class>& self, bool enabled) { self->set_profiling(enabled); })
      .def("profile", [](const Self<Class>& self) { return self->profile(); })
      .def("io_names", [](const Self<Class>& self) { return to_io_names(self->unpacked_state().io); })
      .def("input_shapes", [](const Self<Class>& self) { return self->input_shapes(); })
      .def("output_shapes", [](const Self<Class>& self) { return self->output_shapes(); })
      .def("profiles", [](const Self<Class>& self) { return self->profiles(); })
      .def("counters", [](const Self<Class>& self) { return self->counters(); })
      .def("plan", [](const Self<Class>& self) { return self->unpacked_state().plan.clone(); })
      .def("plugin_libraries", [](const Self<Class>& self) { return self->unpacked_state().plugin_libraries; })
      .def("made_on",
           [](const Self<Class>& self) {
             c10::Dict<std::string, std::vector<std::string>> facts;
             for (const auto& [fact, values] : self->unpacked_state().made_on) {
               facts.insert(fact, values);
             }
             return facts;
           })
      .def_static("read_io_names", &Class::read_io_names)
      .def_pickle([](const Self<Class>& self) { return self->state(); },
                  [](const PackedState& packed) { return c10::make_intrusive<Class>(packed); });
}

}  // namespace

TORCH_LIBRARY(torch_trt_ext, library) {
  define_engine_class<TRTEngineExtension>(library, "TRTEngineExtension");
  define_engine_class<OpenVINOEngineExtension>(library, "OpenVINOEngineExtension");
}

TORCH_LIBRARY(torch_addons, library) {
  define_engine_class<TorchAddonsTRTEngineExtension>(library, "TRTEngineExtension");
}

}  // namespace torch_trt_ext
