#include "ppm.h"

#include <cctype>
#include <cstdint>
#include <fstream>
#include <stdexcept>

namespace {

/// Far beyond any picture; keeps the product of both sides in 64 bits.
constexpr int64_t kMaxSide = 1 << 16;

/// Skips white space and comments, then reads a number.
int64_t read_number(std::istream& file, const std::string& path, const char* what) {
  int next = file.get();
  while (std::isspace(next) != 0 || next == '#') {
    if (next == '#') {
      for (; next != '\n' && next != EOF; next = file.get()) {
      }
    } else {
      next = file.get();
    }
  }
  int64_t number = 0;
  bool any = false;
  for (; std::isdigit(next) != 0 && number <= kMaxSide; next = file.get()) {
    number = 10 * number + (next - '0');
    any = true;
  }
  // One white space ends the number; after the last of the header the pixels begin.
  if (!any || number < 1 || number > kMaxSide || std::isspace(next) == 0) {
    throw std::runtime_error("image " + path + " must have a " + what + " of 1 to " + std::to_string(kMaxSide) +
                             " in its header, got something else; convert it again");
  }
  return number;
}

}  // namespace

torch::Tensor read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error("image " + path + " cannot be opened; check the path");
  }
  if (file.get() != 'P' || file.get() != '6') {
    throw std::runtime_error("image " + path + " must be a binary PPM, which begins with P6, got another format; " +
                             "convert it: python -c \"from PIL import Image; " +
                             "Image.open('in.png').convert('RGB').save('out.ppm')\"");
  }
  const int64_t width = read_number(file, path, "width");
  const int64_t height = read_number(file, path, "height");
  const int64_t largest = read_number(file, path, "largest value");
  if (largest != 255) {
    throw std::runtime_error("image " + path + " must have 8 bits a channel (255), got a largest value of " +
                             std::to_string(largest) + "; convert it again");
  }
  // Before memory is taken for what a damaged header announces.
  const std::streamoff begin = file.tellg();
  file.seekg(0, std::ios::end);
  const std::streamoff held = file.tellg() - begin;
  if (held < 3 * width * height) {
    throw std::runtime_error("image " + path + " must hold " + std::to_string(3 * width * height) +
                             " bytes of pixels, got " + std::to_string(held) + "; it was cut short, copy it again");
  }
  file.seekg(begin);
  torch::Tensor pixels = torch::empty({height, width, 3}, torch::kUInt8);
  file.read(static_cast<char*>(pixels.mutable_data_ptr()), pixels.numel());
  if (!file) {
    throw std::runtime_error("image " + path + " could not be read to its end; copy it again");
  }
  return pixels.permute({2, 0, 1}).contiguous();
}
