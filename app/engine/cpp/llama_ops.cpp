// Our kernels for llama::update_cache.out and llama::custom_sdpa.out.
//
// Both take everything through EValues whose types, ranks, dtypes, layouts and bounds are checked here, one by
// one: a program that breaks the contract gets a runtime error, never an abort or an access out of bounds.
#include <executorch/runtime/core/event_tracer_hooks.h>
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>
#include <executorch/runtime/core/function_ref.h>
#include <executorch/runtime/kernel/kernel_runtime_context.h>
#include <executorch/runtime/kernel/operator_registry.h>

#include <cinttypes>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <optional>

#include "attention.h"
#include "llama_ops.h"
#include "shim.h"

namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::Span;
namespace threadpool = executorch::extension::threadpool;

// A worker pays for itself above this many multiply-adds (measured: a dispatch costs some microseconds).
constexpr int64_t kParallelWorkMin = 1 << 18;

bool contiguous(const Tensor& t) {
  const auto order = t.dim_order();
  for (size_t i = 0; i < order.size(); i++)
    if (order[i] != i) return false;
  return true;
}

// Whether the elements can be read as floats: a damaged memory plan can put a tensor anywhere.
bool readable(const Tensor& t) {
  const void* data = t.const_data_ptr();
  return t.numel() == 0 || (data != nullptr && reinterpret_cast<uintptr_t>(data) % alignof(float) == 0);
}

// The tensor behind an argument if it is a contiguous fp32 [1, a, b, c] with memory behind it.
const Tensor* cache_like(EValue* value) {
  if (value == nullptr || !value->isTensor()) return nullptr;
  const Tensor& t = value->toTensor();
  const bool good = t.dim() == 4 && t.size(0) == 1 && t.scalar_type() == ScalarType::Float && contiguous(t) &&
                    readable(t);
  return good ? &t : nullptr;
}

#define REQUIRE(condition, message, ...)                    \
  do {                                                      \
    if (!(condition)) {                                     \
      ET_LOG(Error, message, ##__VA_ARGS__);                \
      context.fail(Error::InvalidArgument);                 \
      return;                                               \
    }                                                       \
  } while (0)

// update_cache.out(Tensor value, Tensor(a!) cache, SymInt start_pos, *, Tensor(b!) out) -> Tensor(b!)
//
// `out` exists for the schema alone; upstream's kernel leaves it untouched too.
void update_cache(KernelRuntimeContext& context, Span<EValue*> arguments) {
  executorch::runtime::internal::EventTracerProfileOpScope scope(
      context.internal_event_tracer(), "native_call_llama::update_cache.out");
  REQUIRE(arguments.size() >= 4, "update_cache: got %zu arguments, expected 4", arguments.size());
  const Tensor* value = cache_like(arguments[0]);
  const Tensor* cache = cache_like(arguments[1]);
  REQUIRE(value != nullptr && cache != nullptr, "update_cache: expected contiguous fp32 [1, n, heads, dim] tensors");
  REQUIRE(arguments[2]->isInt(), "update_cache: expected an integer start_pos");
  REQUIRE(arguments[3]->isTensor(), "update_cache: expected a tensor out");
  const int64_t start = arguments[2]->toInt();
  REQUIRE(value->size(2) == cache->size(2) && value->size(3) == cache->size(3),
          "update_cache: got [%zd, %zd] per position, expected [%zd, %zd]", value->size(2), value->size(3),
          cache->size(2), cache->size(3));
  REQUIRE(start >= 0 && start <= cache->size(1) && value->size(1) <= cache->size(1) - start,
          "update_cache: got positions %" PRId64 " and %zd more, expected at most %zd", start, value->size(1),
          cache->size(1));
  if (value->numel() == 0) return;
  const size_t position = static_cast<size_t>(value->size(2) * value->size(3));
  // Not memcpy: only a sound memory plan keeps the two apart.
  std::memmove(cache->mutable_data_ptr<float>() + static_cast<size_t>(start) * position,
               value->const_data_ptr<float>(), static_cast<size_t>(value->size(1)) * position * sizeof(float));
}

#ifdef ENGINE_X86_64
// Exactly the instruction sets that build.rs compiles the variants for.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}
#endif

const EngineAttentionKernels* widest() {
#ifdef ENGINE_X86_64
  if (has_avx512()) return &engine_attention_avx512;
  if (has_avx2()) return &engine_attention_avx2;
#endif
  return &engine_attention_portable;
}

// A variant by its number in shim.h; null where the processor lacks it.
const EngineAttentionKernels* variant_of(int32_t variant) {
  if (variant == 0) return widest();
  if (variant == 1) return &engine_attention_portable;
#ifdef ENGINE_X86_64
  if (variant == 2 && has_avx2()) return &engine_attention_avx2;
  if (variant == 3 && has_avx512()) return &engine_attention_avx512;
#endif
  return nullptr;
}

// Changed only by engine_set_attention, while no model runs.
const EngineAttentionKernels* best = widest();
// What a test wants on this thread instead.
thread_local const EngineAttentionKernels* forced = nullptr;

// Memory of the calling thread that is kept from token to token; null where there is none.
float* scratch(size_t floats) {
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* p) const { ::operator delete[](p, kAlignment); }
  };
  thread_local std::unique_ptr<float[], Free> kept;
  thread_local size_t length = 0;
  if (floats > length) {
    kept.reset();
    length = 0;
    kept.reset(new (kAlignment, std::nothrow) float[floats]);
    length = kept != nullptr ? floats : 0;
  }
  return kept.get();
}

