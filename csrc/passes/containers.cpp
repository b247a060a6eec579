#include "passes/containers.h"

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <vector>

namespace torch_trt_ext::passes {
namespace {

using torch::jit::AliasDb;
using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::toIValue;
using torch::jit::Value;
using torch::jit::ValueSet;
using torch::jit::WithInsertPoint;
namespace aten = c10::aten;
namespace prim = c10::prim;

const torch::jit::Symbol kExtend = torch::jit::Symbol::fromQualString("aten::extend");
const torch::jit::Symbol kInsert = torch::jit::Symbol::fromQualString("aten::insert");
const torch::jit::Symbol kItems = torch::jit::Symbol::fromQualString("aten::items");

/// What a list or dict holds at one point of the program. Of a list, `keys` is empty.
struct Contents {
  std::vector<Value*> keys;
  std::vector<Value*> values;
};

using Known = std::unordered_map<Value*, Contents>;

bool is_list(const Value* value) { return value->type()->kind() == c10::ListType::Kind; }
bool is_dict(const Value* value) { return value->type()->kind() == c10::DictType::Kind; }

std::optional<size_t> find_key(const Contents& contents, const c10::IValue& key) {
  for (size_t index = 0; index < contents.keys.size(); ++index) {
    if (*toIValue(contents.keys[index]) == key) {
      return index;
    }
  }
  return std::nullopt;
}

class Forwarder {
 public:
  explicit Forwarder(const std::shared_ptr<Graph>& graph) : graph_(graph), alias_db_(graph) {}

  bool run() {
    visit(graph_->block(), {});
    return changed_;
  }

 private:
  void visit(Block* block, Known known) {
    const std::vector<Node*> nodes(block->nodes().begin(), block->nodes().end());
    for (Node* const node : nodes) {
      if (!node->blocks().empty()) {
        Known inside = known;
        // A loop's body sees what earlier rounds wrote.
        if (node->kind() == prim::Loop) {
          forget_written(node, inside);
        }
        for (Block* const inner : node->blocks()) {
          visit(inner, inside);
        }
        forget_written(node, known);
      } else if (!create(node, known) && !mutate(node, known) && !read(node, known)) {
        read_whole(node, known);
        forget_written(node, known);
      }
    }
  }

  void forget_written(Node* node, Known& known, const Value* except = nullptr) const {
    for (auto entry = known.begin(); entry != known.end();) {
      const bool written = entry->first != except && alias_db_.writesToAlias(node, ValueSet{entry->first});
      entry = written ? known.erase(entry) : std::next(entry);
    }
  }

  static bool create(Node* node, Known& known) {
    if (node->kind() == prim::ListConstruct) {
      known[node->output()] = {{}, node->inputs().vec()};
      return true;
    }
    if (node->kind() == aten::dict && node->inputs().empty()) {
      known[node->output()] = {};
      return true;
    }
    if (node->kind() != prim::DictConstruct) {
      return false;
    }
    Contents contents;
    for (size_t index = 0; index + 1 < node->inputs().size(); index += 2) {
      const std::optional<c10::IValue> key = toIValue(node->input(index));
      if (!key || find_key(contents, *key)) {
        return false;
      }
      contents.keys.push_back(node->input(index));
      contents.values.push_back(node->input(index + 1));
    }
    known[node->output()] = contents;
    return true;
  }

  /// What `value` holds where `user` reads it. Constant lists count, their elements become constants before `user`.
  std::optional<Contents> contents_of(Value* value, Node* user, const Known& known) {
    const auto found = known.find(value);
    if (found != known.end()) {
      return found->second;
    }
    const std::optional<c10::IValue> constant = toIValue(value);
    if (!constant || !constant->isList()) {
      return std::nullopt;
    }
    const WithInsertPoint guard(user);
    Contents contents;
    for (const c10::IValue& element : constant->toListRef()) {
      const std::optional<Value*> copy = torch::jit::tryInsertConstant(*graph_, element);
      if (!copy) {
        return std::nullopt;
      }
      contents.values.push_back(*copy);
    }
    return contents;
  }

