#include "cudnn_conv3d.hpp"

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cudnn.h>

#include <array>
#include <limits>
#include <map>
#include <string>

#include "for_parts.hpp"
#include "pluvia/core/device_array.hpp"
#include "pluvia/core/error.hpp"
#include "pluvia/core/for_cells.hpp"

// cuDNN 9 marks these calls as old; they are the ones that run with every cuDNN since 8.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace pluvia::kernels::cudnn {

namespace {

using Bf16 = __nv_bfloat16;

void check(cudnnStatus_t status, const char* what) {
  if (status != CUDNN_STATUS_SUCCESS)
    fail(ExitCode::failed, what, std::string("cuDNN says: ") + cudnnGetErrorString(status),
         "Use train.precision=f32, or look at the library's log (CUDNN_LOGLEVEL_DBG=2).");
}
void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    fail(ExitCode::failed, what, std::string("cuBLAS says: ") + cublasLtGetStatusString(status),
         "Use train.precision=f32, or look at the library's log (CUBLASLT_LOG_LEVEL=2).");
}

cudnnHandle_t convolutions() {
  static const cudnnHandle_t one = [] {
    cudnnHandle_t made = nullptr;
    check(cudnnCreate(&made), "cuDNN cannot be used");
    check(cudnnSetStream(made, cuda::stream()), "cuDNN cannot use the stream");
    return made;
  }();
  return one;
}
cublasLtHandle_t products() {
  static const cublasLtHandle_t one = [] {
    cublasLtHandle_t made = nullptr;
    check(cublasLtCreate(&made), "cuBLASLt cannot be used");
    return made;
  }();
  return one;
}

/// Tensor cores want channels in multiples of eight: the rest are zeros.
Index padded(Index channels) {
  return (channels + 7) / 8 * 8;
}

/// The cells of a tensor and what lies around them within a margin, in bf16 and without gaps.
struct Packed {
  Shape shape;
  DeviceArray<Bf16> values;
};

/// An arrival fills the margin when all else is packed.
Packed pack(const ConstView& from, const Margin& m, const Arrival& arrival = {}) {
  const Shape s{from.shape.b, from.shape.t + m.t_lo + m.t_hi, from.shape.y + m.y_lo + m.y_hi,
                from.shape.x + m.x_lo + m.x_hi, padded(from.shape.c)};
  Packed out{s, DeviceArray<Bf16>(static_cast<std::size_t>(s.size()))};
  Bf16* const to = out.values.data();
  const Index t_lo = m.t_lo, y_lo = m.y_lo, x_lo = m.x_lo, channels = from.shape.c;
  const auto fill = [&](std::span<const OutputPart> parts) {
    for_runs(s, parts, 1, s.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index, Index c) {
      const Index i = ((at.b * s.t + at.t) * s.y + at.y) * s.x + at.x;
      to[i * s.c + c] =
          __float2bfloat16(c < channels ? from.cell(at.b, at.t - t_lo, at.y - y_lo, at.x - x_lo)[c] : 0.0F);
    });
  };
  const OutputPart own{{t_lo, t_lo + from.shape.t}, {y_lo, y_lo + from.shape.y}, {x_lo, x_lo + from.shape.x}};
  compute_around(arrival, arrival ? split_around(own, s) : Split{}, fill);
  return out;
}

/// Filters [C_out, t, y, x, C_in] as cuDNN wants them beside channels-last tensors.
DeviceArray<Bf16> pack_filters(const float* weight, Weights form, Index taps, Index c_in, Index c_out) {
  const Index in = padded(c_in), out = padded(c_out);
  DeviceArray<Bf16> packed(static_cast<std::size_t>(taps * in * out));
  Bf16* const to = packed.data();
  const bool turned = form == Weights::transposed;
  launch(taps * in * out, [=] PLUVIA_ANYWHERE(Index i) {
    const Index ci = i % in, tap = i / in % taps, co = i / in / taps;
    float value = 0;
    if (ci < c_in && co < c_out)
      value = turned ? weight[((taps - 1 - tap) * c_out + co) * c_in + ci]
                     : weight[(tap * c_in + ci) * c_out + co];
    to[i] = __float2bfloat16(value);
  });
  return packed;
}

/// y = what a library made, in cells of `stride` values, plus bias and residual.
template <class Value>
void finish(const Value* made, Index stride, const float* bias, const ConstView& residual, const View& y) {
  const Shape s = y.shape;
  for_cells(s, s.c, [=] PLUVIA_ANYWHERE(const CellAt& at, Index c) {
    const Index i = ((at.b * s.t + at.t) * s.y + at.y) * s.x + at.x;
    float value = static_cast<float>(made[i * stride + c]);
    if (bias) value += bias[c];
    if (residual.origin) value += residual.cell(at.b, at.t, at.y, at.x)[c];
    y.cell(at.b, at.t, at.y, at.x)[c] = value;
  });
}

