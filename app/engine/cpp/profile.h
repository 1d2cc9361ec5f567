// An event tracer that adds up time by name, for `engine bench --profile`.
#pragma once

#include <executorch/runtime/core/event_tracer.h>

#include <cstring>
#include <string>
#include <vector>

class EngineProfile final : public executorch::runtime::EventTracer {
 public:
  struct Total {
    std::string name;
    uint64_t calls = 0, nanoseconds = 0;
  };
  std::vector<Total> totals;

  void reset() {
    for (auto& total : totals) total.calls = total.nanoseconds = 0;
  }

  executorch::runtime::EventTracerEntry start_profiling(const char* name, executorch::runtime::ChainID,
                                                        executorch::runtime::DebugHandle) override;
  void end_profiling(executorch::runtime::EventTracerEntry entry) override;

  void create_event_block(const char*) override {}

  // What happens inside a delegate and what tensors hold is not recorded.
  using Tensor = executorch::aten::Tensor;
  using Handle = executorch::runtime::DelegateDebugIntId;
  template <typename T>
  using Result = executorch::runtime::Result<T>;
  executorch::runtime::EventTracerEntry start_profiling_delegate(const char*, Handle) override { return {}; }
  void end_profiling_delegate(executorch::runtime::EventTracerEntry, const void*, size_t) override {}
  void log_profiling_delegate(const char*, Handle, et_timestamp_t, et_timestamp_t, const void*, size_t) override {}
  void track_allocation(executorch::runtime::AllocatorID, size_t) override {}
  executorch::runtime::AllocatorID track_allocator(const char*) override { return 0; }
  Result<bool> log_evalue(const executorch::runtime::EValue&, executorch::runtime::LoggedEValueType) override {
    return false;
  }
  Result<bool> log_intermediate_output_delegate(const char*, Handle, const Tensor&) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char*, Handle,
                                                const executorch::runtime::ArrayRef<Tensor>) override {
    return false;
  }
  Result<bool> log_intermediate_output_delegate(const char*, Handle, const int&) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char*, Handle, const bool&) override { return false; }
  Result<bool> log_intermediate_output_delegate(const char*, Handle, const double&) override { return false; }
  void set_delegation_intermediate_output_filter(executorch::runtime::EventTracerFilterBase*) override {}
};