  /// Applies a write that is understood. Containers that may be the same one under another name become unknown.
  bool mutate(Node* node, Known& known) {
    const auto kind = node->kind();
    if (kind != aten::append && kind != kExtend && kind != kInsert && kind != aten::_set_item) {
      return false;
    }
    const auto found = known.find(node->input(0));
    if (found == known.end()) {
      return false;
    }
    Value* const container = found->first;
    bool understood = false;
    if (kind == aten::append) {
      found->second.values.push_back(node->input(1));
      understood = true;
    } else if (kind == kExtend) {
      if (const std::optional<Contents> tail = contents_of(node->input(1), node, known)) {
        found->second.values.insert(found->second.values.end(), tail->values.begin(), tail->values.end());
        understood = true;
      }
    } else if (kind == kInsert) {
      understood = insert(node, found->second);
    } else {
      understood = set_item(node, found->second);
    }
    // append and _set_item give the container back; nobody uses that name in code that Python made.
    understood = understood && std::all_of(node->outputs().begin(), node->outputs().end(),
                                           [](const Value* output) { return !output->hasUses(); });
    if (!understood) {
      known.erase(found);
    }
    forget_written(node, known, container);
    return true;
  }

  static bool insert(const Node* node, Contents& contents) {
    const std::optional<c10::IValue> place = toIValue(node->input(1));
    if (!place) {
      return false;
    }
    const auto size = static_cast<int64_t>(contents.values.size());
    const int64_t index = place->toInt() < 0 ? place->toInt() + size : place->toInt();
    contents.values.insert(contents.values.begin() + std::clamp<int64_t>(index, 0, size), node->input(2));
    return true;
  }

  static bool set_item(const Node* node, Contents& contents) {
    const std::optional<c10::IValue> key = toIValue(node->input(1));
    if (!key) {
      return false;
    }
    if (is_list(node->input(0))) {
      const std::optional<size_t> index = wrap(key->toInt(), contents.values.size());
      if (index) {
        contents.values[*index] = node->input(2);
      }
      return index.has_value();
    }
    const std::optional<size_t> index = find_key(contents, *key);
    if (index) {
      contents.values[*index] = node->input(2);
    } else {
      contents.keys.push_back(node->input(1));
      contents.values.push_back(node->input(2));
    }
    return true;
  }

  static std::optional<size_t> wrap(int64_t index, size_t size) {
    const auto signed_size = static_cast<int64_t>(size);
    if (index < -signed_size || index >= signed_size) {
      return std::nullopt;
    }
    return static_cast<size_t>(index < 0 ? index + signed_size : index);
  }

  /// Replaces what `node` reads from a known container.
  bool read(Node* node, Known& known) {
    if (node->inputs().empty() || (!is_list(node->input(0)) && !is_dict(node->input(0)))) {
      return false;
    }
    const std::optional<Contents> found = contents_of(node->input(0), node, known);
    if (!found) {
      return false;
    }
    const Contents& contents = *found;
    const auto kind = node->kind();
    if (kind == aten::len) {
      return replace_by_constant(node, static_cast<int64_t>(contents.values.size()));
    }
    if (kind == aten::__getitem__) {
      const std::optional<c10::IValue> key = toIValue(node->input(1));
      if (!key) {
        return false;
      }
      const std::optional<size_t> index =
          is_list(node->input(0)) ? wrap(key->toInt(), contents.values.size()) : find_key(contents, *key);
      return index && replace(node->output(), contents.values[*index]);
    }
    if (kind == aten::__contains__ && is_dict(node->input(0))) {
      const std::optional<c10::IValue> key = toIValue(node->input(1));
      return key && replace_by_constant(node, find_key(contents, *key).has_value());
    }
    if (kind == prim::ListUnpack && node->outputs().size() == contents.values.size()) {
      for (size_t index = 0; index < contents.values.size(); ++index) {
        replace(node->output(index), contents.values[index]);
      }
      return true;
    }
    if ((kind == prim::min || kind == prim::max) && node->inputs().size() == 1) {
      return fold_extreme(node, contents, kind == prim::min);
    }
    if (kind == aten::keys) {
      return replace_by_list(node, contents.keys, known);
    }
    if (kind == aten::values || (kind == aten::list && is_list(node->input(0))) ||
        (kind == aten::copy && is_list(node->input(0)))) {
      return replace_by_list(node, contents.values, known);
    }
    if (kind == kItems) {
      return replace_items(node, contents, known);
    }
    if (kind == aten::slice && is_list(node->input(0))) {
      return slice(node, contents, known);
    }
    if (kind == aten::add && node->inputs().size() == 2) {
      const std::optional<Contents> other = contents_of(node->input(1), node, known);
      if (!other) {
        return false;
      }
      std::vector<Value*> values = contents.values;
      values.insert(values.end(), other->values.begin(), other->values.end());
      return replace_by_list(node, values, known);
    }
    if (kind == aten::dict && is_list(node->input(0))) {
      return replace_by_dict(node, contents, known);
    }
    return false;
  }

