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

// Few rows: the keys are divided into ENGINE_PARTS parts of equal length, however many threads there are, so that the
// result does not depend on their number.
enum {
  ENGINE_PARTS = 4,
  ENGINE_PART_KEYS = 64,  // keys of a part that are worked on at once
};
// Floats that a part keeps for a row (attention.cpp, Part); rows begin at multiples of 64 bytes if the scratch does and
// head_dim is one of 16.
#define ENGINE_ROW_FLOATS(head_dim) ((head_dim) + ENGINE_PART_KEYS + 16)

// One instruction set. A row is one (position, head) pair; those that share a key/value head are numbered
// position-major, positions * heads / kv_heads of them.
struct EngineAttentionKernels {
  // Whether `part` and `merge` take the task; otherwise `many` does.
  bool (*few)(const EngineAttention* task);
  // All rows over part `index` of the keys. Scratch: ENGINE_PARTS * positions * heads * ENGINE_ROW_FLOATS(head_dim)
  // floats, the same for all parts.
  void (*part)(const EngineAttention* task, int64_t index, float* scratch);
  // The result, after all parts.
  void (*merge)(const EngineAttention* task, float* scratch);
  // Rows [begin, end) of one key/value head.
  void (*many)(const EngineAttention* task, int64_t kv_head, int64_t begin, int64_t end);
};

extern "C" {
extern const EngineAttentionKernels engine_attention_portable;
#ifdef ENGINE_X86_64
extern const EngineAttentionKernels engine_attention_avx2;
extern const EngineAttentionKernels engine_attention_avx512;
#endif
}