/// Descriptors of one convolution without padding, and the algorithms that cuDNN takes for it, kept for the
/// next time.
struct Plan {
  cudnnTensorDescriptor_t x = nullptr, y = nullptr;
  cudnnFilterDescriptor_t w = nullptr;
  cudnnConvolutionDescriptor_t how = nullptr, how_filter = nullptr;
  cudnnConvolutionFwdAlgo_t forward{};
  std::size_t forward_bytes = 0;
  cudnnConvolutionBwdFilterAlgo_t filter{};
  std::size_t filter_bytes = 0;
};

cudnnTensorDescriptor_t describe(const Shape& s) {
  if (s.size() > std::numeric_limits<int>::max())
    fail(ExitCode::failed, "A convolution is too large for cuDNN",
         std::to_string(s.size()) + " values in a tensor; it takes fewer than 2^31",
         "Use more ranks, each with a GPU, or train.precision=f32.");
  cudnnTensorDescriptor_t made = nullptr;
  const std::array<int, 5> extents{static_cast<int>(s.b), static_cast<int>(s.c), static_cast<int>(s.t),
                                   static_cast<int>(s.y), static_cast<int>(s.x)};
  check(cudnnCreateTensorDescriptor(&made), "A tensor cannot be described");
  check(cudnnSetTensorNdDescriptorEx(made, CUDNN_TENSOR_NHWC, CUDNN_DATA_BFLOAT16, 5, extents.data()),
        "A tensor cannot be described");
  return made;
}

/// Without padding, of stride 1, for the tensor cores.
cudnnConvolutionDescriptor_t describe_convolution() {
  const std::array<int, 3> none{0, 0, 0}, ones{1, 1, 1};
  cudnnConvolutionDescriptor_t made = nullptr;
  check(cudnnCreateConvolutionDescriptor(&made), "A convolution cannot be described");
  check(cudnnSetConvolutionNdDescriptor(made, 3, none.data(), ones.data(), ones.data(),
                                        CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT),
        "A convolution cannot be described");
  check(cudnnSetConvolutionMathType(made, CUDNN_TENSOR_OP_MATH), "A convolution cannot be described");
  return made;
}

/// cuDNN lists algorithms from the fastest on, with those that it cannot run, and guesses some: which run for
/// sure, prepare(one) finds out. Those whose bits repeat come first.
template <class All, class Prepare>
const auto& first_that_works(const All& all, int n, const char* problem, Prepare&& prepare) {
  cudnnStatus_t status = CUDNN_STATUS_NOT_SUPPORTED;
  for (const bool repeats : {true, false})
    for (int i = 0; i < n; ++i) {
      const auto& one = all[static_cast<std::size_t>(i)];
      if ((one.determinism == CUDNN_DETERMINISTIC) != repeats) continue;
      status = one.status == CUDNN_STATUS_SUCCESS ? prepare(one) : one.status;
      if (status == CUDNN_STATUS_SUCCESS) return one;
    }
  check(status, problem);
  return all[0];
}

Plan& plan_of(const Shape& x, const Stencil& k, Index c_out) {
  using Key = std::array<Index, 9>;
  static std::map<Key, Plan> plans;
  const Key key{x.b, x.t, x.y, x.x, x.c, k.t, k.y, k.x, c_out};
  if (const auto found = plans.find(key); found != plans.end()) return found->second;
  Plan plan;
  const Shape y{x.b, x.t - k.t + 1, x.y - k.y + 1, x.x - k.x + 1, c_out};
  plan.x = describe(x);
  plan.y = describe(y);
  const std::array<int, 5> filter{static_cast<int>(c_out), static_cast<int>(x.c), k.t, k.y, k.x};
  check(cudnnCreateFilterDescriptor(&plan.w), "A filter cannot be described");
  check(cudnnSetFilterNdDescriptor(plan.w, CUDNN_DATA_BFLOAT16, CUDNN_TENSOR_NHWC, 5, filter.data()),
        "A filter cannot be described");
  plan.how = describe_convolution();
  int n = 0;
  std::array<cudnnConvolutionFwdAlgoPerf_t, 8> all{};
  check(cudnnGetConvolutionForwardAlgorithm_v7(convolutions(), plan.x, plan.w, plan.how, plan.y, all.size(),
                                               &n, all.data()),
        "cuDNN has no algorithm for a convolution");
  const auto prepare = [&](const cudnnConvolutionFwdAlgoPerf_t& one) {
    check(cudnnSetConvolutionMathType(plan.how, one.mathType), "A convolution cannot be described");
    return cudnnGetConvolutionForwardWorkspaceSize(convolutions(), plan.x, plan.w, plan.how, plan.y, one.algo,
                                                   &plan.forward_bytes);
  };
  plan.forward = first_that_works(all, n, "cuDNN has no algorithm for a convolution", prepare).algo;
  return plans.emplace(key, plan).first->second;
}

