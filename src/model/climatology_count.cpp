// The climatology of an archive: reading its windows is apart from what is made of them.
#include <algorithm>
#include <string>
#include <utility>

#include "pluvia/core/error.hpp"
#include "pluvia/core/span.hpp"
#include "pluvia/model/climatology.hpp"

namespace pluvia {

namespace {

/// Each rank has its share of the windows, and afterwards all. Collective.
void hand_round(const Communicator& comm, std::vector<ObservedWindow>& windows) {
  for (int rank = 0; rank < comm.size(); ++rank) {
    const Span theirs = Share{rank, comm.size()}.of(static_cast<Index>(windows.size()));
    for (Index w = theirs.from; w < theirs.to; ++w) {
      std::vector<std::int8_t>& classes = windows[static_cast<std::size_t>(w)].classes;
      auto size = static_cast<std::int64_t>(classes.size());
      comm.broadcast(std::as_writable_bytes(std::span(&size, 1)), rank);
      classes.resize(static_cast<std::size_t>(size));
      comm.broadcast(std::as_writable_bytes(std::span(classes)), rank);
    }
  }
}

} // namespace

Climatology Climatology::count(const Communicator& comm, ArchiveReader& reader, const Rect& tile,
                               const Accumulation& rule, const std::vector<double>& thresholds_mm,
                               std::span<const TimeSpan> spans, const SharedReading* shared) {
  const ArchiveIndex& index = reader.index();
  const Rect domain{0, index.grid.ny(), 0, index.grid.nx()};
  const Rect needed = grown(tile, domain), held = reader.rect();
  const Share share = shared ? Share{shared->same_tile.rank(), shared->same_tile.size()} : Share{};
  std::vector<ObservedWindow> windows;
  together(shared ? shared->all : comm, [&] {
    if (intersect(needed, held) != needed)
      fail(ExitCode::failed, "The climatology cannot be counted",
           "the reader does not cover the tile grown by " + std::to_string(smoothing_radius) + " cells");
    if (index.frames.empty())
      fail(ExitCode::data, "There is no climatology", "the archive holds no frames", "Check data.archive.");
    // An open range ends with the archive: windows without frames cost time and hold nothing.
    const Time first = index.frames.front().time - index.step, last = index.frames.back().time + index.step;
    for (const TimeSpan& span : spans)
      for (const Time end :
           whole_hour_windows({std::max(span.from, first), std::min(span.to, last + 1)}, rule.window))
        windows.push_back({end, {}});
    const Span own = share.of(static_cast<Index>(windows.size()));
    for (Index w = own.from; w < own.to; ++w) {
      ObservedWindow& window = windows[static_cast<std::size_t>(w)];
      const std::vector<float> amount = accumulate(reader, rule, window.end);
      std::vector<std::int8_t> classes(static_cast<std::size_t>(needed.cells()));
      bool any = false;
      for (Index y = needed.y0; y < needed.y1; ++y)
        for (Index x = needed.x0; x < needed.x1; ++x) {
          const int k = amount_class(
              amount[static_cast<std::size_t>((y - held.y0) * held.width() + x - held.x0)], thresholds_mm);
          classes[static_cast<std::size_t>((y - needed.y0) * needed.width() + x - needed.x0)] =
              static_cast<std::int8_t>(k);
          any = any || k >= 0;
        }
      if (any) window.classes = std::move(classes);
    }
  });
  if (shared) hand_round(shared->same_tile, windows);
  return from_windows(comm, domain, tile, rule.window, static_cast<int>(thresholds_mm.size()) + 1,
                      std::move(windows));
}

} // namespace pluvia
