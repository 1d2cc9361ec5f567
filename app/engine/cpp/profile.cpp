#include "profile.h"

#include <chrono>

namespace {
uint64_t now() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
          .count());
}
}  // namespace

EngineTracer::Entry EngineProfile::start_profiling(const char* name, executorch::runtime::ChainID,
                                                   executorch::runtime::DebugHandle) {
  Entry entry{};
  size_t i = 0;
  while (i < totals.size() && totals[i].name != name) i++;
  if (i == totals.size()) totals.push_back({name, 0, 0});
  entry.event_id = static_cast<int64_t>(i);
  entry.start_time = now();
  return entry;
}

void EngineProfile::end_profiling(Entry entry) {
  if (entry.event_id < 0 || static_cast<size_t>(entry.event_id) >= totals.size()) return;
  Total& total = totals[static_cast<size_t>(entry.event_id)];
  total.calls++;
  total.nanoseconds += now() - entry.start_time;
}
