#pragma once
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "pluvia/data/readers/raw_file.hpp"
#include "pluvia/io/time.hpp"

namespace pluvia {

/// What was left out, by reason: how often, and the first example.
class Skips {
public:
  void add(const std::string& reason, const std::string& example, std::int64_t count = 1);
  struct Entry {
    std::int64_t count = 0;
    std::string example;
  };
  const std::map<std::string, Entry>& by_reason() const { return by_reason_; }

private:
  std::map<std::string, Entry> by_reason_;
};

/// A frame and the file that holds it.
struct FoundFrame {
  std::string file;
  RawFrame frame;
};

/// The regular times of an archive, whole multiples of `step` since 1970. A plain value.
struct SlotRule {
  Time step = 1800, tolerance = 300; ///< [s]; tolerance below step / 2
  Time from = std::numeric_limits<Time>::min(), to = std::numeric_limits<Time>::max(); ///< half-open
};

/// By channel, the frames of one slot in order of time: one image, or the rain intervals that fill
/// (slot - step, slot].
using SlotFrames = std::map<std::string, std::vector<FoundFrame>>;

/// Shares frames out to slots. An image belongs to the slot that it is within the tolerance of. Rain belongs
/// to the slot in whose (slot - step, slot] its interval lies, again within the tolerance; intervals shorter
/// than the step must fill it. Of two frames for one place the nearer is taken, then the one whose file
/// comes first by name. Channels that a slot of `present` has already are left alone. All that is not
/// used is noted in `skips`. The result does not depend on the order of `frames`. Local.
std::map<Time, SlotFrames> assign_slots(std::vector<FoundFrame> frames, const SlotRule& rule,
                                        const std::map<Time, std::set<std::string>>& present, Skips& skips);

} // namespace pluvia
