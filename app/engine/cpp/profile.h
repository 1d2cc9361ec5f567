// An event tracer that adds up time by name, for `engine bench --profile`.
#pragma once

#include <string>
#include <vector>

#include "tracer.h"

class EngineProfile final : public EngineTracer {
 public:
  struct Total {
    std::string name;
    uint64_t calls = 0, nanoseconds = 0;
  };
  std::vector<Total> totals;

  void reset() {
    for (auto& total : totals) total.calls = total.nanoseconds = 0;
  }

  Entry start_profiling(const char* name, executorch::runtime::ChainID, executorch::runtime::DebugHandle) override;
  void end_profiling(Entry entry) override;
};
