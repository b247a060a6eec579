#pragma once

#include <cstddef>
#include <cstdint>

namespace torch_trt_ext::plugins {

/// Deals out a workspace front to back, each part at a multiple of 256 bytes. With a null base it only counts.
class WorkspaceParts {
 public:
  explicit WorkspaceParts(void* base) : base_(static_cast<char*>(base)) {}

  /// The next `count` elements.
  template <class Element>
  Element* take(int64_t count) {
    char* part = base_ == nullptr ? nullptr : base_ + size_bytes_;
    constexpr size_t kAlignment = 256;
    size_bytes_ += (static_cast<size_t>(count) * sizeof(Element) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<Element*>(part);
  }

  size_t size_bytes() const { return size_bytes_; }
  /// What is left.
  void* rest() const { return base_ == nullptr ? nullptr : base_ + size_bytes_; }

 private:
  char* base_;
  size_t size_bytes_ = 0;
};

}  // namespace torch_trt_ext::plugins
