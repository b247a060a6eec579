"""The scripts of PAI-Blade's RetinaNet tutorial, steps 1 to 3, with their imports changed.

Changed besides: detectron2's model is this repository's digit detector, ``build_retinanet_decode`` comes from the
package (the tutorial's own calls TensorRT 7), nothing is compiled or downloaded, and the device is a parameter.
``RetinaNetPostProcess`` and ``RetinaNetWrapper`` are the tutorial's, as written.
"""

from __future__ import annotations

#: Fields: namespace (of the engine class), engine_class, device, build_arguments.
STEP_1 = """
import torch
from typing import List
from torch import Tensor
from examples.retinanet.model import BackboneAndHeads, build_digit_detector, cell_anchors
from torch_trt_ext import build_retinanet_decode
import torch_trt_ext

torch.manual_seed(0)
retinanet_model = build_digit_detector().eval().to('{device}')
retinanet_bacbone_heads = BackboneAndHeads(retinanet_model)

example_inputs = torch.rand(1, 3, 384, 512, device='{device}')
example_outputs = retinanet_bacbone_heads(example_inputs)
cell_anchors = [c.contiguous() for c in cell_anchors(retinanet_model)]
cuda_engine = build_retinanet_decode(
    example_outputs, example_inputs.shape, cell_anchors, 0.005{build_arguments})

class RetinaNetPostProcess(torch.nn.Module):
    def __init__(self, cuda_engine):
        super().__init__()
        blob_names = [cuda_engine.get_binding_name(idx) for idx in range(cuda_engine.num_bindings)]
        input_blob_names = blob_names[:-3]
        input_blob_types = ["Float"] * len(input_blob_names)
        output_blob_names = blob_names[-3:]
        output_blob_types = ["Float"] * len(output_blob_names)
        self.trt_ext_plugin = torch.classes.{namespace}.{engine_class}(
            bytes(cuda_engine.serialize()),
            (input_blob_names, output_blob_names, input_blob_types, output_blob_types),
        )

    def forward(self, inputs: List[Tensor]):
        return self.trt_ext_plugin.forward(inputs)

class RetinaNetWrapper(torch.nn.Module):
    def __init__(self, model, trt_postproc):
        super().__init__()
        self.backbone_and_heads = model
        self.trt_postproc = torch.jit.script(trt_postproc)

    def forward(self, images):
        cls_heads, box_heads = self.backbone_and_heads(images)
        return self.trt_postproc(cls_heads + box_heads)

trt_postproc = RetinaNetPostProcess(cuda_engine)
retinanet_mix_trt = RetinaNetWrapper(retinanet_bacbone_heads, trt_postproc)

retinanet_script = torch.jit.trace(retinanet_mix_trt, (example_inputs, ), check_trace=False)
torch.jit.save(retinanet_script, 'retinanet_script.pt')
torch.save(example_inputs, 'example_inputs.pth')
outputs = retinanet_script(example_inputs)
torch.save((outputs, example_outputs, cell_anchors), 'expected.pth')
"""

#: Fields: device_type.
STEP_2 = """
import torch_trt_ext as blade
import torch

blade_config = blade.Config()
blade_config.gpu_config.disable_fp16_accuracy_check = True

script_model = torch.jit.load('retinanet_script.pt')
example_inputs = torch.load('example_inputs.pth')
test_data = [(example_inputs,)]

with blade_config:
    optimized_model, opt_spec, report = blade.optimize(
        script_model,
        'o1',
        device_type='{device_type}',
        test_data=test_data,
    )

print("Report: {{}}".format(report))
torch.jit.save(optimized_model, 'optimized.pt')
"""

#: Fields: file.
STEP_3 = """
import torch_trt_ext.runtime
import torch

optimized_model = torch.jit.load('{file}')
example_inputs = torch.load('example_inputs.pth')

with torch.no_grad():
    pred = optimized_model(example_inputs)
torch.save(pred, '{file}.pred')
"""
