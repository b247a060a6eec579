#include "passes/containers.h"

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <vector>

#include "passes/node_facts.h"

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
const torch::jit::Symbol kPop = torch::jit::Symbol::fromQualString("aten::pop");
const torch::jit::Symbol kDelete = torch::jit::Symbol::fromQualString("aten::Delete");
const torch::jit::Symbol kClear = torch::jit::Symbol::fromQualString("aten::clear");
const torch::jit::Symbol kReverse = torch::jit::Symbol::fromQualString("aten::reverse");
const torch::jit::Symbol kUpdate = torch::jit::Symbol::fromQualString("aten::update");
const torch::jit::Symbol kGet = torch::jit::Symbol::fromQualString("aten::get");

/// A list that is repeated more often stays as it is written.
constexpr int64_t kMaxRepeats = 256;

/// What a list or dict holds at one point of the program. Of a list, `keys` is empty.
struct Contents {
  std::vector<Value*> keys;
  std::vector<Value*> values;
};

using Known = std::unordered_map<Value*, Contents>;

bool is_list(const Value* value) {
  return value->type()->kind() == c10::ListType::Kind;
}
bool is_dict(const Value* value) {
  return value->type()->kind() == c10::DictType::Kind;
}

/// A constant that is compared by value as a key. Tensors are keys by identity.
std::optional<c10::IValue> key_of(const Value* value) {
  const std::optional<c10::IValue> key = toIValue(value);
  return key && (key->isString() || key->isInt() || key->isBool() || key->isDouble()) ? key : std::nullopt;
}

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
    drop_unused_merges();
    return changed_;
  }

 private:
  /// Returns what is known at the end of the block.
  Known visit(Block* block, Known known) {
    const std::vector<Node*> nodes(block->nodes().begin(), block->nodes().end());
    for (Node* const node : nodes) {
      if (!node->blocks().empty()) {
        Known inside = known;
        // A loop's body sees what earlier rounds wrote.
        if (node->kind() == prim::Loop) {
          forget_written(node, inside);
        }
        std::vector<Known> ends;
        for (Block* const inner : node->blocks()) {
          ends.push_back(visit(inner, inside));
        }
        const Known merged = node->kind() == prim::If ? merge(node, known, ends) : Known();
        forget_written(node, known);
        for (const auto& [container, contents] : merged) {
          known[container] = contents;
        }
      } else if (!create(node, known) && !mutate(node, known) && !read(node, known)) {
        read_whole(node, known);
        forget_written(node, known);
      }
    }
    if (block == graph_->block()) {
      return_whole(block->return_node(), known);
    }
    return known;
  }

  /// What the containers that a branch writes to hold after it, where both sides know that and agree on the number of
  /// elements. Elements that differ become outputs of the branch.
  Known merge(Node* branch, const Known& before, const std::vector<Known>& ends) {
    std::vector<Value*> containers;
    for (const auto& entry : before) {
      containers.push_back(entry.first);
    }
    // Outputs in an order that is the same each time.
    std::sort(containers.begin(), containers.end(),
              [](const Value* one, const Value* other) { return one->unique() < other->unique(); });
    Known merged;
    for (Value* const container : containers) {
      const auto first = ends[0].find(container);
      const auto second = ends[1].find(container);
      if (first == ends[0].end() || second == ends[1].end() || !alias_db_.writesToAlias(branch, ValueSet{container}) ||
          !can_merge(first->second, second->second)) {
        continue;
      }
      Contents& result = merged[container] = first->second;
      for (size_t index = 0; index < result.values.size(); ++index) {
        Value* const other = second->second.values[index];
        if (result.values[index] != other) {
          branch->blocks()[0]->registerOutput(result.values[index]);
          branch->blocks()[1]->registerOutput(other);
          const c10::TypePtr type = is_tensor(other) ? c10::TensorType::get() : other->type();
          result.values[index] = branch->addOutput()->setType(type);
          merges_.push_back(result.values[index]);
        }
      }
    }
    return merged;
  }

  /// Whether contents have the same keys, and elements that differ have one type, and not a container's.
  static bool can_merge(const Contents& first, const Contents& second) {
    const auto same_key = [](const Value* one, const Value* other) { return *toIValue(one) == *toIValue(other); };
    const auto mergeable = [](const Value* one, const Value* other) {
      const bool is_single = is_plain_type(*one->type()) && one->type()->containedTypes().empty();
      return one == other || (is_tensor(one) ? is_tensor(other) : is_single && *one->type() == *other->type());
    };
    return std::equal(first.keys.begin(), first.keys.end(), second.keys.begin(), second.keys.end(), same_key) &&
           std::equal(first.values.begin(), first.values.end(), second.values.begin(), second.values.end(), mergeable);
  }

  void drop_unused_merges() {
    for (auto output = merges_.rbegin(); output != merges_.rend(); ++output) {
      if (!(*output)->hasUses()) {
        Node* const branch = (*output)->node();
        const size_t index = (*output)->offset();
        for (Block* const inner : branch->blocks()) {
          inner->eraseOutput(index);
        }
        branch->eraseOutput(index);
      }
    }
  }

  /// Gives the caller new containers, so that those that were written to can go.
  void return_whole(Node* user, const Known& known) {
    for (size_t index = 0; index < user->inputs().size(); ++index) {
      Value* const value = user->input(index);
      if (value->node()->kind() == prim::TupleConstruct && value->uses().size() == 1) {
        return_whole(value->node(), known);
      }
      const auto found = known.find(value);
      if (found == known.end() || !alias_db_.hasWriters(value) || !is_seen_only_by(value, user)) {
        continue;
      }
      const WithInsertPoint guard(user);
      user->replaceInput(index, is_list(value) ? make_list(value->type(), found->second.values)
                                               : make_dict(value->type(), found->second));
      changed_ = true;
    }
  }

  /// Whether nothing else keeps the container: all others read it or write to it, and let go of it.
  static bool is_seen_only_by(const Value* value, const Node* user) {
    return std::all_of(value->uses().begin(), value->uses().end(), [&](const torch::jit::Use& use) {
      const torch::jit::FunctionSchema* const schema = use.user->maybeSchema();
      return use.user == user || (schema != nullptr && use.offset == 0 && !use.user->hasUses());
    });
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
      if (!key_of(node->input(index))) {
        return false;
      }
      set(contents, node->input(index), node->input(index + 1));
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
    if (node->inputs().empty() || node->maybeSchema() == nullptr || !node->schema().is_mutable()) {
      return false;
    }
    const auto found = known.find(node->input(0));
    if (found == known.end()) {
      return false;
    }
    Value* const container = found->first;
    const bool understood = is_list(container) ? write_list(node, found->second, known)
                                               : is_dict(container) && write_dict(node, found->second, known);
    if (!understood) {
      known.erase(found);
    } else if (node->outputs().size() == 1 && node->output()->type()->isSubtypeOf(*container->type())) {
      gives_itself(node, container);
    }
    forget_written(node, known, understood ? container : nullptr);
    return true;
  }

  /// append and _set_item give the container back.
  void gives_itself(Node* node, Value* container) {
    const torch::jit::FunctionSchema& schema = node->schema();
    const c10::AliasInfo* const given = schema.returns()[0].alias_info();
    if (given != nullptr && given->isWrite() && node->output()->hasUses()) {
      node->output()->replaceAllUsesWith(container);
      changed_ = true;
    }
  }

  bool write_list(Node* node, Contents& contents, const Known& known) {
    const auto kind = node->kind();
    if (kind == aten::append) {
      contents.values.push_back(node->input(1));
      return true;
    }
    if (kind == kExtend || kind == aten::add_) {
      const std::optional<Contents> tail = contents_of(node->input(1), node, known);
      if (tail) {
        contents.values.insert(contents.values.end(), tail->values.begin(), tail->values.end());
      }
      return tail.has_value();
    }
    if (kind == kInsert) {
      return insert(node, contents);
    }
    if (kind == kClear || kind == kReverse) {
      std::reverse(contents.values.begin(), contents.values.end());
      contents.values.resize(kind == kClear ? 0 : contents.values.size());
      return true;
    }
    if (kind != aten::_set_item && kind != kPop && kind != kDelete) {
      return false;
    }
    const std::optional<c10::IValue> place = toIValue(node->input(1));
    const std::optional<size_t> index = place ? wrap(place->toInt(), contents.values.size()) : std::nullopt;
    if (!index) {
      return false;
    }
    if (kind == aten::_set_item) {
      contents.values[*index] = node->input(2);
      return true;
    }
    return remove(node, contents, *index);
  }

  bool write_dict(Node* node, Contents& contents, const Known& known) {
    const auto kind = node->kind();
    if (kind == kClear) {
      contents = {};
      return true;
    }
    if (kind == kUpdate) {
      const auto others = known.find(node->input(1));
      if (others == known.end()) {
        return false;
      }
      for (size_t index = 0; index < others->second.keys.size(); ++index) {
        set(contents, others->second.keys[index], others->second.values[index]);
      }
      return true;
    }
    if (kind != aten::_set_item && kind != kPop && kind != kDelete) {
      return false;
    }
    const std::optional<c10::IValue> key = key_of(node->input(1));
    if (!key) {
      return false;
    }
    if (kind == aten::_set_item) {
      set(contents, node->input(1), node->input(2));
      return true;
    }
    const std::optional<size_t> index = find_key(contents, *key);
    return index && remove(node, contents, *index);
  }

  /// Removes an element, for `pop` and `del`; what `pop` gives is known.
  bool remove(Node* node, Contents& contents, size_t index) {
    if (node->kind() == kPop && !replace(node->output(), contents.values[index])) {
      return false;
    }
    const auto place = static_cast<std::ptrdiff_t>(index);
    contents.values.erase(contents.values.begin() + place);
    if (!contents.keys.empty()) {
      contents.keys.erase(contents.keys.begin() + place);
    }
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

  static void set(Contents& contents, Value* key, Value* value) {
    const std::optional<size_t> index = find_key(contents, *toIValue(key));
    if (index) {
      contents.values[*index] = value;
    } else {
      contents.keys.push_back(key);
      contents.values.push_back(value);
    }
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
      const std::optional<c10::IValue> key = key_of(node->input(1));
      if (!key) {
        return false;
      }
      const std::optional<size_t> index =
          is_list(node->input(0)) ? wrap(key->toInt(), contents.values.size()) : find_key(contents, *key);
      return index && replace(node->output(), contents.values[*index]);
    }
    if (kind == aten::__contains__ && is_dict(node->input(0))) {
      const std::optional<c10::IValue> key = key_of(node->input(1));
      return key && replace_by_constant(node, find_key(contents, *key).has_value());
    }
    if (kind == kGet && is_dict(node->input(0))) {
      return get(node, contents);
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
    if (kind == aten::mul && is_list(node->input(0))) {
      return repeat(node, contents, known);
    }
    if ((kind == aten::dict || kind == aten::copy) && is_dict(node->input(0))) {
      known[node->output()] = contents;
      return true;
    }
    if (kind == aten::dict && is_list(node->input(0))) {
      return replace_by_dict(node, contents, known);
    }
    return false;
  }

  bool get(Node* node, const Contents& contents) {
    const std::optional<c10::IValue> key = key_of(node->input(1));
    if (!key) {
      return false;
    }
    if (const std::optional<size_t> index = find_key(contents, *key)) {
      return replace(node->output(), contents.values[*index]);
    }
    return node->inputs().size() > 2 ? replace(node->output(), node->input(2)) : replace_by_constant(node, {});
  }

  bool repeat(Node* node, const Contents& contents, Known& known) {
    const std::optional<int64_t> times = constant_int(node->input(1));
    if (!times || *times > kMaxRepeats) {
      return false;
    }
    std::vector<Value*> values;
    for (int64_t round = 0; round < *times; ++round) {
      values.insert(values.end(), contents.values.begin(), contents.values.end());
    }
    return replace_by_list(node, values, known);
  }

  bool fold_extreme(Node* node, const Contents& contents, bool least) {
    std::optional<int64_t> result;
    for (const Value* const value : contents.values) {
      const std::optional<int64_t> number = constant_int(value);
      if (!number) {
        return false;
      }
      result = !result ? *number : least ? std::min(*result, *number) : std::max(*result, *number);
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
    // Identity is all that `is` asks for.
    if (schema == nullptr || schema->is_mutable() || node->kind() == aten::__is__ || node->kind() == aten::__isnot__) {
      return;
    }
    for (size_t index = 0; index < node->inputs().size() && index < schema->arguments().size(); ++index) {
      Value* const input = node->input(index);
      const auto found = known.find(input);
      if (found == known.end() || !is_list(input) || schema->arguments()[index].alias_info() != nullptr ||
          alias_db_.writesToAlias(node, ValueSet{input}) ||
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

  Value* make_dict(const c10::TypePtr& type, const Contents& contents) {
    const auto& dict = type->expectRef<c10::DictType>();
    return graph_
        ->insertNode(graph_->createDict(dict.getKeyType(), dict.getValueType(), contents.keys, contents.values))
        ->output();
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
      if (tuple->kind() != prim::TupleConstruct || tuple->inputs().size() != 2 || !key_of(tuple->input(0))) {
        return false;
      }
      set(contents, tuple->input(0), tuple->input(1));
    }
    known[node->output()] = contents;
    return true;
  }

  std::shared_ptr<Graph> graph_;
  AliasDb alias_db_;
  /// Outputs that branches were given, inner branches' first.
  std::vector<Value*> merges_;
  bool changed_ = false;
};

}  // namespace

bool forward_containers(const std::shared_ptr<Graph>& graph) {
  return Forwarder(graph).run();
}

}  // namespace torch_trt_ext::passes
