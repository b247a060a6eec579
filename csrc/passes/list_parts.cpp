#include "passes/list_parts.h"

#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/constants.h>

#include <algorithm>
#include <map>
#include <optional>
#include <unordered_set>
#include <vector>

#include "passes/node_facts.h"

namespace torch_trt_ext::passes {
namespace {

using torch::jit::AliasDb;
using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::NamedValue;
using torch::jit::Node;
using torch::jit::Symbol;
using torch::jit::toIValue;
using torch::jit::Value;
using torch::jit::ValueSet;
using torch::jit::WithInsertPoint;
namespace aten = c10::aten;
namespace prim = c10::prim;

/// Nodes that read one element each of a list, by the element's constant index.
using Reads = std::map<int64_t, std::vector<Node*>>;

/// The reads of a list; none if it is used in any other way.
Reads reads_of(const Value* list) {
  Reads reads;
  for (const torch::jit::Use& use : list->uses()) {
    const bool is_read = use.user->kind() == aten::__getitem__ && use.offset == 0;
    const std::optional<int64_t> index = is_read ? constant_int(use.user->input(1)) : std::nullopt;
    if (!index) {
      return {};
    }
    reads[*index].push_back(use.user);
  }
  return reads;
}

/// The last element that is needed for these reads to succeed, counted from the nearer end.
int64_t furthest(const Reads& reads) {
  return reads.empty() ? -1 : std::max(reads.rbegin()->first, -reads.begin()->first - 1);
}

/// How many tensors an operator gives, where that depends on no tensor.
std::optional<size_t> certain_length(const Node* node) {
  static const Symbol split_with_sizes = Symbol::fromQualString("aten::split_with_sizes");
  static const Symbol tensor_split = Symbol::fromQualString("aten::tensor_split");
  const bool at_indices = node->kind() == tensor_split;
  if (!at_indices && node->kind() != aten::split && node->kind() != split_with_sizes) {
    return std::nullopt;
  }
  const Value* const parts = node->input(1);
  if (const auto number = at_indices ? constant_int(parts) : std::nullopt) {
    return *number > 0 ? std::make_optional(static_cast<size_t>(*number)) : std::nullopt;
  }
  const std::optional<c10::IValue> known = toIValue(parts);
  return known && known->isIntList() ? std::make_optional(known->toIntVector().size() + (at_indices ? 1 : 0))
                                     : std::nullopt;
}

class PartReader {
 public:
  explicit PartReader(const std::shared_ptr<Graph>& graph) : graph_(graph), alias_db_(graph) {}

  bool run() {
    collect(graph_->block());
    // A list gives the same tensor each time that it is asked.
    if (!compares_identity_) {
      for (Node* const node : lists_) {
        changed_ = replace(node) || changed_;
      }
    }
    return changed_;
  }

 private:
  void collect(Block* block) {
    for (Node* const node : block->nodes()) {
      for (Block* const inner : node->blocks()) {
        collect(inner);
      }
      if (writes_sizes(node)) {
        resizers_.push_back(node);
      } else if (node->kind() == aten::__is__ || node->kind() == aten::__isnot__) {
        compares_identity_ = compares_identity_ || (can_be_tensor(node->input(0)) && can_be_tensor(node->input(1)));
      } else if (node->outputs().size() == 1 && is_tensor_list(node->output()) && !node->inputs().empty() &&
                 is_tensor(node->input(0))) {
        lists_.push_back(node);
      }
    }
  }

  static bool can_be_tensor(const Value* value) { return value->type()->kind() != c10::TypeKind::NoneType; }

  bool replace(Node* node) {
    static const Symbol unsafe_split = Symbol::fromQualString("aten::unsafe_split");
    static const Symbol unsafe_chunk = Symbol::fromQualString("aten::unsafe_chunk");
    const Reads reads = reads_of(node->output());
    if (reads.empty() || is_resized(node, reads)) {
      return false;
    }
    if (const std::optional<size_t> length = certain_length(node)) {
      return unpack(node, reads, *length);
    }
    // Reads in branches may never come, so the others must say how long the list is.
    Reads certain;
    for (const auto& [index, readers] : reads) {
      for (Node* const reader : readers) {
        if (reader->owningBlock() == node->owningBlock()) {
          certain[index].push_back(reader);
        }
      }
    }
    if (furthest(certain) < furthest(reads)) {
      return false;
    }
    const WithInsertPoint guard(node->next());
    if (node->kind() == aten::unbind) {
      // select() itself raises, so each index must be certain.
      return certain.size() == reads.size() &&
             give(reads, [&](int64_t index) { return insert(node, aten::select, {node->input(1), index}); });
    }
    const std::optional<int64_t> number = node->inputs().size() > 1 ? constant_int(node->input(1)) : std::nullopt;
    if (!number || *number <= 0) {
      return false;
    }
    if (node->kind() == aten::split || node->kind() == unsafe_split) {
      Value* const length = insert(node, aten::size, {node->input(2)});
      return slices(node, reads, graph_->insertConstant(*number), length, length);
    }
    if (node->kind() == aten::chunk || node->kind() == unsafe_chunk) {
      if (furthest(reads) >= *number) {
        return false;
      }
      // Of nothing, chunk() makes as many empty parts as it was asked for.
      Value* const length = insert(node, aten::size, {node->input(2)});
      Value* const step = ceil_divide(node, length, *number);
      Value* const at_least_one = insert_plain(node, prim::max, {length, 1});
      return slices(node, reads, step, length, at_least_one);
    }
    return false;
  }

