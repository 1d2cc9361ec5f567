// Safe-to-call C functions over executorch::Module. See shim.h for the contract.
#include "shim.h"

#include <executorch/extension/data_loader/buffer_data_loader.h>
#include <executorch/extension/module/module.h>
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/core/function_ref.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/kernel/operator_registry.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "call.h"
#include "llama_ops.h"
#include "probe.h"
#include "profile.h"

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;
using executorch::extension::BufferDataLoader;
using executorch::runtime::BackendOption;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::Method;
using executorch::runtime::Program;
namespace threadpool = executorch::extension::threadpool;

// One symbol per library, so that the linker keeps all five although four of them mostly register themselves
// when loaded: without this, `--as-needed` drops them and a model fails with "backend is not registered".
namespace torch::executor::native {
using executorch::runtime::etensor::Tensor;
Tensor& opt_mul_out(KernelRuntimeContext&, const Tensor&, const Tensor&, Tensor&);
Tensor& quantized_mixed_mm_out(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, Tensor&);
}  // namespace torch::executor::native
namespace executorch::extension::cpuinfo {
uint32_t get_num_performant_cores();
}
extern "C" int xnn_initialize(const void*);

// Volatile, and read in engine_init: a linker that drops unused sections must find this one used.
static const void* const volatile kept[3] = {
    reinterpret_cast<const void*>(&torch::executor::native::opt_mul_out),
    reinterpret_cast<const void*>(
        static_cast<Tensor& (*)(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, Tensor&)>(
            &torch::executor::native::quantized_mixed_mm_out)),
    reinterpret_cast<const void*>(&xnn_initialize),
};

namespace {

// Errors that the runtime logged on this thread since engine_log last took them.
constexpr size_t kLogBytes = 2048;
thread_local char log_text[kLogBytes];
thread_local size_t log_length = 0;

void record(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
            size_t length) {
  if (level == kFatal) {
    // The runtime aborts the process next; nobody will be left to ask for the log.
    std::fprintf(stderr, "executorch: %.*s\n", static_cast<int>(length), message);
    return;
  }
  if (level != kError || log_length + 2 >= kLogBytes) return;
  if (log_length > 0) {
    log_text[log_length++] = ';';
    log_text[log_length++] = ' ';
  }
  const size_t taken = std::min(length, kLogBytes - log_length);
  std::memcpy(log_text + log_length, message, taken);
  log_length += taken;
}

// `methods_` is protected and Module::execute allocates on every call; the Method itself does not.
class LoadedModule final : public executorch::extension::module::Module {
 public:
  using Module::Module;
  Method* loaded(const std::string& name) {
    auto found = methods_.find(name);
    return found == methods_.end() ? nullptr : found->second.method.get();
  }
};

Error fail(Error error, const char* message) {
  record(0, kError, "", "", 0, message, std::strlen(message));
  return error;
}

// Planned memory of `forward`, on large pages where the system has them: the cache's keys of one head lie a few hundred
// bytes apart, so that attention touches a new small page at every other key. Fresh mappings are zero, as the runtime's
// own would be, but cost nothing until they are used.
class Arena final {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() {
    for (const auto& mapping : mappings_) munmap(mapping.first, mapping.second);
  }

  Error map(const executorch::runtime::MethodMeta& meta) {
    const size_t count = meta.num_memory_planned_buffers();
    mappings_.reserve(count);
    buffers_.reserve(count);
    for (size_t i = 0; i < count; i++) {
      const auto size = meta.memory_planned_buffer_size(i);
      if (!size.ok()) return size.error();
      if (*size < 0 || static_cast<uint64_t>(*size) > SIZE_MAX - kLargePage)
        return fail(Error::InvalidProgram, "planned memory: no such size");
      const size_t bytes = static_cast<size_t>(*size);
      // A page more than it takes, so that it can begin at a large page.
      const size_t mapped = bytes + kLargePage;
      void* const base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
      if (base == MAP_FAILED) return fail(Error::MemoryAllocationFailed, "planned memory: cannot be mapped");
      mappings_.emplace_back(base, mapped);
      const uintptr_t begin = (reinterpret_cast<uintptr_t>(base) + kLargePage - 1) & ~(uintptr_t{kLargePage} - 1);
#ifdef MADV_HUGEPAGE
      // Advice: where it is refused the memory works all the same. A last part of a large page stays on small ones.
      madvise(reinterpret_cast<void*>(begin), bytes & ~(kLargePage - 1), MADV_HUGEPAGE);
#endif
      buffers_.emplace_back(reinterpret_cast<uint8_t*>(begin), bytes);
    }
    memory_ = std::make_unique<executorch::runtime::HierarchicalAllocator>(
        executorch::runtime::Span<executorch::runtime::Span<uint8_t>>(buffers_.data(), buffers_.size()));
    return Error::Ok;
  }

