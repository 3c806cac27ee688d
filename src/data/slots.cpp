#include "pluvia/data/slots.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

#include <fmt/format.h>

namespace pluvia {

namespace {

std::string describe(const FoundFrame& found) {
  return format_time(found.frame.end) + " in " + found.file;
}

/// The multiple of `unit` nearest to t; of two the earlier.
Time nearest(Time t, Time unit) {
  const Time past = ((t % unit) + unit) % unit;
  return 2 * past > unit ? t - past + unit : t - past;
}

/// The first multiple of `unit` that is not before t.
Time at_or_after(Time t, Time unit) {
  const Time past = ((t % unit) + unit) % unit;
  return past == 0 ? t : t - past + unit;
}

/// A place for one frame: of its slot and channel, the part that ends at `end`.
struct Place {
  Time slot = 0;
  std::string channel;
  Time end = 0;
  auto operator<=>(const Place&) const = default;
};

} // namespace

void Skips::add(const std::string& reason, const std::string& example, std::int64_t count) {
  Entry& entry = by_reason_[reason];
  if (entry.count == 0 || example < entry.example) entry.example = example;
  entry.count += count;
}

std::map<Time, SlotFrames> assign_slots(std::vector<FoundFrame> frames, const SlotRule& rule,
                                        const std::map<Time, std::set<std::string>>& present, Skips& skips) {
  std::map<Place, FoundFrame> taken;
  for (FoundFrame& found : frames) {
    const RawFrame& frame = found.frame;
    const Time length = frame.end - frame.begin, spacing = length == 0 ? rule.step : length;
    if (rule.step % spacing != 0) {
      skips.add(fmt::format("frames over {} minutes, which do not divide prepare.frame_minutes",
                            static_cast<double>(length) / 60),
                describe(found));
      continue;
    }
    const Time end = nearest(frame.end, spacing);
    const Place place{at_or_after(end, rule.step), frame.channel, end};
    if (place.slot < rule.from || place.slot >= rule.to) {
      skips.add("frames outside prepare.from to prepare.to", describe(found));
      continue;
    }
    if (std::abs(frame.end - end) > rule.tolerance) {
      skips.add(fmt::format("frames more than {} minutes from a regular time",
                            static_cast<double>(rule.tolerance) / 60),
                describe(found));
      continue;
    }
    if (const auto slot = present.find(place.slot);
        slot != present.end() && slot->second.contains(frame.channel)) {
      skips.add("frames that the archive has already", describe(found));
      continue;
    }
    const auto rank = [&](const FoundFrame& f) {
      return std::tuple<Time, const std::string&, long>(std::abs(f.frame.end - end), f.file,
                                                        f.frame.position);
    };
    const auto [rival, is_new] = taken.try_emplace(place, found);
    if (is_new) continue;
    if (rank(found) < rank(rival->second)) std::swap(rival->second, found);
    skips.add("frames of a time that another frame stands for", describe(found));
  }

  std::map<Time, SlotFrames> slots;
  for (auto& [place, found] : taken) slots[place.slot][place.channel].push_back(std::move(found));
  for (auto& [time, channels] : slots)
    std::erase_if(channels, [&](const auto& channel) {
      Time filled = 0;
      for (const FoundFrame& found : channel.second) filled += found.frame.end - found.frame.begin;
      if (filled == 0 || filled == rule.step) return false; // an image, or the whole interval
      for (const FoundFrame& found : channel.second)
        skips.add("frames of intervals that are not complete", describe(found));
      return true;
    });
  std::erase_if(slots, [](const auto& slot) { return slot.second.empty(); });
  return slots;
}

} // namespace pluvia
