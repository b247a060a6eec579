// torch_trt_ext._C: passes over TorchScript graphs, for torch_trt_ext/optimizer, and quick calls of engines.
// torch_trt_ext/_C.pyi has the types.
#include <torch/csrc/jit/python/pybind.h>
#include <torch/csrc/utils/pybind.h>

#include "passes/observation.h"
#include "passes/prepared_model.h"
#include "passes/traced_convolutions.h"
#include "python/engine_call.h"

namespace py = pybind11;
using torch_trt_ext::passes::NodeInfo;
using torch_trt_ext::passes::PreparedModel;
using torch_trt_ext::passes::Session;
using torch_trt_ext::passes::TensorFacts;
using torch_trt_ext::passes::ValueRecord;

namespace {

at::ScalarType dtype_from_name(const std::string& name) {
  for (int index = 0; index < static_cast<int>(at::ScalarType::NumOptions); ++index) {
    if (name == c10::toString(static_cast<at::ScalarType>(index))) {
      return static_cast<at::ScalarType>(index);
    }
  }
  throw py::value_error("unknown dtype '" + name + "'");
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  py::class_<NodeInfo>(module, "NodeInfo")
      .def_readonly("id", &NodeInfo::id)
      .def_readonly("kind", &NodeInfo::kind)
      .def_readonly("source", &NodeInfo::source)
      .def_readonly("module_path", &NodeInfo::module_path)
      .def_readonly("inputs", &NodeInfo::inputs)
      .def_readonly("outputs", &NodeInfo::outputs)
      .def_readonly("weights", &NodeInfo::weights)
      .def_readonly("condition_on_sizes", &NodeInfo::condition_on_sizes)
      .def_readonly("in_place", &NodeInfo::in_place)
      .def_readonly("magnitude", &NodeInfo::magnitude)
      .def_readonly("only_indexes", &NodeInfo::only_indexes);

  py::class_<ValueRecord>(module, "ValueRecord")
      .def_property_readonly("dtype",
                             [](const ValueRecord& record) { return std::string(c10::toString(record.dtype)); })
      .def_property_readonly("device", [](const ValueRecord& record) { return record.device.str(); })
      .def_readonly("min_shape", &ValueRecord::min_shape)
      .def_readonly("max_shape", &ValueRecord::max_shape)
      .def_readonly("consistent", &ValueRecord::consistent)
      .def_readonly("max_abs", &ValueRecord::max_abs)
      .def_readonly("finite", &ValueRecord::finite)
      .def_readonly("count", &ValueRecord::count);

  py::class_<Session>(module, "Session")
      .def_readonly("values", &Session::values)
      .def_readonly("branches", &Session::branches)
      .def_readonly("calls", &Session::calls);

  py::class_<TensorFacts>(module, "TensorFacts").def(py::init([](const std::string& dtype, std::vector<int64_t> shape) {
    return TensorFacts{dtype_from_name(dtype), std::move(shape)};
  }));

  using torch_trt_ext::python::EngineCall;
  py::class_<EngineCall>(module, "EngineCall")
      .def(py::init<const torch::jit::Object&>())
      .def("__call__", &EngineCall::operator(), py::arg("inputs"));

  module.def("untie_traced_convolutions", &torch_trt_ext::passes::untie_traced_convolutions);
  module.def("open_session", &torch_trt_ext::passes::open_session);
  module.def("read_session", &torch_trt_ext::passes::read_session);
  module.def("close_session", &torch_trt_ext::passes::close_session);
  module.def("set_rounding", [](int64_t session, const std::string& dtype, std::unordered_set<int64_t> nodes) {
    torch_trt_ext::passes::set_rounding(session, dtype_from_name(dtype), std::move(nodes));
  });

  py::class_<PreparedModel>(module, "PreparedModel")
      .def(py::init<const torch::jit::Module&>())
      .def("simplify", &PreparedModel::simplify)
      .def("functionalize", &PreparedModel::functionalize)
      .def("nodes", &PreparedModel::nodes)
      .def("graph_text", &PreparedModel::graph_text)
      .def("observed", &PreparedModel::observed)
      .def("divide", &PreparedModel::divide)
      .def("subgraph_count", &PreparedModel::subgraph_count)
      .def("subgraph_nodes", &PreparedModel::subgraph_nodes)
      .def("subgraph_inputs", &PreparedModel::subgraph_inputs)
      .def("subgraph_outputs", &PreparedModel::subgraph_outputs)
      .def("subgraph_operators", &PreparedModel::subgraph_operators)
      .def("left", &PreparedModel::left)
      .def("fallback", &PreparedModel::fallback)
      .def("rounding", &PreparedModel::rounding)
      .def("engine_graph",
           [](const PreparedModel& model, size_t subgraph, const std::unordered_map<size_t, TensorFacts>& facts,
              const std::string& device,
              size_t node_count) { return model.engine_graph(subgraph, facts, at::Device(device), node_count); })
      .def("subgraph_length", &PreparedModel::subgraph_length)
      .def("subgraph_node", &PreparedModel::subgraph_node)
      .def("subgraph_outputs_with_data", &PreparedModel::subgraph_outputs_with_data)
      .def("assembled", &PreparedModel::assembled);
}