  executorch::runtime::HierarchicalAllocator* memory() { return memory_.get(); }

 private:
  static constexpr size_t kLargePage = size_t{2} << 20;
  std::vector<std::pair<void*, size_t>> mappings_;
  std::vector<executorch::runtime::Span<uint8_t>> buffers_;
  std::unique_ptr<executorch::runtime::HierarchicalAllocator> memory_;
};

template <typename Function>
uint32_t guarded(Function function) {
  log_length = 0;  // what an earlier call complained about, and succeeded nevertheless
  try {
    return static_cast<uint32_t>(function());
  } catch (const std::bad_alloc&) {
    return static_cast<uint32_t>(Error::MemoryAllocationFailed);
  } catch (const std::exception& e) {
    record(0, kError, "", "", 0, e.what(), std::strlen(e.what()));
    return static_cast<uint32_t>(Error::Internal);
  } catch (...) {
    return static_cast<uint32_t>(Error::Internal);
  }
}

// Options grouped by backend; the map keeps spans, so the arrays live as long as it does.
struct Options {
  std::vector<std::pair<std::string, std::vector<BackendOption>>> groups;
  executorch::runtime::LoadBackendOptionsMap map;

  Error fill(const EngineOption* options, size_t count) {
    for (size_t i = 0; i < count; i++) {
      const EngineOption& from = options[i];
      BackendOption to;
      if (std::strlen(from.key) >= sizeof to.key) return fail(Error::InvalidArgument, "backend option: key too long");
      std::strcpy(to.key, from.key);
      if (from.kind == 0) {
        to.value = from.number != 0;
      } else if (from.kind == 1) {
        to.value = static_cast<int>(from.number);
      } else {
        std::array<char, executorch::runtime::kMaxOptionValueLength> text{};
        if (std::strlen(from.text) >= text.size())
          return fail(Error::InvalidArgument, "backend option: value too long (255 bytes at most)");
        std::strcpy(text.data(), from.text);
        to.value = text;
      }
      auto group = std::find_if(groups.begin(), groups.end(), [&](auto& g) { return g.first == from.backend; });
      if (group == groups.end()) group = groups.insert(groups.end(), {from.backend, {}});
      group->second.push_back(to);
    }
    for (auto& group : groups) {
      const Error error = map.set_options(group.first.c_str(), {group.second.data(), group.second.size()});
      if (error != Error::Ok) return error;
    }
    return Error::Ok;
  }
};

void describe(EngineTensorInfo& to, executorch::runtime::Result<executorch::runtime::TensorInfo> info) {
  to.scalar_type = -1;
  to.rank = 0;
  if (!info.ok()) return;
  to.scalar_type = static_cast<int32_t>(info->scalar_type());
  to.rank = static_cast<int32_t>(info->sizes().size());
  if (to.rank > ENGINE_RANK_MAX) to.scalar_type = -1, to.rank = 0;  // nothing that a caller could use
  for (int32_t i = 0; i < to.rank; i++) to.sizes[i] = info->sizes()[i];
}

// A tensor over borrowed memory, built on the stack.
struct View {
  executorch::aten::SizesType sizes[2];
  executorch::aten::DimOrderType order[2] = {0, 1};
  executorch::aten::StridesType strides[2];
  TensorImpl impl;
  View(const int64_t* data, ssize_t rank, size_t count)
      : sizes{rank == 2 ? 1 : static_cast<int32_t>(count), static_cast<int32_t>(count)},
        strides{rank == 2 ? static_cast<int32_t>(count) : 1, 1},
        impl(ScalarType::Long, rank, sizes, const_cast<int64_t*>(data), order, strides) {}
};

}  // namespace

