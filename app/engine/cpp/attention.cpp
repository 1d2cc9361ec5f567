// Attention inner loops, written with the compiler's vector extension and compiled per instruction set.
//
// Two shapes of the same online softmax (running maximum, running sum, rescaled accumulator), both over
// blocks of keys so that nothing depends on the context length and nothing is allocated:
// - few rows (decoding): vectors run along head_dim, keys and values are streamed once;
// - many rows (prefill): vectors run along the rows, so that neither dot products nor the softmax need a
//   horizontal operation, and a key element is a broadcast.
#include "attention.h"

#ifndef ENGINE_ATTENTION
#error "build.rs names the function that this instruction set provides"
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kUnroll = 8;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kUnroll = 4;
#else
constexpr int kLanes = 4;
constexpr int kUnroll = 4;
#endif
constexpr int kRows = 2 * kLanes;  // rows of a prefill tile
constexpr int kKeys = 32;          // keys of a block; a multiple of kLanes and kUnroll
constexpr int kAhead = 16;         // keys fetched in advance
constexpr float kMasked = -1e30f;  // finite, so that a difference of two is never NaN

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntVec __attribute__((vector_size(4 * kLanes)));
typedef float UnalignedVec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
inline Vec splat(float x) { return Vec{} + x; }
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

// Horizontal sum by halves: through memory it would cost more than the dot product before it.
inline float sum(Vec v) {
#if defined(__AVX512F__)
  typedef float Half __attribute__((vector_size(32)));
  const Half h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                 __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(__AVX2__)
  const Vec h = v;
#endif
  typedef float Quad __attribute__((vector_size(16)));
#if defined(__AVX2__)
  Quad q = __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
#else
  Quad q = v;
#endif
  q += __builtin_shufflevector(q, q, 2, 3, 0, 1);
  return q[0] + q[1];
}

inline float largest(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  return lanes[0];
}

// e^x for x <= 0, relative error below 2 ulp; underflows to the smallest normal number. NaN stays NaN: a model
// that computes one must be found out, not smoothed over.
inline Vec exp_nonpositive(Vec x) {
  x = x < splat(-87.3f) ? splat(-87.3f) : x;
  const Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
  const Vec n = shifted - 12582912.0f;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const IntVec power = (__builtin_convertvector(n, IntVec) + 127) << 23;
  return p * reinterpret_cast<Vec>(power);
}

struct Rows {
  const EngineAttention& task;
  int64_t kv_head, group;

  // Offset of a row in query and out.
  int64_t offset(int64_t row) const {
    return ((row / group) * task.heads + kv_head * group + row % group) * task.head_dim;
  }
  // Keys that a row sees.
  int64_t visible(int64_t row) const {
    return task.causal ? task.start + row / group + 1 : task.start + task.positions;
  }
};

// ---- few rows ----

// value block times probabilities, for `Width` vectors of head_dim starting at `dim`.
template <int R, int Width>
inline void accumulate(const float* value, int64_t stride, int64_t count, const float (*p)[kKeys],
                       const float* correction, int64_t dim, float (*acc)[ENGINE_HEAD_DIM_MAX]) {
  Vec a[R][Width];
  for (int r = 0; r < R; r++)
    for (int w = 0; w < Width; w++) a[r][w] = load(&acc[r][dim + w * kLanes]) * correction[r];
  for (int64_t t = 0; t < count; t++) {
    Vec v[Width];
    for (int w = 0; w < Width; w++) v[w] = load(value + t * stride + dim + w * kLanes);
    for (int r = 0; r < R; r++)
      for (int w = 0; w < Width; w++) a[r][w] += v[w] * p[r][t];
  }
  for (int r = 0; r < R; r++)
    for (int w = 0; w < Width; w++) store(&acc[r][dim + w * kLanes], a[r][w]);
}

// Scores of a block of keys turned into probabilities relative to the new maximum.
inline float soften(float* scores, int64_t count, float& maximum, float& total) {
  for (int64_t t = count; t < kKeys; t++) scores[t] = kMasked;
  Vec top = load(scores);
  for (int t = kLanes; t < kKeys; t += kLanes) top = max(top, load(scores + t));
  const float block = largest(top);
  const float now = block > maximum ? block : maximum;
  Vec running = Vec{};
  for (int t = 0; t < kKeys; t += kLanes) {
    const Vec s = load(scores + t);
    const Vec p = s < splat(0.5f * kMasked) ? Vec{} : exp_nonpositive(s - now);
    store(scores + t, p);
    running += p;
  }
  const float correction = exp_nonpositive(splat(maximum - now))[0];
  total = total * correction + sum(running);
  maximum = now;
  return correction;
}

