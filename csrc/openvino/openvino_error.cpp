#include "openvino_error.h"

#include <sstream>

namespace torch_trt_ext {

std::string openvino_message(const std::exception& error) {
  std::istringstream lines(error.what());
  std::string message;
  for (std::string line; std::getline(lines, line);) {
    const bool is_location = line.rfind("Exception from ", 0) == 0;
    if (!is_location && !line.empty()) {
      message += (message.empty() ? "" : " ") + line;
    }
  }
  return message.empty() ? error.what() : message;
}

}  // namespace torch_trt_ext