struct EngineModel {
  Arena arena;  // outlives the module, whose methods point into it
  std::unique_ptr<LoadedModule> module;
  EngineProfile* profile = nullptr;  // owned by the module, as is the probe
  EngineProbe* probe = nullptr;
  Method* forward = nullptr;
  int64_t position = 0;  // a program without planned inputs keeps pointing at it
};

extern "C" {

uint32_t engine_init(void) {
  return guarded([] {
    executorch::runtime::register_pal(executorch::runtime::PalImpl::create(record, __FILE__));
    executorch::runtime::runtime_init();
    for (const void* const volatile& symbol : kept)
      if (symbol == nullptr) return fail(Error::Internal, "a runtime library is not linked");
    return engine_register_llama_ops();
  });
}

size_t engine_log(char* text, size_t capacity) {
  if (capacity == 0) return 0;
  const size_t taken = std::min(log_length, capacity - 1);
  std::memcpy(text, log_text, taken);
  text[taken] = '\0';
  log_length = 0;
  return taken;
}

const char* engine_kernel_name(size_t index) {
  const auto kernels = executorch::runtime::get_registered_kernels();
  return index < kernels.size() ? kernels[index].name_ : nullptr;
}

const char* engine_backend_name(size_t index) {
  if (index >= executorch::runtime::get_num_registered_backends()) return nullptr;
  const auto name = executorch::runtime::get_backend_name(index);
  return name.ok() ? *name : nullptr;
}

uint32_t engine_threads(void) {
  const auto* pool = threadpool::get_threadpool();
  return pool == nullptr ? 1 : static_cast<uint32_t>(pool->get_thread_count());
}

uint32_t engine_performance_cores(void) { return executorch::extension::cpuinfo::get_num_performant_cores(); }

uint32_t engine_set_threads(uint32_t count) {
  return guarded([&] {
    auto* pool = threadpool::get_threadpool();
    if (pool == nullptr || count == 0) return Error::InvalidArgument;
    return pool->_unsafe_reset_threadpool(count) ? Error::Ok : Error::Internal;
  });
}

uint32_t engine_load(const void* data, size_t size, const EngineOption* options, size_t option_count,
                     int32_t record, EngineModel** model) {
  return guarded([&] {
    Options grouped;
    Error error = grouped.fill(options, option_count);
    if (error != Error::Ok) return error;
    auto loaded = std::make_unique<EngineModel>();
    std::unique_ptr<EngineTracer> tracer;
    if (record == ENGINE_RECORD_TIME) {
      auto profile = std::make_unique<EngineProfile>();
      loaded->profile = profile.get();
      tracer = std::move(profile);
    } else if (record == ENGINE_RECORD_VALUES) {
      auto probe = std::make_unique<EngineProbe>();
      loaded->probe = probe.get();
      tracer = std::move(probe);
    }
    loaded->module = std::make_unique<LoadedModule>(std::make_unique<BufferDataLoader>(data, size), nullptr, nullptr,
                                                    std::move(tracer));
    // Minimal verification lets a damaged program crash the process sixteen times as often.
    const auto verification = Program::Verification::InternalConsistency;
    error = option_count > 0 ? loaded->module->load(grouped.map, verification) : loaded->module->load(verification);
    if (error != Error::Ok) return error;
    const auto meta = loaded->module->method_meta("forward");
    if (!meta.ok()) return meta.error();
    error = loaded->arena.map(*meta);
    if (error != Error::Ok) return error;
    error = loaded->module->load_method("forward", loaded->arena.memory());
    if (error != Error::Ok) return error;
    loaded->forward = loaded->module->loaded("forward");
    if (loaded->forward == nullptr) return fail(Error::NotFound, "no method forward after loading it");
    *model = loaded.release();
    return Error::Ok;
  });
}

void engine_free(EngineModel* model) { delete model; }

const char* engine_method_name(const EngineModel* model, size_t index) {
  const auto program = model->module->program();
  if (index >= program->num_methods()) return nullptr;
  const auto name = program->get_method_name(index);
  return name.ok() ? *name : nullptr;
}

uint32_t engine_metadata(EngineModel* model, const char* method, EngineValue* values, size_t* count) {
  return guarded([&] {
    auto meta = model->module->method_meta(method);
    if (!meta.ok()) return meta.error();
    if (meta->num_inputs() != 0 || meta->num_instructions() != 0)
      return fail(Error::InvalidProgram, "metadata method: expected neither inputs nor instructions");
    const size_t outputs = meta->num_outputs();
    if (outputs > *count) return fail(Error::OutOfResources, "metadata method: too many values");
    const Error error = model->module->load_method(method);
    if (error != Error::Ok) return error;
    const Method* loaded = model->module->loaded(method);
    if (loaded == nullptr) return Error::NotFound;
    for (size_t i = 0; i < outputs; i++) {
      const EValue& value = loaded->get_output(i);
      if (value.isInt()) {
        values[i] = {0, value.toInt(), 0.0};
      } else if (value.isBool()) {
        values[i] = {1, value.toBool(), 0.0};
      } else if (value.isDouble()) {
        values[i] = {2, 0, value.toDouble()};
      } else {
        return fail(Error::InvalidType, "metadata method: expected integers, booleans or numbers");
      }
    }
    *count = outputs;
    return Error::Ok;
  });
}

uint32_t engine_signature(EngineModel* model, EngineTensorInfo* inputs, size_t* input_count,
                          EngineTensorInfo* outputs, size_t* output_count) {
  return guarded([&] {
    const auto meta = model->forward->method_meta();
    for (size_t i = 0; i < std::min(meta.num_inputs(), *input_count); i++)
      describe(inputs[i], meta.input_tensor_meta(i));
    for (size_t i = 0; i < std::min(meta.num_outputs(), *output_count); i++)
      describe(outputs[i], meta.output_tensor_meta(i));
    *input_count = meta.num_inputs();
    *output_count = meta.num_outputs();
    return Error::Ok;
  });
}

uint32_t engine_forward(EngineModel* model, const int64_t* tokens, size_t count, int64_t position,
                        const float** logits, size_t* logit_count) {
  return guarded([&] {
    model->position = position;
    View token_view(tokens, 2, count), position_view(&model->position, 1, 1);
    Error error = model->forward->set_input(EValue(Tensor(&token_view.impl)), 0);
    if (error == Error::Ok) error = model->forward->set_input(EValue(Tensor(&position_view.impl)), 1);
    if (model->probe != nullptr) model->probe->begin();
    if (error == Error::Ok) error = model->forward->execute();
    if (error != Error::Ok) return error;
    const EValue& output = model->forward->get_output(0);
    if (!output.isTensor()) return fail(Error::InvalidType, "forward: expected a tensor of logits");
    const Tensor& tensor = output.toTensor();
    if (tensor.scalar_type() != ScalarType::Float || tensor.const_data_ptr() == nullptr)
      return fail(Error::InvalidType, "forward: expected fp32 logits in planned memory");
    *logits = tensor.const_data_ptr<float>();
    *logit_count = static_cast<size_t>(tensor.numel());
    return Error::Ok;
  });
}

uint32_t engine_call(EngineModel* model, uint8_t* bytes, size_t* count) {
  return guarded([&] { return engine_call_method(*model->forward, bytes, count); });
}

void engine_probe(EngineModel* model, EngineProbed probed, void* context) {
  if (model->probe != nullptr) model->probe->call(probed, context);
}

uint64_t engine_peak_rss_bytes(void) {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
  return static_cast<uint64_t>(usage.ru_maxrss);
#else
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
#endif
}

size_t engine_profile(const EngineModel* model, EngineEvent* events, size_t capacity) {
  if (model->profile == nullptr) return 0;
  const auto& totals = model->profile->totals;
  for (size_t i = 0; i < std::min(totals.size(), capacity); i++)
    events[i] = {totals[i].name.c_str(), totals[i].calls, totals[i].nanoseconds};
  return totals.size();
}

void engine_profile_reset(EngineModel* model) {
  if (model->profile != nullptr) model->profile->reset();
}

}  // extern "C"