template <int R>
void few_rows(const Rows& rows, int64_t begin) {
  const EngineAttention& task = rows.task;
  const int64_t dims = task.head_dim, stride = task.kv_heads * dims;
  const float* key = task.key + rows.kv_head * dims;
  const float* value = task.value + rows.kv_head * dims;
  const float* query[R];
  int64_t visible[R], most = 0;
  float maximum[R], total[R], correction[R], p[R][kKeys], acc[R][ENGINE_HEAD_DIM_MAX];
  for (int r = 0; r < R; r++) {
    query[r] = task.query + rows.offset(begin + r);
    visible[r] = rows.visible(begin + r);
    most = visible[r] > most ? visible[r] : most;
    maximum[r] = kMasked;
    total[r] = 0.0f;
    for (int64_t d = 0; d < dims; d++) acc[r][d] = 0.0f;
  }
  for (int64_t first = 0; first < most; first += kKeys) {
    const int64_t count = most - first < kKeys ? most - first : kKeys;
    for (int64_t t = 0; t < count; t++) {
      const float* k = key + (first + t) * stride;
      // Keys of one head lie a stride apart, which hardware does not foresee. The values of this key are
      // next, the keys a little ahead come after: both past the end are harmless hints.
      for (int64_t d = 0; d < dims; d += 16) {
        __builtin_prefetch(k + kAhead * stride + d);
        __builtin_prefetch(value + (first + t) * stride + d);
      }
      Vec dot[R] = {};
      for (int64_t d = 0; d < dims; d += kLanes) {
        const Vec kv = load(k + d);
        for (int r = 0; r < R; r++) dot[r] += load(query[r] + d) * kv;
      }
      for (int r = 0; r < R; r++) p[r][t] = first + t < visible[r] ? sum(dot[r]) * task.scale : kMasked;
    }
    for (int r = 0; r < R; r++) correction[r] = soften(p[r], count, maximum[r], total[r]);
    int64_t d = 0;
    for (; d + 4 * kLanes <= dims && kLanes == 16; d += 4 * kLanes)
      accumulate<R, 4>(value + first * stride, stride, count, p, correction, d, acc);
    for (; d + 2 * kLanes <= dims; d += 2 * kLanes)
      accumulate<R, 2>(value + first * stride, stride, count, p, correction, d, acc);
    for (; d < dims; d += kLanes)
      accumulate<R, 1>(value + first * stride, stride, count, p, correction, d, acc);
  }
  for (int r = 0; r < R; r++) {
    float* out = task.out + rows.offset(begin + r);
    for (int64_t d = 0; d < dims; d++) out[d] = acc[r][d] / total[r];
  }
}

// ---- many rows ----

struct Tile {
  float query[ENGINE_HEAD_DIM_MAX][kRows];  // transposed and scaled
  float acc[ENGINE_HEAD_DIM_MAX][kRows];    // transposed
  float p[kKeys][kRows];
  float visible[kRows];  // exact: a context is far shorter than 2^24
  Vec maximum[2], total[2];
};

template <int Unroll>
inline void scores(Tile& tile, const float* key, int64_t stride, int64_t dims, int64_t t) {
  Vec a[Unroll][2] = {};
  for (int64_t d = 0; d < dims; d++) {
    const Vec q0 = load(tile.query[d]), q1 = load(tile.query[d] + kLanes);
    for (int u = 0; u < Unroll; u++) {
      const float k = key[(t + u) * stride + d];
      a[u][0] += q0 * k;
      a[u][1] += q1 * k;
    }
  }
  for (int u = 0; u < Unroll; u++) {
    store(tile.p[t + u], a[u][0]);
    store(tile.p[t + u] + kLanes, a[u][1]);
  }
}

