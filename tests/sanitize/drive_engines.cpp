// Drives the CPU path under a sanitizer: drive_engines MODE FILE, FILE being
// tests/fixtures/engine_v1_shapes.pt.
#include <ATen/Parallel.h>
#include <torch/custom_class.h>
#include <torch/script.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

using Fields = c10::Dict<std::string, c10::List<std::string>>;

constexpr int kThreads = 8;
constexpr int kRunsPerThread = 300;
constexpr int kDamagedStates = 1500;
constexpr int kDamagedFiles = 300;

void require(bool holds, const std::string& what) {
  if (!holds) {
    throw std::runtime_error(what);
  }
}

c10::IValue call(const c10::IValue& engine, const char* method, std::vector<c10::IValue> arguments = {}) {
  arguments.insert(arguments.begin(), engine);
  return engine.toObjectRef().type()->getMethod(method)(std::move(arguments));
}

/// The engine of the fixture computes 2 x + 1 on [1..8, 3].
void check_answer(const c10::IValue& engine, int64_t rows, float value) {
  const at::Tensor x = torch::full({rows, 3}, value);
  const at::Tensor answer = call(engine, "forward", {c10::List<at::Tensor>({x})}).toTensorVector().at(0);
  require(torch::equal(answer, 2 * x + 1), "wrong answer");
}

/// An engine object that is not made yet, as the unpickler has it.
c10::IValue empty_engine(const c10::IValue& like) {
  const c10::ClassTypePtr type = like.toObjectRef().type();
  return c10::ivalue::Object::create(c10::StrongTypePtr(nullptr, type), type->numAttributes());
}

c10::IValue restore(const c10::IValue& like, int64_t version, const at::Tensor& plan, const Fields& fields) {
  const c10::IValue engine = empty_engine(like);
  call(engine, "__setstate__", {c10::ivalue::Tuple::create(version, plan, fields)});
  return engine;
}

struct State {
  int64_t version;
  at::Tensor plan;
  Fields fields;
};

State state_of(const c10::IValue& engine) {
  const auto elements = call(engine, "__getstate__").toTupleRef().elements().vec();
  return {elements.at(0).toInt(), elements.at(1).toTensor(),
          c10::impl::toTypedDict<std::string, c10::List<std::string>>(elements.at(2).toGenericDict())};
}

Fields copy(const Fields& fields) {
  Fields copied;
  for (const auto& item : fields) {
    copied.insert(item.key(), item.value().copy());
  }
  return copied;
}

class Damage {
 public:
  explicit Damage(unsigned seed) : random_(seed) {}

  size_t below(size_t limit) { return std::uniform_int_distribution<size_t>(0, limit - 1)(random_); }

  std::string bytes(std::string data) {
    switch (below(4)) {
      case 0:
        data[below(data.size())] ^= static_cast<char>(1 << below(8));
        break;
      case 1:
        data.resize(below(data.size()));
        break;
      case 2:
        data.erase(below(data.size()), 1 + below(64));
        break;
      default:
        for (size_t count = 1 + below(8); count > 0; --count) {
          data[below(data.size())] = static_cast<char>(below(256));
        }
    }
    return data;
  }

  /// The state with one thing wrong; `changed` is false when the damage came to nothing.
  State state(const State& whole, bool& changed) {
    State damaged{whole.version, whole.plan, copy(whole.fields)};
    changed = true;
    const size_t kind = below(8);
    if (kind == 0) {
      damaged.version = static_cast<int64_t>(below(5)) - 1;
      changed = damaged.version != whole.version;
    } else if (kind < 4) {
      const std::string before(static_cast<const char*>(whole.plan.const_data_ptr()), whole.plan.numel());
      const std::string after = bytes(before);
      damaged.plan = torch::empty({static_cast<int64_t>(after.size())}, torch::kUInt8);
      std::copy(after.begin(), after.end(), static_cast<char*>(damaged.plan.mutable_data_ptr()));
      changed = after != before;
    } else if (kind == 4) {
      damaged.plan = whole.plan.slice(0, 0, 1).expand({int64_t{1} << below(62)});
    } else {
      std::vector<std::string> names;
      for (const auto& item : damaged.fields) {
        // Without its own checksum the rest counts as a file from before there was one.
        if (item.key() != "state_xxh64") {
          names.push_back(item.key());
        }
      }
      const std::string& name = names[below(names.size())];
      if (kind == 5) {
        (void)damaged.fields.erase(name);
      } else if (kind == 6) {
        damaged.fields.at(name).push_back("x");
      } else {
        damaged.fields.insert_or_assign(name, c10::List<std::string>({bytes("some text, \xC3\xBC")}));
      }
    }
    return damaged;
  }

 private:
  std::mt19937 random_;
};

