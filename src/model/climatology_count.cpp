// The climatology of an archive: reading its windows is apart from what is made of them.
#include <algorithm>
#include <iterator>
#include <string>

#include "pluvia/core/error.hpp"
#include "pluvia/model/climatology.hpp"

namespace pluvia {

Climatology Climatology::count(const Communicator& comm, ArchiveReader& reader, const Rect& tile,
                               const Accumulation& rule, const std::vector<double>& thresholds_mm,
                               std::span<const TimeSpan> spans) {
  const ArchiveIndex& index = reader.index();
  const Rect domain{0, index.grid.ny(), 0, index.grid.nx()};
  const Rect needed = grown(tile, domain), held = reader.rect();
  std::vector<ObservedWindow> windows;
  together(comm, [&] {
    if (intersect(needed, held) != needed)
      fail(ExitCode::failed, "The climatology cannot be counted",
           "the reader does not cover the tile grown by " + std::to_string(smoothing_radius) + " cells");
    if (index.frames.empty())
      fail(ExitCode::data, "There is no climatology", "the archive holds no frames", "Check data.archive.");
    // An open range ends with the archive: windows without frames cost time and hold nothing.
    const Time first = index.frames.front().time - index.step, last = index.frames.back().time + index.step;
    std::vector<Time> ends;
    for (const TimeSpan& span : spans)
      std::ranges::copy(
          whole_hour_windows({std::max(span.from, first), std::min(span.to, last + 1)}, rule.window),
          std::back_inserter(ends));
    for (const Time end : ends) {
      ObservedWindow window{end, {}};
      const std::vector<float> amount = accumulate(reader, rule, end);
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
      windows.push_back(std::move(window));
    }
  });
  return from_windows(comm, domain, tile, rule.window, static_cast<int>(thresholds_mm.size()) + 1,
                      std::move(windows));
}

} // namespace pluvia