template <int Unroll>
inline void weigh(Tile& tile, const float* value, int64_t stride, int64_t count, const Vec* correction, int64_t d) {
  Vec a[Unroll][2];
  for (int u = 0; u < Unroll; u++) {
    a[u][0] = load(tile.acc[d + u]) * correction[0];
    a[u][1] = load(tile.acc[d + u] + kLanes) * correction[1];
  }
  for (int64_t t = 0; t < count; t++) {
    const Vec p0 = load(tile.p[t]), p1 = load(tile.p[t] + kLanes);
    for (int u = 0; u < Unroll; u++) {
      const float v = value[t * stride + d + u];
      a[u][0] += p0 * v;
      a[u][1] += p1 * v;
    }
  }
  for (int u = 0; u < Unroll; u++) {
    store(tile.acc[d + u], a[u][0]);
    store(tile.acc[d + u] + kLanes, a[u][1]);
  }
}

// Turns the block's scores into probabilities; `first` is the cache position of its first key.
inline void soften(Tile& tile, int64_t first, int64_t count, Vec* correction) {
  for (int h = 0; h < 2; h++) {
    const Vec visible = load(tile.visible + h * kLanes);
    Vec now = tile.maximum[h];
    for (int64_t t = 0; t < count; t++) {
      float* p = tile.p[t] + h * kLanes;
      const Vec s = splat(static_cast<float>(first + t)) < visible ? load(p) : splat(kMasked);
      store(p, s);
      now = max(now, s);
    }
    correction[h] = exp_nonpositive(tile.maximum[h] - now);
    Vec total = tile.total[h] * correction[h];
    for (int64_t t = 0; t < count; t++) {
      float* p = tile.p[t] + h * kLanes;
      const Vec s = load(p);
      const Vec e = s < splat(0.5f * kMasked) ? Vec{} : exp_nonpositive(s - now);
      store(p, e);
      total += e;
    }
    tile.maximum[h] = now;
    tile.total[h] = total;
  }
}

void many_rows(const Rows& rows, int64_t begin, int64_t end) {
  const EngineAttention& task = rows.task;
  const int64_t dims = task.head_dim, stride = task.kv_heads * dims;
  const float* key = task.key + rows.kv_head * dims;
  const float* value = task.value + rows.kv_head * dims;
  Tile tile;
  int64_t most = 0;
  for (int i = 0; i < kRows; i++) {
    // A short tile repeats its last row; the copy is computed and thrown away.
    const int64_t row = begin + i < end ? begin + i : end - 1;
    const float* query = task.query + rows.offset(row);
    for (int64_t d = 0; d < dims; d++) {
      tile.query[d][i] = query[d] * task.scale;
      tile.acc[d][i] = 0.0f;
    }
    const int64_t visible = rows.visible(row);
    tile.visible[i] = static_cast<float>(visible);
    most = visible > most ? visible : most;
  }
  for (int h = 0; h < 2; h++) {
    tile.maximum[h] = splat(kMasked);
    tile.total[h] = Vec{};
  }
  for (int64_t first = 0; first < most; first += kKeys) {
    const int64_t count = most - first < kKeys ? most - first : kKeys;
    int64_t t = 0;
    for (; t + kUnroll <= count; t += kUnroll) scores<kUnroll>(tile, key + first * stride, stride, dims, t);
    for (; t < count; t++) scores<1>(tile, key + first * stride, stride, dims, t);
    Vec correction[2];
    soften(tile, first, count, correction);
    int64_t d = 0;
    for (; d + kUnroll <= dims; d += kUnroll)
      weigh<kUnroll>(tile, value + first * stride, stride, count, correction, d);
    for (; d < dims; d++) weigh<1>(tile, value + first * stride, stride, count, correction, d);
  }
  float total[kRows];
  store(total, tile.total[0]);
  store(total + kLanes, tile.total[1]);
  for (int64_t row = begin; row < end; row++) {
    float* out = task.out + rows.offset(row);
    for (int64_t d = 0; d < dims; d++) out[d] = tile.acc[d][row - begin] / total[row - begin];
  }
}

}  // namespace

extern "C" void ENGINE_ATTENTION(const EngineAttention* task, int64_t kv_head, int64_t begin, int64_t end) {
  const Rows rows{*task, kv_head, task->heads / task->kv_heads};
  if (end - begin < kLanes && task->head_dim % kLanes == 0) {
    for (; begin + 4 <= end; begin += 4) few_rows<4>(rows, begin);
    for (; begin + 2 <= end; begin += 2) few_rows<2>(rows, begin);
    for (; begin < end; begin++) few_rows<1>(rows, begin);
    return;
  }
  for (; begin < end; begin += kRows) many_rows(rows, begin, begin + kRows < end ? begin + kRows : end);
}