  bool fold_extreme(Node* node, const Contents& contents, bool least) {
    std::optional<int64_t> result;
    for (const Value* const value : contents.values) {
      const std::optional<c10::IValue> number = toIValue(value);
      if (!number || !number->isInt()) {
        return false;
      }
      result = !result ? number->toInt() : least ? std::min(*result, number->toInt()) : std::max(*result, number->toInt());
    }
    return result && replace_by_constant(node, *result);
  }

  bool slice(Node* node, const Contents& contents, Known& known) {
    const auto size = static_cast<int64_t>(contents.values.size());
    int64_t bounds[2] = {0, size};
    for (const size_t side : {0, 1}) {
      const std::optional<c10::IValue> bound = toIValue(node->input(side + 1));
      if (!bound) {
        return false;
      }
      if (!bound->isNone()) {
        const int64_t index = bound->toInt();
        bounds[side] = std::clamp<int64_t>(index < 0 ? index + size : index, 0, size);
      }
    }
    const std::optional<c10::IValue> step = toIValue(node->input(3));
    if (!step || step->toInt() < 1) {
      return false;
    }
    std::vector<Value*> values;
    for (int64_t index = bounds[0]; index < bounds[1]; index += step->toInt()) {
      values.push_back(contents.values[static_cast<size_t>(index)]);
    }
    return replace_by_list(node, values, known);
  }

  /// Where an operator only reads a list, gives it one of its own, so that the one that was appended to can go.
  void read_whole(Node* node, const Known& known) {
    const torch::jit::FunctionSchema* const schema = node->maybeSchema();
    if (schema == nullptr || schema->is_mutable()) {
      return;
    }
    for (size_t index = 0; index < node->inputs().size() && index < schema->arguments().size(); ++index) {
      Value* const input = node->input(index);
      const auto found = known.find(input);
      if (found == known.end() || !is_list(input) || schema->arguments()[index].alias_info() != nullptr ||
          (input->node()->kind() == prim::ListConstruct && !alias_db_.hasWriters(input))) {
        continue;
      }
      const WithInsertPoint guard(node);
      node->replaceInput(index, make_list(input->type(), found->second.values));
      changed_ = true;
    }
  }

  Value* make_list(const c10::TypePtr& type, const std::vector<Value*>& values) {
    const c10::TypePtr element = type->expectRef<c10::ListType>().getElementType();
    return graph_->insertNode(graph_->createList(element, values))->output();
  }

  bool replace(Value* old_value, Value* new_value) {
    // An Optional read from a list of Optionals may be known to be a Tensor; the other way round it would not type.
    if (!new_value->type()->isSubtypeOf(*old_value->type())) {
      return false;
    }
    changed_ = changed_ || old_value->hasUses();
    old_value->replaceAllUsesWith(new_value);
    return true;
  }

  bool replace_by_constant(Node* node, const c10::IValue& value) {
    const WithInsertPoint guard(node);
    return replace(node->output(), graph_->insertConstant(value));
  }

  bool replace_by_list(Node* node, const std::vector<Value*>& values, Known& known) {
    const WithInsertPoint guard(node);
    if (!node->output()->hasUses()) {
      return true;
    }
    // Whoever writes to the copy is found through the old name, which AliasDb knows; so only unwritten copies go.
    if (alias_db_.hasWriters(node->output())) {
      known[node->output()] = {{}, values};
      return true;
    }
    Value* const list = make_list(node->output()->type(), values);
    known[list] = {{}, values};
    return replace(node->output(), list);
  }

  bool replace_items(Node* node, const Contents& contents, Known& known) {
    const WithInsertPoint guard(node);
    std::vector<Value*> items;
    for (size_t index = 0; index < contents.keys.size(); ++index) {
      items.push_back(
          graph_->insertNode(graph_->createTuple({contents.keys[index], contents.values[index]}))->output());
    }
    return replace_by_list(node, items, known);
  }

  bool replace_by_dict(Node* node, const Contents& pairs, Known& known) {
    Contents contents;
    for (Value* const pair : pairs.values) {
      const Node* const tuple = pair->node();
      if (tuple->kind() != prim::TupleConstruct || tuple->inputs().size() != 2 || !toIValue(tuple->input(0))) {
        return false;
      }
      const std::optional<size_t> index = find_key(contents, *toIValue(tuple->input(0)));
      if (index) {
        contents.values[*index] = tuple->input(1);
      } else {
        contents.keys.push_back(tuple->input(0));
        contents.values.push_back(tuple->input(1));
      }
    }
    known[node->output()] = contents;
    return true;
  }

  std::shared_ptr<Graph> graph_;
  AliasDb alias_db_;
  bool changed_ = false;
};

}  // namespace

bool forward_containers(const std::shared_ptr<Graph>& graph) { return Forwarder(graph).run(); }

}  // namespace torch_trt_ext::passes
