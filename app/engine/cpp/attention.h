// Attention over a key/value cache: the inner loops, free of any runtime type.
//
// Compiled once per instruction set (see build.rs), so this header and attention.cpp include no C++ header:
// an inline function compiled here for AVX-512 must not become the copy that the linker keeps for everybody.
#pragma once

#include <stdint.h>

// Largest head dimension that the fixed buffers on the stack hold.
enum { ENGINE_HEAD_DIM_MAX = 256 };

// All tensors are fp32 and contiguous.
struct EngineAttention {
  const float* query;   // [positions, heads, head_dim]
  const float* key;     // [cache, kv_heads, head_dim]
  const float* value;   // [cache, kv_heads, head_dim]
  float* out;           // [positions, heads, head_dim]
  int64_t positions;    // query positions
  int64_t start;        // cache position of the first query
  int64_t heads;        // a multiple of kv_heads
  int64_t kv_heads;
  int64_t head_dim;     // 1..=ENGINE_HEAD_DIM_MAX
  float scale;          // factor of the dot products
  bool causal;          // query i sees keys 0..=start+i; otherwise all start+positions keys
};

// A row is one (position, head) pair among those that share a key/value head, position-major; there are
// positions * heads / kv_heads of them. Computes rows [begin, end) of one key/value head.
typedef void EngineAttentionFn(const EngineAttention* task, int64_t kv_head, int64_t begin, int64_t end);

extern "C" {
EngineAttentionFn engine_attention_portable;
#ifdef ENGINE_X86_64
EngineAttentionFn engine_attention_avx2;
EngineAttentionFn engine_attention_avx512;
#endif
}
