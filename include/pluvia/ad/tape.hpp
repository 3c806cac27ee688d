#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pluvia/ad/deferred_gradients.hpp"
#include "pluvia/ad/gradient_blocks.hpp"
#include "pluvia/ad/profile.hpp"
#include "pluvia/core/order_free_sums.hpp"
#include "pluvia/core/precision.hpp"
#include "pluvia/core/tensor.hpp"

namespace pluvia {

/// A value on the tape and, after a backward pass has reached it, the gradient of the loss by it.
struct Node {
  Tensor value;
  Tensor grad;        ///< empty until the first consumer has pulled back
  Margin grad_margin; ///< margins that the producer's pull-back wants around grad
  bool needs_grad = false;
};
using Var = std::shared_ptr<Node>;

/// A trained array. Replicated on all ranks; grad collects this rank's share until the trainer reduces it, or
/// `sums` does where gradients must not depend on the process grid (see GradientBlocks).
struct Parameter {
  enum class Decay { no, yes };
  std::string name;
  Tensor value, grad;
  Decay decay = Decay::no;
  OrderFreeSums sums = {}; ///< empty unless tapes have blocks
};

/// Adds this rank's share of a parameter's gradient, or of a block's.
void add_gradient(Parameter& parameter, std::span<const float> d);
void add_gradient(Parameter& parameter, const Tensor& d);

/// Adds d to the gradient of a node; d must have node.grad_margin and is taken over when it is the first.
void accumulate(Node& node, Tensor&& d);
/// Adds the gradient of `from`, which is spent, to that of a node of the same shape whose value went into it
/// as it is.
void pass_gradient(Node& from, Node& to);
/// The same, of a gradient that is still needed.
void copy_gradient(const Node& from, Node& to);
/// Where a pull-back may write a node's gradient directly: into `target`, adding `addend` when that is not
/// null (it is the target itself).
struct GradientSlot {
  Tensor& target;
  const Tensor* addend;
};
GradientSlot gradient_slot(Node& node);

/// Remembers how to pull gradients back, in the order of the forward pass: replayed in reverse, so that all
/// ranks reach their collectives in the same order.
class Tape {
public:
  /// Activations between blocks alone are kept, and those inside a block made anew for its pull-back?
  enum class Keep { everything, blocks };
  enum class Mode {
    record, ///< training
    forget  ///< forecasting: nothing is kept, values die with their last user
  };
  /// A profile, when given, books the time of every operator and must outlive the tape.
  explicit Tape(Mode mode, Precision precision = Precision::f32, Keep keep = Keep::everything,
                Profile* profile = nullptr, GradientBlocks blocks = {})
      : mode_(mode), precision_(precision), keep_(keep), profile_(profile), blocks_(blocks) {}

  Precision precision() const { return precision_; }
  /// How pull-backs sum the gradients of parameters.
  const GradientBlocks& blocks() const { return blocks_; }
  bool recording() const { return mode_ == Mode::record; }
  /// Those that values were made with, in the order of their first use.
  const std::vector<Parameter*>& parameters() const { return met_; }
  /// A value that is computed from others. `pull` reads node.grad and accumulates into the inputs it holds;
  /// it is kept only when recording and never called for a node whose gradient nobody asked for. `parameters`
  /// are those whose gradients it adds to.
  Var record(Tensor value, const Work& work, std::function<void(Node&)> pull, Margin grad_margin = {},
             const std::vector<Parameter*>& parameters = {});
  /// What `block` makes of x (and of parameters): with Keep::blocks its inside is forgotten, and computed
  /// once more when its gradient is pulled back (Chen et al. 2016, arXiv:1604.06174), to the same bits.
  /// Collective when the block is.
  Var apply(const std::function<Var(Tape&, const Var&)>& block, const Var& x);
  /// A value from outside; gradients are collected for it only when asked for.
  static Var leaf(Tensor value, bool needs_grad = false);
  /// Pulls gradients back from every node whose grad is set, latest first. Empties the tape. A parameter's
  /// gradient of this tape is whole when the value that was the first to be made with it has been pulled
  /// back. With `later` parts that nobody waits for are left there, and it says what is whole.
  void backward(const GradientListener& listener = {}, DeferredGradients* later = nullptr);
  /// For pull-backs: does the backward pass that is under way leave parts for later?
  bool defers() const { return later_ != nullptr; }
  /// Leaves such a part, and the gradient that it reads; only then.
  void defer(std::function<void(const Tensor& dy)> part, Tensor&& dy);

private:
  struct Entry {
    Var node;
    std::function<void(Node&)> pull;
    std::size_t row;               ///< of the profile
    std::vector<Parameter*> whole; ///< what no value before was made with
  };
  Mode mode_;
  Precision precision_;
  Keep keep_;
  Profile* profile_;
  GradientBlocks blocks_;
  std::vector<Entry> entries_;
  std::vector<Parameter*> met_; ///< every parameter so far, in the order of its first use
  bool inside_ = false;         ///< of a block that is made anew
  // Of the backward pass that is under way:
  GradientListener listener_;
  DeferredGradients* later_ = nullptr;
  std::size_t pulled_row_ = 0; ///< of the profile
};

} // namespace pluvia
