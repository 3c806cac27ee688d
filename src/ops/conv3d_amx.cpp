#include "conv3d_bf16.hpp"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "conv3d_bf16_rows.hpp"

namespace pluvia {

namespace {

using namespace bf16;

/// What a thread tells its matrix unit: eight tiles of 16 rows of 64 bytes.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
  constexpr TileShapes() {
    for (int i = 0; i < 8; ++i) row_bytes[i] = 64, rows[i] = 16;
  }
};

// A constant in memory: the instruction that reads it tells the compiler of its first bytes alone.
constexpr TileShapes shapes;

template <int CellTiles, int ChannelTiles>
void multiply_tiles(const std::uint16_t* x, Index second, const Index* offsets, const PackedBf16& packed,
                    const std::uint16_t* w, float* sums) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const Index stride = packed.c_in * static_cast<Index>(sizeof(std::uint16_t));
  const Index tile_stride = packed.tile_stride();
  for (int row = 0; row < packed.rows(); ++row) {
    const std::uint16_t* from = x + offsets[row];
    for (int step = 0; step < packed.steps; ++step, from += step_values, w += step_block) {
      _tile_loadd(6, w, 64);
      if constexpr (ChannelTiles == 2) _tile_loadd(7, w + tile_stride, 64);
      _tile_loadd(4, from, stride);
      if constexpr (CellTiles == 2) _tile_loadd(5, from + second, stride);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (ChannelTiles == 2) _tile_dpbf16ps(1, 4, 7);
      if constexpr (CellTiles == 2) _tile_dpbf16ps(2, 5, 6);
      if constexpr (CellTiles == 2 && ChannelTiles == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  constexpr Index bytes = at_once * static_cast<Index>(sizeof(float));
  _tile_stored(0, sums, bytes);
  if constexpr (ChannelTiles == 2) _tile_stored(1, sums + tile_size, bytes);
  if constexpr (CellTiles == 2) _tile_stored(2, sums + tile_size * at_once, bytes);
  if constexpr (CellTiles == 2 && ChannelTiles == 2)
    _tile_stored(3, sums + tile_size * at_once + tile_size, bytes);
}

/// The matrix unit: sums of 32 values at a time, of 16 cells by 16 channels.
struct Amx {
  static constexpr Index cells_at_once = 1 << 30; // sums of a unit of work stay in its tiles
  static constexpr Index cells_a_step = step_values;

  Amx() { _tile_loadconfig(&shapes); }
  ~Amx() { _tile_release(); }
  Amx(const Amx&) = delete;
  Amx& operator=(const Amx&) = delete;

  void multiply(const CellTile* cells, int count, const Index* offsets, const PackedBf16& packed,
                const std::uint16_t* w, int channel_tiles, float* sums) const {
    const auto run = count == 2 ? (channel_tiles == 2 ? multiply_tiles<2, 2> : multiply_tiles<2, 1>)
                                : (channel_tiles == 2 ? multiply_tiles<1, 2> : multiply_tiles<1, 1>);
    run(cells[0].values, count == 2 ? cells[1].values - cells[0].values : 0, offsets, packed, w, sums);
  }

  void correlate(const RowPair* rows, Index count, const InputTile* inputs, int input_tiles, Index x_stride,
                 Index dy_first, Index dy_stride, int channel_tiles, float* sums, Index sum_stride) const {
    const bool two_rows = input_tiles == 2, two_columns = channel_tiles == 2;
    const Index x_bytes = x_stride * 2, dy_bytes = dy_stride * 4, sum_bytes = sum_stride * 4;
    float* const below = sums + tile_size * sum_stride;
    _tile_loadd(0, sums, sum_bytes);
    if (two_columns) _tile_loadd(1, sums + tile_size, sum_bytes);
    if (two_rows) _tile_loadd(2, below, sum_bytes);
    if (two_rows && two_columns) _tile_loadd(3, below + tile_size, sum_bytes);
    for (Index i = 0; i < count; ++i) {
      const std::uint16_t* a = rows[i].x + inputs[0].offset;
      const std::uint16_t* b = two_rows ? rows[i].x + inputs[1].offset : a;
      const std::uint16_t* d = rows[i].dy + 2 * dy_first;
      for (Index cell = 0; cell < rows[i].cells; cell += step_values, d += step_values * dy_stride) {
        _tile_loadd(4, a + cell, x_bytes);
        _tile_loadd(6, d, dy_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if (two_columns) {
          _tile_loadd(7, d + step_values, dy_bytes);
          _tile_dpbf16ps(1, 4, 7);
        }
        if (two_rows) {
          _tile_loadd(5, b + cell, x_bytes);
          _tile_dpbf16ps(2, 5, 6);
          if (two_columns) _tile_dpbf16ps(3, 5, 7);
        }
      }
    }
    _tile_stored(0, sums, sum_bytes);
    if (two_columns) _tile_stored(1, sums + tile_size, sum_bytes);
    if (two_rows) _tile_stored(2, below, sum_bytes);
    if (two_rows && two_columns) _tile_stored(3, below + tile_size, sum_bytes);
  }
};

} // namespace

const Bf16Operators* amx_operators() {
  // The kernel gives tile registers only to processes that ask (arch_prctl, since Linux 5.16).
  constexpr int request_permission = 0x1023, tile_data = 18;
  static const bool granted = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  static constexpr Bf16Operators operators{&convolve_with<Amx>, &weight_gradient_with<Amx>};
  return granted ? &operators : nullptr;
}

} // namespace pluvia

#else

const pluvia::Bf16Operators* pluvia::amx_operators() {
  return nullptr;
}

#endif