void drive_states(const std::string& path) {
  torch::jit::Module model = torch::jit::load(path);
  const c10::IValue engine = model.attr("engine");
  const State whole = state_of(engine);
  for (int turn = 0; turn < 20; ++turn) {
    const c10::IValue again = restore(engine, whole.version, whole.plan, whole.fields);
    require(state_of(again).fields.size() == whole.fields.size(), "a field was lost");
    check_answer(again, 1 + turn % 8, static_cast<float>(turn));
  }
  Damage damage(7);
  int refused = 0;
  for (int turn = 0; turn < kDamagedStates; ++turn) {
    bool changed = true;
    const State damaged = damage.state(whole, changed);
    try {
      const c10::IValue other = restore(engine, damaged.version, damaged.plan, damaged.fields);
      require(!changed, "damaged state " + std::to_string(turn) + " was taken");
      check_answer(other, 2, 1.0f);
    } catch (const c10::Error& error) {
      require(changed, std::string("a whole state was refused: ") + error.what());
      ++refused;
    }
  }
  // A dictionary that says it holds lists of strings, and holds something else, as a damaged file gives.
  Fields lying = copy(whole.fields);
  c10::impl::GenericList numbers(c10::IntType::get());
  numbers.push_back(int64_t{5});
  numbers.unsafeSetElementType(c10::StringType::get());
  c10::impl::toGenericDict(lying).insert_or_assign("plugin_libraries", numbers);
  try {
    restore(engine, whole.version, whole.plan, lying);
    throw std::runtime_error("a number was taken for a name");
  } catch (const c10::Error& error) {
    require(std::string(error.what()).find("must be a string, got Int") != std::string::npos, error.what());
  }
  std::cout << refused << " of " << kDamagedStates << " damaged states refused\n";
}

void drive_files(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  // What torch reads before it comes to the engine is torch's own; the plan's record stands first in the file.
  const size_t plan = whole.find("TTE-OVIR");
  require(plan != std::string::npos, "no plan in " + path);
  Damage damage(11);
  int refused = 0;
  for (int turn = 0; turn < kDamagedFiles; ++turn) {
    std::string damaged = whole;
    if (turn % 2 == 0) {
      damaged.resize(damage.below(damaged.size()));
    } else {
      damaged[plan + damage.below(2000)] ^= static_cast<char>(1 << damage.below(8));
    }
    std::istringstream stream(damaged);
    try {
      torch::jit::load(stream);
    } catch (const std::exception&) {
      ++refused;
    }
  }
  require(refused == kDamagedFiles, "a damaged file was taken");
  std::cout << refused << " damaged files refused\n";
}

void drive_threads(const std::string& path) {
  const torch::jit::Module model = torch::jit::load(path);
  const c10::IValue engine = model.attr("engine");
  const State whole = state_of(engine);
  std::atomic<bool> start{false};
  std::atomic<int> failures{0};
  const auto work = [&](int number) {
    while (!start) {
      std::this_thread::yield();
    }
    try {
      for (int run = 0; run < kRunsPerThread; ++run) {
        check_answer(engine, std::vector<int64_t>{1, 3, 8}[run % 3], static_cast<float>(100 * number + run));
        if (run % 10 == 0) {
          try {
            check_answer(engine, 9, 0.0f);
            throw std::runtime_error("a shape out of range was taken");
          } catch (const c10::ValueError&) {
          }
        }
        if (run % 50 == number) {
          call(engine, "set_cuda_graphs", {run % 100 == number});
          call(engine, "counters");
          call(engine, "count_fallback");
          state_of(engine);
          check_answer(restore(engine, whole.version, whole.plan, whole.fields), 2, 3.0f);
        }
      }
    } catch (const std::exception& error) {
      std::cerr << "thread " << number << ": " << error.what() << "\n";
      ++failures;
    }
  };
  std::vector<std::thread> threads;
  for (int number = 0; number < kThreads; ++number) {
    threads.emplace_back(work, number);
  }
  start = true;
  for (std::thread& thread : threads) {
    thread.join();
  }
  require(failures == 0, "a thread failed");
  std::cout << kThreads * kRunsPerThread << " calls in " << kThreads << " threads\n";
}

/// Outlives main, and with it what other libraries' statics were.
std::vector<c10::IValue>& engines_at_exit() {
  static std::vector<c10::IValue> engines;
  return engines;
}

/// Ends the process while engines live: in a static made before the libraries' own, in one made after, in a thread.
void drive_exit(const std::string& path) {
  // Made now, so that it dies after what the libraries make from here on.
  engines_at_exit();
  torch::jit::Module model = torch::jit::load(path);
  engines_at_exit().push_back(model.attr("engine"));
  static torch::jit::Module late = torch::jit::load(path);
  check_answer(late.attr("engine"), 2, 1.0f);
  static thread_local torch::jit::Module of_thread = torch::jit::load(path);
  check_answer(of_thread.attr("engine"), 3, 1.0f);
  std::thread([&path] {
    static thread_local torch::jit::Module mine = torch::jit::load(path);
    check_answer(mine.attr("engine"), 4, 1.0f);
  }).join();
  std::atexit([] { check_answer(engines_at_exit().front(), 5, 1.0f); });
  std::cout << "exit with engines alive" << std::endl;
  std::exit(0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: drive_engines states|files|threads|exit FILE\n";
    return 2;
  }
  at::set_num_threads(1);
  const std::string mode = argv[1];
  try {
    if (mode == "states") {
      drive_states(argv[2]);
    } else if (mode == "files") {
      drive_files(argv[2]);
    } else if (mode == "threads") {
      drive_threads(argv[2]);
    } else if (mode == "exit") {
      drive_exit(argv[2]);
    } else {
      std::cerr << "there is no mode " << mode << "\n";
      return 2;
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