template <typename Run>
void for_each(int64_t count, int64_t work, const Run& run) {
  threadpool::ThreadPool* pool = work >= kParallelWorkMin && count > 1 ? threadpool::get_threadpool() : nullptr;
  if (pool != nullptr && pool->get_thread_count() > 1) {
    pool->run(run, static_cast<size_t>(count));
  } else {
    for (int64_t i = 0; i < count; i++) run(static_cast<size_t>(i));
  }
}

Error attend(const EngineAttention& task) {
  const EngineAttentionKernels& kernels = forced != nullptr ? *forced : *best;
  const int64_t work = task.positions * task.heads * (task.start + task.positions) * task.head_dim * 2;
  if (kernels.few(&task)) {
    float* const memory =
        scratch(static_cast<size_t>(ENGINE_PARTS * task.positions * task.heads * ENGINE_ROW_FLOATS(task.head_dim)));
    if (memory == nullptr) return Error::MemoryAllocationFailed;
    for_each(ENGINE_PARTS, work,
             [&](size_t part) { kernels.part(&task, static_cast<int64_t>(part), memory); });
    kernels.merge(&task, memory);
    return Error::Ok;
  }
  constexpr int64_t tile = 32;  // rows; the widest tile of attention.cpp, so that no tile is cut short
  const int64_t rows = task.positions * (task.heads / task.kv_heads);
  const int64_t tiles = (rows + tile - 1) / tile;
  for_each(task.kv_heads * tiles, work, [&](size_t item) {
    const int64_t begin = static_cast<int64_t>(item) % tiles * tile;
    kernels.many(&task, static_cast<int64_t>(item) / tiles, begin, begin + tile < rows ? begin + tile : rows);
  });
  return Error::Ok;
}

// custom_sdpa.out(Tensor query, Tensor key, Tensor value, SymInt start_pos, Tensor? attn_mask=None,
//                 float drpout_p=0.0, bool is_causal=False, float? scale=None, *, Tensor(a!) out) -> Tensor(a!)
void custom_sdpa(KernelRuntimeContext& context, Span<EValue*> arguments) {
  executorch::runtime::internal::EventTracerProfileOpScope scope(
      context.internal_event_tracer(), "native_call_llama::custom_sdpa.out");
  REQUIRE(arguments.size() >= 9, "custom_sdpa: got %zu arguments, expected 9", arguments.size());
  const Tensor* query = cache_like(arguments[0]);
  const Tensor* key = cache_like(arguments[1]);
  const Tensor* value = cache_like(arguments[2]);
  const Tensor* planned = cache_like(arguments[8]);
  REQUIRE(query != nullptr && key != nullptr && value != nullptr && planned != nullptr,
          "custom_sdpa: expected contiguous fp32 [1, n, heads, dim] tensors");
  REQUIRE(arguments[3]->isInt(), "custom_sdpa: expected an integer start_pos");
  REQUIRE(arguments[4]->isNone(), "custom_sdpa: got an attention mask, expected none (causal only)");
  REQUIRE(arguments[5]->isDouble() && arguments[5]->toDouble() == 0.0, "custom_sdpa: expected no dropout");
  REQUIRE(arguments[6]->isBool(), "custom_sdpa: expected a boolean is_causal");
  REQUIRE(arguments[7]->isNone() || arguments[7]->isDouble(), "custom_sdpa: expected a number or no scale");
  const int64_t start = arguments[3]->toInt();
  REQUIRE(key->size(1) == value->size(1) && key->size(2) == value->size(2) && key->size(3) == value->size(3),
          "custom_sdpa: expected a key and a value cache of one shape");
  REQUIRE(query->size(3) == key->size(3) && query->size(3) > 0 && query->size(3) <= ENGINE_HEAD_DIM_MAX,
          "custom_sdpa: got head dimensions %zd and %zd, expected equal ones up to %d", query->size(3),
          key->size(3), static_cast<int>(ENGINE_HEAD_DIM_MAX));
  REQUIRE(key->size(2) > 0 && query->size(2) > 0 && query->size(2) % key->size(2) == 0,
          "custom_sdpa: got %zd query and %zd key heads, expected a multiple", query->size(2), key->size(2));
  REQUIRE(start >= 0 && start <= key->size(1) && query->size(1) <= key->size(1) - start,
          "custom_sdpa: got positions %" PRId64 " and %zd more, expected at most %zd", start, query->size(1),
          key->size(1));
  Tensor out = *planned;
  REQUIRE(executorch::runtime::resize_tensor(out, query->sizes()) == Error::Ok,
          "custom_sdpa: expected an out that takes the shape of query");
  REQUIRE(readable(out), "custom_sdpa: expected an out with memory behind it");
  if (query->numel() == 0) return;
  EngineAttention task{};
  task.query = query->const_data_ptr<float>();
  task.key = key->const_data_ptr<float>();
  task.value = value->const_data_ptr<float>();
  task.out = out.mutable_data_ptr<float>();
  task.positions = query->size(1);
  task.start = start;
  task.heads = query->size(2);
  task.kv_heads = key->size(2);
  task.head_dim = query->size(3);
  task.scale = arguments[7]->isDouble() ? static_cast<float>(arguments[7]->toDouble())
                                        : 1.0f / std::sqrt(static_cast<float>(task.head_dim));
  task.causal = arguments[6]->toBool();
  REQUIRE(attend(task) == Error::Ok, "custom_sdpa: no memory for %zd heads", query->size(2));
  // As the runtime's own kernels do: a probe sees, and may change, what goes on to the next instruction.
  executorch::runtime::internal::event_tracer_log_evalue(context.internal_event_tracer(), *arguments[8]);
}

