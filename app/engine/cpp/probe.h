// An event tracer that hands every fp32 value which the runtime computes to a callback, to be looked at and changed.
//
// Instructions log what they computed in their order: a delegate call all its arguments, a kernel its outputs. What the
// callback writes there is what the next instruction reads.
#pragma once

#include "shim.h"
#include "tracer.h"

class EngineProbe final : public EngineTracer {
 public:
  EngineProbe() { set_event_tracer_debug_level(executorch::runtime::EventTracerDebugLogLevel::kIntermediateOutputs); }

  // Null: values pass unseen.
  void call(EngineProbed wanted, void* with) {
    probed_ = wanted;
    context_ = with;
  }
  // Before every run: the same instruction may have been the last one to log.
  void begin() { first_ = true; }

  Result<bool> log_evalue(const executorch::runtime::EValue& value,
                          executorch::runtime::LoggedEValueType type) override {
    if (probed_ == nullptr || type != executorch::runtime::LoggedEValueType::kIntermediateOutput) return false;
    // The runtime's debug handle of an instruction is its number in the chain.
    const auto instruction = current_debug_handle();
    argument_ = first_ || instruction != instruction_ ? 0 : argument_ + 1;
    instruction_ = instruction;
    first_ = false;
    if (!value.isTensor()) return false;
    const Tensor& tensor = value.toTensor();
    if (tensor.scalar_type() != executorch::aten::ScalarType::Float || tensor.const_data_ptr() == nullptr ||
        reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % alignof(float) != 0)
      return false;
    probed_(context_, static_cast<uint32_t>(instruction), argument_, tensor.mutable_data_ptr<float>(),
            static_cast<size_t>(tensor.numel()));
    return true;
  }

 private:
  EngineProbed probed_ = nullptr;
  void* context_ = nullptr;
  bool first_ = true;
  executorch::runtime::DebugHandle instruction_ = 0;
  uint32_t argument_ = 0;
};