void plan_filter_gradient(Plan& plan) {
  if (plan.how_filter) return;
  plan.how_filter = describe_convolution();
  int n = 0;
  std::array<cudnnConvolutionBwdFilterAlgoPerf_t, 8> all{};
  check(cudnnGetConvolutionBackwardFilterAlgorithm_v7(convolutions(), plan.x, plan.y, plan.how_filter, plan.w,
                                                      all.size(), &n, all.data()),
        "cuDNN has no algorithm for a weight gradient");
  const auto prepare = [&](const cudnnConvolutionBwdFilterAlgoPerf_t& one) {
    check(cudnnSetConvolutionMathType(plan.how_filter, one.mathType), "A convolution cannot be described");
    return cudnnGetConvolutionBackwardFilterWorkspaceSize(convolutions(), plan.x, plan.y, plan.how_filter,
                                                          plan.w, one.algo, &plan.filter_bytes);
  };
  plan.filter = first_that_works(all, n, "cuDNN has no algorithm for a weight gradient", prepare).algo;
}

/// D = A B + C + bias, all stored column by column; D and C have m rows and n columns, the bias is the same
/// for all columns; both may be null. None lies in D but C, and D is 256 bytes aligned as all others are.
struct Matrix {
  const Bf16* values;
  Index rows, columns; ///< as stored, column by column
  cublasOperation_t use;
};
void multiply(const Matrix& a, const Matrix& b, float* d, Index m, Index n, const float* c = nullptr,
              const float* bias = nullptr) {
  struct Kept {
    cublasLtMatmulDesc_t how;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algorithm;
    std::size_t bytes;
  };
  static std::map<std::array<Index, 9>, Kept> kept;
  const std::array<Index, 9> key{a.rows, a.columns, a.use, b.rows, b.columns, b.use, m, n, bias ? 1 : 0};
  auto found = kept.find(key);
  if (found == kept.end()) {
    Kept make{};
    const char* const failed = "A product of matrices cannot be described";
    check(cublasLtMatmulDescCreate(&make.how, CUBLAS_COMPUTE_32F, CUDA_R_32F), failed);
    check(cublasLtMatmulDescSetAttribute(make.how, CUBLASLT_MATMUL_DESC_TRANSA, &a.use, sizeof a.use),
          failed);
    check(cublasLtMatmulDescSetAttribute(make.how, CUBLASLT_MATMUL_DESC_TRANSB, &b.use, sizeof b.use),
          failed);
    if (bias) { // of values of D's type, as it is where nothing else is said
      const cublasLtEpilogue_t with_bias = CUBLASLT_EPILOGUE_BIAS;
      check(cublasLtMatmulDescSetAttribute(make.how, CUBLASLT_MATMUL_DESC_EPILOGUE, &with_bias,
                                           sizeof with_bias),
            failed);
      // An algorithm is chosen for the alignment of this one.
      check(cublasLtMatmulDescSetAttribute(make.how, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias),
            failed);
    }
    check(cublasLtMatrixLayoutCreate(&make.a, CUDA_R_16BF, a.rows, a.columns, a.rows), failed);
    check(cublasLtMatrixLayoutCreate(&make.b, CUDA_R_16BF, b.rows, b.columns, b.rows), failed);
    check(cublasLtMatrixLayoutCreate(&make.d, CUDA_R_32F, m, n, m), failed);
    cublasLtMatmulPreference_t preference = nullptr;
    const std::size_t most = std::size_t{32} << 20;
    check(cublasLtMatmulPreferenceCreate(&preference), failed);
    check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most,
                                               sizeof most),
          failed);
    cublasLtMatmulHeuristicResult_t best{};
    int count = 0;
    check(cublasLtMatmulAlgoGetHeuristic(products(), make.how, make.a, make.b, make.d, make.d, preference, 1,
                                         &best, &count),
          "cuBLASLt has no algorithm for a product");
    check(count > 0 ? best.state : CUBLAS_STATUS_NOT_SUPPORTED, "cuBLASLt has no algorithm for a product");
    cublasLtMatmulPreferenceDestroy(preference);
    make.algorithm = best.algo;
    make.bytes = best.workspaceSize;
    found = kept.emplace(key, make).first;
  }
  const Kept& use = found->second;
  DeviceArray<std::byte> workspace(use.bytes);
  if (bias)
    check(cublasLtMatmulDescSetAttribute(use.how, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias),
          "A product of matrices cannot be described");
  const float one = 1, of_c = c ? 1 : 0;
  check(cublasLtMatmul(products(), use.how, &one, a.values, use.a, b.values, use.b, &of_c, c ? c : d, use.d,
                       d, use.d, &use.algorithm, workspace.data(), use.bytes, cuda::stream()),
        "A product of matrices failed");
}