  bool is_resized(const Node* node, const Reads& reads) const {
    if (resizers_.empty()) {
      return false;
    }
    // AliasDb knows nothing of parts that were read in this round; the next one sees to them.
    if (parts_.count(node->input(0)) != 0) {
      return true;
    }
    ValueSet values = {node->input(0)};
    for (const auto& [index, readers] : reads) {
      for (const Node* const reader : readers) {
        values.insert(reader->output());
      }
    }
    return std::any_of(resizers_.begin(), resizers_.end(),
                       [&](Node* resizer) { return alias_db_.writesToAlias(resizer, values); });
  }

  /// Reads parts of `step` each of a dimension of `length`; those that begin at `end` or after do not exist.
  bool slices(Node* node, const Reads& reads, Value* step, Value* length, Value* end) {
    const int64_t last = furthest(reads);
    if (last > 0) {
      raise_unless(node, insert_plain(node, aten::lt, {insert_plain(node, aten::mul, {step, last}), end}));
    }
    Value* count = nullptr;
    if (reads.begin()->first < 0) {
      Value* const divisor = insert_plain(node, prim::max, {step, 1});
      Value* const rounded_up = insert_plain(node, aten::sub, {insert_plain(node, aten::add, {length, divisor}), 1});
      count = insert_plain(node, prim::max, {insert_plain(node, aten::floordiv, {rounded_up, divisor}), 1});
    }
    return give(reads, [&](int64_t index) {
      Value* const place = index < 0 ? insert_plain(node, aten::add, {count, index}) : graph_->insertConstant(index);
      Value* const first = insert_plain(node, aten::mul, {step, place});
      Value* const behind = insert_plain(node, aten::add, {first, step});
      return insert(node, aten::slice, {node->input(2), first, behind, 1});
    });
  }

  Value* ceil_divide(const Node* node, Value* number, int64_t divisor) {
    return insert_plain(node, aten::floordiv, {insert_plain(node, aten::add, {number, divisor - 1}), divisor});
  }

  void raise_unless(const Node* node, Value* condition) {
    Node* const check = graph_->insertNode(graph_->create(prim::If, {condition}, 0));
    check->copyMetadata(const_cast<Node*>(node));
    check->addBlock();
    const WithInsertPoint guard(check->addBlock());
    Value* const message = graph_->insertConstant("list index out of range");
    Value* const kind = graph_->insertConstant("builtins.IndexError");
    graph_->insertNode(graph_->create(prim::RaiseException, {message, kind}, 0))->copyMetadata(const_cast<Node*>(node));
  }

  bool unpack(Node* node, const Reads& reads, size_t length) {
    const auto signed_length = static_cast<int64_t>(length);
    if (reads.begin()->first < -signed_length || reads.rbegin()->first >= signed_length) {
      return false;
    }
    Node* const unpacked = graph_->createListUnpack(node->output(), length);
    unpacked->copyMetadata(node);
    unpacked->insertAfter(node);
    return give(reads, [&](int64_t index) {
      return unpacked->output(static_cast<size_t>(index < 0 ? index + signed_length : index));
    });
  }

  /// An operator on the tensor that `node` splits.
  Value* insert(const Node* node, Symbol kind, std::vector<NamedValue> arguments) {
    arguments.insert(arguments.begin(), const_cast<Value*>(node->input(0)));
    return insert_plain(node, kind, arguments);
  }

  Value* insert_plain(const Node* node, Symbol kind, const std::vector<NamedValue>& arguments) {
    Value* const value = graph_->insert(kind, arguments);
    value->node()->copyMetadata(const_cast<Node*>(node));
    return value;
  }

  template <typename Part>
  bool give(const Reads& reads, const Part& part) {
    for (const auto& [index, readers] : reads) {
      Value* const value = part(index);
      parts_.insert(value);
      for (Node* const reader : readers) {
        reader->output()->replaceAllUsesWith(value);
      }
    }
    return true;
  }

  std::shared_ptr<Graph> graph_;
  AliasDb alias_db_;
  std::vector<Node*> lists_;
  std::vector<Node*> resizers_;
  std::unordered_set<const Value*> parts_;
  bool compares_identity_ = false;
  bool changed_ = false;
};

}  // namespace

bool read_list_parts(const std::shared_ptr<Graph>& graph) {
  return PartReader(graph).run();
}

}  // namespace torch_trt_ext::passes
