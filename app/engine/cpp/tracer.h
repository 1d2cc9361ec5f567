// An event tracer that records nothing: what the engine's own tracers have in common.
#pragma once

#include <executorch/runtime/core/event_tracer.h>

class EngineTracer : public executorch::runtime::EventTracer {
 public:
  using Tensor = executorch::aten::Tensor;
  using Entry = executorch::runtime::EventTracerEntry;
  using Handle = executorch::runtime::DelegateDebugIntId;
  template <typename T>
  using Result = executorch::runtime::Result<T>;

  Entry start_profiling(const char*, executorch::runtime::ChainID, executorch::runtime::DebugHandle) override {
    return {};
  }
  void end_profiling(Entry) override {}
  void create_event_block(const char*) override {}
  Entry start_profiling_delegate(const char*, Handle) override { return {}; }
  void end_profiling_delegate(Entry, const void*, size_t) override {}
  void log_profiling_delegate(const char*, Handle, et_timestamp_t, et_timestamp_t, const void*, size_t) override {}
  void track_allocation(executorch::runtime::AllocatorID, size_t) override {}
  executorch::runtime::AllocatorID track_allocator(const char*) override { return 0; }
  Result<bool> log_evalue(const executorch::runtime::EValue&, executorch::runtime::LoggedEValueType) override {
    return false;
  }
  // What happens inside a delegate is not recorded.
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
