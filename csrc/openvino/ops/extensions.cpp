#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>

#include "ops/retinanet_decode.h"
#include "ops/retinanet_nms.h"

// The entry point that ov::Core::add_extension and Python's NodeFactory look up when they are given this library.
OPENVINO_CREATE_EXTENSIONS(
    std::vector<ov::Extension::Ptr>({std::make_shared<ov::OpExtension<torch_trt_ext::ops::RetinaNetDecode>>(),
                                     std::make_shared<ov::OpExtension<torch_trt_ext::ops::RetinaNetNMS>>()}));
