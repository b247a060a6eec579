// Runs a saved detector on one image, without Python: detect MODEL IMAGE.ppm [options].
#include <torch/cuda.h>
#include <torch/script.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "detections.h"
#include "engines.h"
#include "ppm.h"

namespace {

constexpr char kUsage[] =
    "usage: detect MODEL IMAGE.ppm [--threshold SCORE] [--runs N] [--warmup N]\n"
    "  MODEL       TorchScript file whose forward takes images [N, 3, H, W], float32 in 0..1\n"
    "  IMAGE.ppm   binary PPM, 8 bits a channel\n"
    "  --threshold print detections of at least this score (0.5)\n"
    "  --runs      timed runs (50)\n"
    "  --warmup    runs before these (10)\n";

struct Options {
  std::string model;
  std::string image;
  float threshold = 0.5f;
  long runs = 50;
  long warmup = 10;
};

double parse_number(const std::string& option, const char* text) {
  size_t used = 0;
  double number = 0;
  try {
    number = std::stod(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used == 0 || used != std::strlen(text) || !(number >= 0 && number <= 1e6)) {
    throw std::invalid_argument(option + " must be a number from 0 to a million, got '" + text + "'");
  }
  return number;
}

Options parse_options(int argc, char** argv) {
  Options options;
  std::vector<std::string> files;
  for (int index = 1; index < argc; ++index) {
    const std::string word = argv[index];
    if (word.rfind("--", 0) != 0) {
      files.push_back(word);
      continue;
    }
    if (index + 1 == argc) {
      throw std::invalid_argument(word + " must be followed by a number");
    }
    const double number = parse_number(word, argv[++index]);
    if (word == "--threshold") {
      options.threshold = static_cast<float>(number);
    } else if (word == "--runs") {
      options.runs = std::max(1L, std::lround(number));
    } else if (word == "--warmup") {
      options.warmup = std::lround(number);
    } else {
      throw std::invalid_argument("there is no option " + word);
    }
  }
  if (files.size() != 2) {
    throw std::invalid_argument("a model and an image must be given, got " + std::to_string(files.size()) + " files");
  }
  options.model = files[0];
  options.image = files[1];
  return options;
}

/// Without a GPU, a model that was saved on one is loaded to the CPU, where its engines say why they cannot run.
torch::jit::Module load_model(const std::string& path) {
  torch::jit::Module model = torch::cuda::is_available() ? torch::jit::load(path) : torch::jit::load(path, torch::kCPU);
  model.eval();
  return model;
}

void print_engines(const std::vector<ModelEngine>& engines, torch::Device device) {
  if (engines.empty()) {
    std::cout << "the model holds no engine: all of it is PyTorch\n";
  }
  for (const ModelEngine& engine : engines) {
    std::cout << "engine " << engine.path << " (" << engine.kind << ") ";
    if (engine.can_run()) {
      std::cout << "runs on " << device << "\n";
    } else {
      std::cout << "cannot run here: " << engine.why_not() << "\n";
    }
  }
}

/// Says which engines gave way to their fallback, and why if that is because of the input.
void print_fallbacks(const std::vector<ModelEngine>& engines) {
  for (const ModelEngine& engine : engines) {
    const std::map<std::string, int64_t> counted = engine.counters();
    if (counted.at("fallbacks") > 0) {
      std::cout << "engine " << engine.path << " did not run: PyTorch's fallback ran in its place in "
                << counted.at("fallbacks") << " of " << counted.at("fallbacks") + counted.at("calls") << " calls"
                << (engine.can_run() ? ", because the engine was not made for this image's shape" : "") << "\n";
    }
  }
}

void print_detections(const std::vector<Detection>& found) {
  std::printf("%5s %9s %9s %9s %9s %9s\n", "label", "score", "x1", "y1", "x2", "y2");
  for (const Detection& one : found) {
    std::printf("%5lld %9.6f %9.3f %9.3f %9.3f %9.3f\n", static_cast<long long>(one.label), one.score, one.x1, one.y1,
                one.x2, one.y2);
  }
  std::fflush(stdout);
}

/// Milliseconds of each run, from the call to the answer, GPU work included.
std::vector<double> time_runs(torch::jit::Module& model, const torch::Tensor& images, const Options& options) {
  std::vector<double> times_ms;
  for (long run = -options.warmup; run < options.runs; ++run) {
    const auto start = std::chrono::steady_clock::now();
    model.forward({images});
    if (images.is_cuda()) {
      torch::cuda::synchronize(images.device().index());
    }
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    if (run >= 0) {
      times_ms.push_back(elapsed.count());
    }
  }
  std::sort(times_ms.begin(), times_ms.end());
  return times_ms;
}

double quantile(const std::vector<double>& sorted, double share) {
  return sorted[static_cast<size_t>(std::lround(share * static_cast<double>(sorted.size() - 1)))];
}

void detect(const Options& options) {
  const torch::NoGradGuard no_grad;
  torch::jit::Module model = load_model(options.model);
  const std::vector<ModelEngine> engines = find_engines(model);
  const torch::Device device = find_device(model, engines);
  print_engines(engines, device);

  const torch::Tensor image = read_ppm(options.image);
  const torch::Tensor images = image.unsqueeze(0).to(device).to(torch::kFloat) / 255;
  const std::vector<Detection> found = read_detections(model.forward({images}), options.threshold);
  std::cout << options.image << ": " << image.size(2) << " x " << image.size(1) << " pixels, " << found.size()
            << " detections of score " << options.threshold << " or more" << std::endl;
  print_detections(found);

  const std::vector<double> times_ms = time_runs(model, images, options);
  std::printf("latency on %s, batch 1: median %.3f ms, p10 %.3f, p90 %.3f (%ld runs after %ld)\n", device.str().c_str(),
              quantile(times_ms, 0.5), quantile(times_ms, 0.1), quantile(times_ms, 0.9), options.runs, options.warmup);
  std::fflush(stdout);
  print_fallbacks(engines);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    detect(parse_options(argc, argv));
  } catch (const std::invalid_argument& error) {
    std::cerr << error.what() << "\n" << kUsage;
    return 2;
  } catch (const c10::Error& error) {
    // Without the stack of torch's own functions.
    std::cerr << error.what_without_backtrace() << "\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
