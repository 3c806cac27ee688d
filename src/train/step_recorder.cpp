#include "pluvia/train/step_recorder.hpp"

namespace pluvia {

StepRecorder::Way StepRecorder::run(const std::vector<const void*>& key, const std::function<void()>& work) {
  if (key != key_) {
    recording_.reset();
    key_ = key;
    steps_ = 0;
  }
  if (steps_++ < warm_up) {
    work();
    return Way::asked;
  }
  const bool fresh = !recording_;
  if (fresh) recording_.emplace(work);
  recording_->replay();
  return fresh ? Way::recorded : Way::replayed;
}

std::string recording_obstacle(const Settings& s, const Decomposition& tiles, const Communicator& world,
                               bool gradients_linked) {
  if (s.parallel.stages > 1) return "stages of the network exchange values through the hosts' memory";
  if (s.parallel.tensor > 1) return "channels travel through the hosts' memory";
  if (tiles.comm().size() > 1 && !tiles.link()) return "halos travel through the hosts' memory";
  if (!gradients_linked) return "gradients are summed on the hosts";
  if (s.model.attention.global == "linear") return "sums over the domain are made on the hosts";
  if (s.model.temporal_core == "recurrent" && s.parallel.time > 1)
    return "states of the recurrence travel through the hosts' memory";
  if (world.size() > 1 && accelerator::kind() == accelerator::Kind::pretend)
    return "messages of pretend accelerators travel through the hosts' memory";
  return {};
}

} // namespace pluvia