#undef REQUIRE

// ---- test hook ----

struct TestTensor {
  executorch::aten::SizesType sizes[ENGINE_RANK_MAX];
  executorch::aten::StridesType strides[ENGINE_RANK_MAX];
  executorch::aten::DimOrderType order[ENGINE_RANK_MAX];
  executorch::aten::TensorImpl impl;

  explicit TestTensor(const EngineTestArgument& t)
      : impl((fill(t), static_cast<ScalarType>(t.scalar_type)), t.rank, sizes, t.data, order, strides) {}

  void fill(const EngineTestArgument& t) {
    int32_t stride = 1;
    for (int i = t.rank - 1; i >= 0; i--) {
      sizes[i] = static_cast<int32_t>(t.sizes[i]);
      order[i] = static_cast<uint8_t>(i);
      strides[i] = stride;
      stride *= sizes[i];
    }
  }
};

EValue test_value(const EngineTestArgument& argument, std::optional<TestTensor>& tensor) {
  switch (argument.kind) {
    case ENGINE_TEST_INT:
      return EValue(argument.integer);
    case ENGINE_TEST_BOOL:
      return EValue(argument.integer != 0);
    case ENGINE_TEST_DOUBLE:
      return EValue(argument.real);
    case ENGINE_TEST_TENSOR:
      tensor.emplace(argument);
      return EValue(Tensor(&tensor->impl));
    default:
      return EValue();
  }
}

}  // namespace

Error engine_register_llama_ops() {
  const executorch::runtime::Kernel kernels[] = {
      executorch::runtime::Kernel("llama::update_cache.out", update_cache),
      executorch::runtime::Kernel("llama::custom_sdpa.out", custom_sdpa),
  };
  return executorch::runtime::register_kernels({kernels, 2});
}

extern "C" uint32_t engine_set_attention(int32_t variant) {
  const EngineAttentionKernels* chosen = variant_of(variant);
  if (chosen == nullptr) return static_cast<uint32_t>(Error::NotSupported);
  best = chosen;
  return static_cast<uint32_t>(Error::Ok);
}

extern "C" uint32_t engine_test_call(const char* kernel, const EngineTestArgument* arguments, size_t count,
                                     int32_t variant) {
  const EngineAttentionKernels* chosen = variant_of(variant);
  if (chosen == nullptr) return static_cast<uint32_t>(Error::NotSupported);
  if (count > ENGINE_TEST_ARGUMENTS_MAX) return static_cast<uint32_t>(Error::InvalidArgument);
  const auto function = executorch::runtime::get_op_function_from_registry(kernel);
  if (!function.ok()) return static_cast<uint32_t>(function.error());
  std::optional<TestTensor> tensors[ENGINE_TEST_ARGUMENTS_MAX];
  EValue values[ENGINE_TEST_ARGUMENTS_MAX];
  EValue* pointers[ENGINE_TEST_ARGUMENTS_MAX];
  for (size_t i = 0; i < count; i++) {
    values[i] = test_value(arguments[i], tensors[i]);
    pointers[i] = &values[i];
  }
  KernelRuntimeContext context;
  forced = chosen;
  (*function)(context, {pointers, count});
  forced = nullptr;
  return static_cast<uint32_t>(context.failure_state());
}
