#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "pluvia/core/device.hpp"

namespace pluvia {

using Index = std::int64_t;

/// Extents of an activation [B, T, Y, X, C]: sample, frame (or lead), cell row, cell column, channel.
struct Shape {
  Index b = 1, t = 1, y = 1, x = 1, c = 1;
  PLUVIA_ANYWHERE Index cells() const { return b * t * y * x; }
  PLUVIA_ANYWHERE Index size() const { return cells() * c; }
  bool operator==(const Shape&) const = default;
};

/// Ghost cells around the interior: earlier and later frames, rows and columns on both sides.
struct Margin {
  int t_lo = 0, t_hi = 0, y_lo = 0, y_hi = 0, x_lo = 0, x_hi = 0;
  bool operator==(const Margin&) const = default;
};

/// What a kernel sees of a tensor; a plain value that is copied to where it runs.
template <class Value> struct ViewOf {
  Value* origin = nullptr; ///< null: no tensor
  Shape shape;
  Index stride_y = 0, stride_t = 0, stride_b = 0;
  PLUVIA_ANYWHERE Value* cell(Index b, Index t, Index y, Index x) const {
    return origin + b * stride_b + t * stride_t + y * stride_y + x * shape.c;
  }
  template <class Other>
    requires(!std::is_const_v<Value> && std::is_same_v<Other, const Value>)
  operator ViewOf<Other>() const {
    return {origin, shape, stride_y, stride_t, stride_b};
  }
};
using View = ViewOf<float>;
using ConstView = ViewOf<const float>;

/// Owns f32 values [B, T, Y, X, C], channels contiguous, with ghost margins around T, Y and X in the same
/// buffer, so that whoever produces a value writes where its consumer reads. Move-only; copies are explicit.
/// Fresh values are undefined (NaN in debug builds); zeroing is always explicit. Values on an accelerator are
/// read and written by its kernels alone; their addresses may be asked for here.
class Tensor {
public:
  Tensor() = default;
  explicit Tensor(Shape shape, Margin margin = {}, Device device = Device::host)
      : Tensor(shape, margin, device, Place::heap) {}
  static Tensor zeros(Shape shape, Margin margin = {}, Device device = Device::host);
  /// One of the host that lives long among others that come and go: when large it has a mapping of its own,
  /// which leaves no gap in the heap and goes back to the system with it. Each of its pages is fresh, and
  /// cleared first.
  static Tensor apart(Shape shape, Margin margin = {});
  Tensor(Tensor&&) noexcept = default;
  Tensor& operator=(Tensor&&) noexcept = default;

  bool empty() const { return data_ == nullptr; }
  const Shape& shape() const { return shape_; }
  const Margin& margin() const { return margin_; }
  Device device() const { return data_.get_deleter().device; }

  /// Distance in values between neighbouring columns, rows, frames and samples.
  Index stride_x() const { return shape_.c; }
  Index stride_y() const { return stride_y_; }
  Index stride_t() const { return stride_t_; }
  Index stride_b() const { return stride_b_; }

  /// The channels of one cell; t, y and x may point into the margins (negative, or past the extent).
  float* cell(Index b, Index t, Index y, Index x) {
    return origin_ + b * stride_b_ + t * stride_t_ + y * stride_y_ + x * shape_.c;
  }
  const float* cell(Index b, Index t, Index y, Index x) const {
    return origin_ + b * stride_b_ + t * stride_t_ + y * stride_y_ + x * shape_.c;
  }

  View view() { return {origin_, shape_, stride_y_, stride_t_, stride_b_}; }
  ConstView view() const { return {origin_, shape_, stride_y_, stride_t_, stride_b_}; }

  /// All values including the margins, in storage order.
  std::span<float> storage() { return {data_.get(), size_}; }
  std::span<const float> storage() const { return {data_.get(), size_}; }
  /// True when storage holds the interior alone.
  bool dense() const { return margin_ == Margin{}; }

  void fill(float value);
  /// Gives the memory of all frames' rows before `y`, margins included, back to the system: of one apart that
  /// is read for the last time. Their values are undefined then.
  void discard_rows(Index y);
  /// A copy of the interior with other margins (their values undefined).
  Tensor clone(Margin margin = {}) const;
  /// A copy elsewhere, margins included.
  Tensor to(Device device) const;

private:
  enum class Place { heap, apart };
  Tensor(Shape shape, Margin margin, Device device, Place place);
  struct Free {
    Device device;
    std::size_t mapped; ///< bytes of a mapping of its own, 0 = none
    Free() : Free(Device::host) {}
    explicit Free(Device d, std::size_t mapping = 0) : device(d), mapped(mapping) {}
    void operator()(float* p) const;
  };
  std::unique_ptr<float, Free> data_;
  std::size_t size_ = 0;
  float* origin_ = nullptr;
  Shape shape_{};
  Margin margin_{};
  Index stride_y_ = 0, stride_t_ = 0, stride_b_ = 0;
};

/// The tensor itself where it lies there already, else a copy.
Tensor moved(Tensor&& tensor, Device device);
/// All values including the margins, in storage order, from wherever they are, and back.
std::vector<float> values_of(const Tensor& tensor);
void set_values(Tensor& tensor, std::span<const float> values);
/// As many of them as there is room for, the first of which is number `from`.
void read_values(const Tensor& tensor, Index from, std::span<float> values);
void write_values(Tensor& tensor, Index from, std::span<const float> values);

/// Adds d to `to`, cell by cell; of one shape, with any margins, on one device.
void add_to(Tensor& to, const Tensor& d);

/// Tensors that this process has allocated so far: counted for those who measure, nothing depends on it.
struct TensorAllocations {
  std::int64_t count = 0, bytes = 0;
};
TensorAllocations tensor_allocations();

} // namespace pluvia