bool dense(const ConstView& v) {
  const Shape& s = v.shape;
  return v.stride_y == s.x * s.c && v.stride_t == s.y * v.stride_y && v.stride_b == s.t * v.stride_t;
}

/// y = x W in every cell.
void linear(const ConstView& x, const float* weight, Weights form, const float* bias,
            const ConstView& residual, const View& y) {
  const Packed operand = pack(x, {});
  const Index c_in = operand.shape.c, c_out = padded(y.shape.c), cells = x.shape.cells();
  // Filters [C_out, C_in]: stored by columns, a matrix of C_in rows.
  const DeviceArray<Bf16> w = pack_filters(weight, form, 1, x.shape.c, y.shape.c);
  const Matrix weights{w.data(), c_in, c_out, CUBLAS_OP_T},
      cell_values{operand.values.data(), c_in, cells, CUBLAS_OP_N};
  // Into y itself where that has no gaps: a pass through it less.
  if (c_out == y.shape.c && dense(y) && (!residual.origin || dense(residual)))
    return multiply(weights, cell_values, y.origin, c_out, cells, residual.origin, bias);
  DeviceArray<float> made(static_cast<std::size_t>(cells * c_out));
  multiply(weights, cell_values, made.data(), c_out, cells);
  finish(made.data(), c_out, bias, residual, y);
}

} // namespace

void convolve(const ConstView& x, const float* weight, Weights form, const Stencil& stencil,
              const float* bias, const ConstView& residual, const View& y, const Arrival& arrival) {
  if (stencil.taps() == 1) return linear(x, weight, form, bias, residual, y);
  const DeviceArray<Bf16> w = pack_filters(weight, form, stencil.taps(), x.shape.c, y.shape.c);
  const Packed operand = pack(x, reach(stencil), arrival);
  const Index c_out = padded(y.shape.c);
  const Plan& plan = plan_of(operand.shape, stencil, c_out);
  DeviceArray<Bf16> made(static_cast<std::size_t>(y.shape.cells() * c_out));
  DeviceArray<std::byte> workspace(plan.forward_bytes);
  const float one = 1, zero = 0;
  check(cudnnConvolutionForward(convolutions(), &one, plan.x, operand.values.data(), plan.w, w.data(),
                                plan.how, plan.forward, workspace.data(), plan.forward_bytes, &zero, plan.y,
                                made.data()),
        "A convolution failed");
  finish(made.data(), c_out, bias, residual, y);
}

void convolve_weight_gradient(const ConstView& x, const ConstView& dy, const Stencil& stencil, float* dw) {
  const Packed operand = pack(x, reach(stencil)), gradient = pack(dy, {});
  const Index c_in = x.shape.c, c_out = dy.shape.c, in = operand.shape.c, out = gradient.shape.c,
              taps = stencil.taps(), cells = dy.shape.cells();
  if (taps == 1) { // [C_in, C_out] by rows is [C_out, C_in] by columns
    DeviceArray<float> made(static_cast<std::size_t>(in * out));
    multiply({gradient.values.data(), out, cells, CUBLAS_OP_N},
             {operand.values.data(), in, cells, CUBLAS_OP_T}, made.data(), out, in);
    const float* const from = made.data();
    launch(c_in * c_out, [=] PLUVIA_ANYWHERE(Index i) { dw[i] += from[i / c_out * out + i % c_out]; });
    return;
  }
  Plan& plan = plan_of(operand.shape, stencil, out);
  plan_filter_gradient(plan);
  DeviceArray<Bf16> made(static_cast<std::size_t>(taps * in * out));
  DeviceArray<std::byte> workspace(plan.filter_bytes);
  const float one = 1, zero = 0;
  check(cudnnConvolutionBackwardFilter(convolutions(), &one, plan.x, operand.values.data(), plan.y,
                                       gradient.values.data(), plan.how_filter, plan.filter, workspace.data(),
                                       plan.filter_bytes, &zero, plan.w, made.data()),
        "A weight gradient failed");
  const Bf16* const from = made.data();
  launch(taps * c_in * c_out, [=] PLUVIA_ANYWHERE(Index i) {
    const Index co = i % c_out, ci = i / c_out % c_in, tap = i / c_out / c_in;
    dw[i] += static_cast<float>(from[(co * taps + tap) * in + ci]);
  });
}

} // namespace pluvia::kernels::cudnn
