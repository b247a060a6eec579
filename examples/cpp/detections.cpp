#include "detections.h"

#include <stdexcept>

namespace {

torch::Tensor flat(const torch::Tensor& tensor) {
  return tensor.to(torch::kCPU, torch::kFloat).flatten().contiguous();
}

}  // namespace

std::vector<Detection> read_detections(const c10::IValue& answer, float threshold) {
  if (!answer.isTensorList() || answer.toTensorVector().size() != 3) {
    throw std::runtime_error("the model must answer with the list [scores, boxes, classes], got " + answer.tagKind() +
                             "; save a detector as examples/retinanet/demo.py does");
  }
  const std::vector<torch::Tensor> outputs = answer.toTensorVector();
  const torch::Tensor scores = flat(outputs[0]);
  const torch::Tensor boxes = flat(outputs[1]);
  const torch::Tensor classes = flat(outputs[2]);
  if (boxes.numel() != 4 * scores.numel() || classes.numel() != scores.numel()) {
    throw std::runtime_error("the model must answer with four coordinates and a class for each score, got " +
                             std::to_string(scores.numel()) + " scores, " + std::to_string(boxes.numel()) +
                             " coordinates and " + std::to_string(classes.numel()) + " classes");
  }
  const float* const box = boxes.const_data_ptr<float>();
  std::vector<Detection> found;
  for (int64_t slot = 0; slot < scores.numel(); ++slot) {
    const float score = scores.const_data_ptr<float>()[slot];
    // Slots after the last detection hold zeros.
    if (score > 0 && score >= threshold) {
      const auto label = static_cast<int64_t>(classes.const_data_ptr<float>()[slot]);
      found.push_back({label, score, box[4 * slot], box[4 * slot + 1], box[4 * slot + 2], box[4 * slot + 3]});
    }
  }
  return found;
}
