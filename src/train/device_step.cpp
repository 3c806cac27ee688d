#include "pluvia/train/device_step.hpp"

#include <algorithm>

namespace pluvia {

namespace {

/// A tensor of the accelerator that is filled from one of the host with the same margins.
struct Inbox {
  Var there;
  Upload<float> upload;
  explicit Inbox(const Tensor& like)
      : there(Tape::leaf(Tensor(like.shape(), like.margin(), Device::gpu))),
        upload(there->value.storage().data(), there->value.storage().size()) {}
  void send(const Tensor& values) {
    std::ranges::copy(values.storage(), upload.next().begin());
    upload.send();
  }
};

/// The same of plain values.
template <class T> struct Shelf {
  DeviceArray<T> there;
  Upload<T> upload;
  explicit Shelf(std::size_t size) : there(size), upload(there.data(), size) {}
  void send(const std::vector<T>& values) {
    std::ranges::copy(values, upload.next().begin());
    upload.send();
  }
};

} // namespace

struct DeviceStep::Sample {
  std::unique_ptr<Inbox> input, base;
  Shelf<std::int8_t> classes;
  Shelf<float> weights;
  Shelf<std::uint64_t> number;
  Sample(const Tensor& of_input, const Tensor& of_base, const Target& target)
      : input(of_input.empty() ? nullptr : std::make_unique<Inbox>(of_input)),
        base(of_base.empty() ? nullptr : std::make_unique<Inbox>(of_base)), classes(target.classes.size()),
        weights(target.weights.size()), number(1) {}
};

DeviceStep::DeviceStep() : there_(1), zero_(std::vector<Report>(1)) {}
DeviceStep::~DeviceStep() = default;

void DeviceStep::send(std::size_t n, std::uint64_t sample, const Tensor& input, const Tensor& base,
                      const Target& target) {
  if (n == samples_.size()) samples_.push_back(std::make_unique<Sample>(input, base, target));
  Sample& s = *samples_[n];
  if (s.input) s.input->send(input);
  if (s.base) s.base->send(base);
  s.classes.send(target.classes);
  s.weights.send(target.weights);
  s.number.send({sample});
}

Var DeviceStep::input(std::size_t n) const {
  return samples_[n]->input ? samples_[n]->input->there : nullptr;
}
Var DeviceStep::base(std::size_t n) const {
  return samples_[n]->base ? samples_[n]->base->there : nullptr;
}
TargetThere DeviceStep::target(std::size_t n) const {
  return {samples_[n]->classes.there.data(), samples_[n]->weights.there.data()};
}
const std::uint64_t* DeviceStep::sample(std::size_t n) const {
  return samples_[n]->number.there.data();
}

void DeviceStep::clear() {
  accelerator::copy(there_.data(), zero_.data(), sizeof(Report));
}

void DeviceStep::post() {
  Copy& copy = copies_[posted_++ % 2];
  accelerator::start_to_host(copy.report.data(), there_.data(), sizeof(Report));
  copy.arrived.set();
}

DeviceStep::Report DeviceStep::take() {
  const Copy& copy = copies_[taken_++ % 2];
  copy.arrived.wait();
  return copy.report[0];
}

std::vector<const void*> DeviceStep::places() const {
  std::vector<const void*> out{there_.data()};
  for (const auto& s : samples_) {
    for (const auto& tensor : {s->input.get(), s->base.get()})
      out.push_back(tensor ? tensor->there->value.storage().data() : nullptr);
    out.insert(out.end(), {s->classes.there.data(), s->weights.there.data(), s->number.there.data()});
  }
  return out;
}

} // namespace pluvia
