#include "retinanet/box_convention.h"

#include <initializer_list>
#include <stdexcept>

namespace torch_trt_ext::plugins {

BoxConvention parse_box_convention(const std::string& name) {
  for (const BoxConvention convention :
       {BoxConvention::kRetinanetExamples, BoxConvention::kTorchvision, BoxConvention::kDetectron2}) {
    if (name == box_convention_name(convention)) {
      return convention;
    }
  }
  throw std::invalid_argument(
      "field 'box_convention' must be 'retinanet_examples', 'torchvision' or 'detectron2', got '" + name + "'");
}

const char* box_convention_name(BoxConvention convention) {
  switch (convention) {
    case BoxConvention::kTorchvision:
      return "torchvision";
    case BoxConvention::kDetectron2:
      return "detectron2";
    case BoxConvention::kRetinanetExamples:
      break;
  }
  return "retinanet_examples";
}

}  // namespace torch_trt_ext::plugins
