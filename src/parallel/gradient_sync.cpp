#include "pluvia/parallel/gradient_sync.hpp"

#include <algorithm>
#include <type_traits>

#include "pluvia/core/parallel_for.hpp"
#include "pluvia/core/pinned_array.hpp"

namespace pluvia {

namespace {

// What is summed over ranks.
template <class T> std::size_t size_of(Parameter& p) {
  return std::is_same_v<T, float> ? p.grad.storage().size() : p.sums.limbs().size();
}
template <class T> void append(Parameter& p, std::vector<T>& share) {
  if constexpr (std::is_same_v<T, float>) {
    share.insert(share.end(), p.grad.storage().begin(), p.grad.storage().end());
  } else {
    share.insert(share.end(), p.sums.limbs().begin(), p.sums.limbs().end());
  }
}
template <class T> void take(Parameter& p, std::span<const T> all) {
  if constexpr (std::is_same_v<T, float>)
    set_values(p.grad, all);
  else
    std::ranges::copy(all, p.sums.limbs().begin());
}

} // namespace

GradientSync::GradientSync(const Communicator& comm, const std::vector<Parameter*>& parameters,
                           DeviceLink* link)
    : exact_(!parameters.empty() && !parameters.front()->sums.empty()), alone_(comm.size() == 1), link_(link),
      parameters_(parameters.rbegin(), parameters.rend()), whole_(parameters.size(), false), floats_(comm),
      limbs_(comm) {
  if (alone_) return;
  std::size_t size = 0;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const std::size_t more = parameters_[i]->grad.storage().size();
    if (buckets_.empty() || size + more > bucket_size) {
      buckets_.push_back({i, i});
      size = 0;
    }
    buckets_.back().to = i + 1;
    size += more;
  }
}

GradientSync::~GradientSync() {
  if (finished_) return;
  try {
    while (started_ < buckets_.size()) start_next();
  } catch (...) { // the failure that is on its way says more
  }
}

template <class T> void GradientSync::start_next(PendingSums<T>& sums) {
  const Bucket bucket = buckets_[started_++];
  std::size_t size = 0;
  for (std::size_t i = bucket.from; i < bucket.to; ++i) size += size_of<T>(*parameters_[i]);
  std::vector<T> share;
  share.reserve(size);
  for (std::size_t i = bucket.from; i < bucket.to; ++i) {
    if (exact_) parameters_[i]->sums.carry();
    append(*parameters_[i], share);
  }
  sums.start(std::move(share));
}

void GradientSync::start_next() {
  if (exact_) return start_next(limbs_);
  const Bucket bucket = buckets_[started_];
  if (parameters_[bucket.from]->grad.device() == Device::host) return start_next(floats_);
  ++started_;
  std::vector<std::span<float>> gradients;
  for (std::size_t i = bucket.from; i < bucket.to; ++i) gradients.push_back(parameters_[i]->grad.storage());
  if (link_) return link_->start_sums(gradients);
  std::size_t size = 0;
  for (const auto g : gradients) size += g.size();
  PinnedArray<float> staged(size);
  float* to = staged.data();
  for (const auto g : gradients) {
    accelerator::start_to_host(to, g.data(), g.size_bytes());
    to += g.size();
  }
  accelerator::wait();
  floats_.start(std::vector<float>(staged.data(), to));
}

template <class T> void GradientSync::unpack(PendingSums<T>& sums) {
  const auto all = sums.finish();
  for (std::size_t b = 0; b < all.size(); ++b) {
    std::span<const T> rest(all[b]);
    for (std::size_t i = buckets_[b].from; i < buckets_[b].to; ++i) {
      const std::size_t size = size_of<T>(*parameters_[i]);
      take(*parameters_[i], rest.first(size));
      rest = rest.subspan(size);
    }
  }
}

void GradientSync::come_back() {
  if (travelling_) hidden_seconds_ += std::chrono::duration<double>(Clock::now() - left_).count();
}

void GradientSync::complete(std::span<Parameter* const> whole) {
  if (alone_) return;
  come_back();
  for (const Parameter* p : whole)
    if (const auto found = std::ranges::find(parameters_, p); found != parameters_.end())
      whole_[static_cast<std::size_t>(found - parameters_.begin())] = true;
  while (ready_ < whole_.size() && whole_[ready_]) ++ready_;
  while (started_ < buckets_.size() && buckets_[started_].to <= ready_) start_next();
  if (!link_) travelling_ = !(exact_ ? limbs_.advance() : floats_.advance());
  left_ = Clock::now();
}

void GradientSync::finish() {
  come_back();
  while (started_ < buckets_.size()) start_next();
  if (link_ && !alone_) // then gradients are the accelerator's, and not exact
    link_->finish();
  else
    exact_ ? unpack(limbs_) : unpack(floats_);
  finished_ = true;
  if (exact_)
    parallel_for(static_cast<Index>(parameters_.size()), [&](Index i) {
      Parameter& p = *parameters_[static_cast<std::size_t>(i)];
      p.sums.round_to(p.grad.storage());
    });
}

GradientLink link_gradients(const Communicator& comm, int stages) {
  if (comm.size() == 1) return {};
  if (stages > 1) return {nullptr, "gradients are summed on the hosts: the network is cut into stages"};
  if (!DeviceLink::possible(comm))
    return {nullptr, "gradients are summed on the hosts: ranks share an accelerator"};
  return {std::make_unique<DeviceLink>(comm), "gradients are summed from accelerator to accelerator"};
}

} // namespace pluvia
