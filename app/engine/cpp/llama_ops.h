// Registration of the operators that exported Llama programs use and the wheel's libraries lack.
#pragma once

#include <executorch/runtime/core/error.h>

// Registers llama::update_cache.out and llama::custom_sdpa.out.
executorch::runtime::Error engine_register_llama_ops();

// The runtime's thread pool. Its header is not in the SDK, its symbols are; these declarations follow
// ExecuTorch 1.5.1 and the linker checks the names.
namespace executorch::extension::threadpool {
class ThreadPool final {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t count);
  void run(runtime::FunctionRef<void(size_t)> function, size_t range);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool
