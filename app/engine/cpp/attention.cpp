// Attention inner loops, written with the compiler's vector extension and compiled per instruction set.
//
// Two shapes of the same online softmax (running maximum, running sum, rescaled accumulator), both over
// blocks of keys so that nothing depends on the context length and nothing is allocated:
// - few rows (decoding): vectors run along head_dim, keys and values are streamed once, by threads that divide them;
// - many rows (prefill): vectors run along the rows, so that neither dot products nor the softmax need a
//   horizontal operation, and a key element is a broadcast.
#include "attention.h"
#include "lanes.h"

#ifndef ENGINE_ATTENTION
#error "build.rs names the function that this instruction set provides"
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kUnroll = 8;
#else
constexpr int kUnroll = 4;
#endif
constexpr int kRows = 2 * kLanes;      // rows of a prefill tile
constexpr int kKeys = 32;              // keys of its block; a multiple of kUnroll
constexpr int kTogether = kLanes / 4;  // keys whose products with four rows fill one vector of sums
constexpr float kMasked = -1e30f;      // finite, so that a difference of two is never NaN

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

template <int N>
struct Int {
  static constexpr int value = N;
};

// Calls `step` for 0..count in strides of `Most`, and one by one at the end.
template <int Most, typename Step>
inline void strides(int64_t count, Step step) {
  int64_t i = 0;
  for (; i + Most <= count; i += Most) step(Int<Most>{}, i);
  for (; i < count; i++) step(Int<1>{}, i);
}

// The same for rows, where one by one would read every key up to three times.
template <typename Step>
inline void blocks(int64_t rows, Step step) {
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) step(Int<4>{}, i);
  for (; i + 2 <= rows; i += 2) step(Int<2>{}, i);
  for (; i < rows; i++) step(Int<1>{}, i);
}

// Scores of `count` keys, a multiple of kLanes, turned into probabilities relative to the new maximum.
inline float soften(float* p, int64_t count, float& maximum, float& total) {
  Vec top = load(p);
  for (int64_t t = kLanes; t < count; t += kLanes) top = max(top, load(p + t));
  const float block = largest(top);
  const float now = block > maximum ? block : maximum;
  Vec running = Vec{};
  for (int64_t t = 0; t < count; t += kLanes) {
    const Vec s = load(p + t);
    const Vec e = s < splat(0.5f * kMasked) ? Vec{} : exp_nonpositive(s - now);
    store(p + t, e);
    running += e;
  }
  const float correction = exp_nonpositive(splat(maximum - now))[0];
  total = total * correction + sum(running);
  maximum = now;
  return correction;
}

// Keys of one part: so many that all parts together cover those that any row sees.
inline int64_t part_keys(const EngineAttention& task) {
  constexpr int64_t step = ENGINE_PARTS * kTogether;  // no part but the last ends amid kTogether keys
  return (task.start + task.positions + step - 1) / step * kTogether;
}

// The rows of a part: head-major, those of one key/value head side by side. In the scratch memory a row has the
// block's probabilities, the sum of its values so far, the maximum of its scores and the sum of its probabilities.
struct Part {
  const EngineAttention& task;
  const Rows of_head;          // the first; others lie `head` further
  const int64_t dims, stride;  // floats of a head and of a position
  const int64_t rows, size;    // rows of a key/value head, floats of a row
  float* const begin;
  int64_t at[kLanes];  // offsets of one head's rows in query and out

  Part(const EngineAttention& of, int64_t index, float* scratch)
      : task(of),
        of_head{of, 0, of.heads / of.kv_heads},
        dims(of.head_dim),
        stride(of.kv_heads * of.head_dim),
        rows(of.positions * of_head.group),
        size(ENGINE_ROW_FLOATS(dims)),
        begin(scratch + index * rows * of.kv_heads * size) {
    for (int64_t row = 0; row < rows; row++) at[row] = of_head.offset(row);
  }

  int64_t head(int64_t kv_head) const { return kv_head * of_head.group * dims; }  // to be added to `at`
  float* p(int64_t kv_head, int64_t row) const { return begin + (kv_head * rows + row) * size; }
  float* acc(int64_t kv_head, int64_t row) const { return p(kv_head, row) + ENGINE_PART_KEYS; }
  float& maximum(int64_t kv_head, int64_t row) const { return acc(kv_head, row)[dims]; }
  float& total(int64_t kv_head, int64_t row) const { return acc(kv_head, row)[dims + 1]; }

  // Calls `step` for every row.
  template <typename Step>
  void each(Step step) const {
    for (int64_t head = 0; head < task.kv_heads; head++)
      for (int64_t row = 0; row < rows; row++) step(head, row);
  }
};

// Products of R rows with `Keys` keys.
template <int R, int Keys>
inline void dots(const float* query, const int64_t* at, const float* key, const Part& part, float* p) {
  static_assert(R * Keys <= kLanes, "one vector of sums");
  Vec dot[kLanes] = {};
  for (int64_t d = 0; d < part.dims; d += kLanes) {
    Vec q[R];
    for (int r = 0; r < R; r++) q[r] = load(query + at[r] + d);
    for (int k = 0; k < Keys; k++) {
      const Vec of_key = load(key + k * part.stride + d);
      for (int r = 0; r < R; r++) dot[r * Keys + k] += q[r] * of_key;
    }
  }
  float all[kLanes];
  store(all, sums(dot) * part.task.scale);
  for (int r = 0; r < R; r++)
    for (int k = 0; k < Keys; k++) p[r * part.size + k] = all[r * Keys + k];
}

// Adds `Keys` values times the probabilities of R rows, for `Width` vectors of head_dim.
template <int R, int Width, int Keys>
inline void add_width(const float* value, const Part& part, const float* p, float* acc) {
  Vec a[R][Width];
  for (int r = 0; r < R; r++)
    for (int w = 0; w < Width; w++) a[r][w] = load(acc + r * part.size + w * kLanes);
  for (int k = 0; k < Keys; k++)
    for (int w = 0; w < Width; w++) {
      const Vec v = load(value + k * part.stride + w * kLanes);
      for (int r = 0; r < R; r++) a[r][w] += v * p[r * part.size + k];
    }
  for (int r = 0; r < R; r++)
    for (int w = 0; w < Width; w++) store(acc + r * part.size + w * kLanes, a[r][w]);
}

template <int R, int Keys>
inline void add_values(const float* value, const Part& part, const float* p, float* acc) {
  int64_t d = 0;
  for (; d + 4 * kLanes <= part.dims && kLanes == 16; d += 4 * kLanes)
    add_width<R, 4, Keys>(value + d, part, p, acc + d);
  for (; d + 2 * kLanes <= part.dims; d += 2 * kLanes) add_width<R, 2, Keys>(value + d, part, p, acc + d);
  for (; d < part.dims; d += kLanes) add_width<R, 1, Keys>(value + d, part, p, acc + d);
}

// Probabilities of the `count` keys from `first` on, of which each row sees those before its end.
void soften(const Part& part, int64_t first, int64_t count) {
  const int64_t whole = (count + kLanes - 1) / kLanes * kLanes;
  part.each([&](int64_t head, int64_t row) {
    float* p = part.p(head, row);
    const int64_t seen = part.of_head.visible(row) - first;
    for (int64_t t = seen < 0 ? 0 : seen < count ? seen : count; t < whole; t++) p[t] = kMasked;
    const float correction = soften(p, whole, part.maximum(head, row), part.total(head, row));
    if (correction == 1.0f) return;
    float* acc = part.acc(head, row);
    for (int64_t d = 0; d < part.dims; d += kLanes) store(acc + d, load(acc + d) * correction);
  });
}

// Reads every cache line of a range, in order.
inline void touch(const float* p, int64_t floats) {
  for (int64_t i = 0; i < floats; i += 16) static_cast<void>(*static_cast<const volatile float*>(p + i));
}

// Calls `work` for some positions of a cache at a time, and for every head. The heads' shares of a few positions lie in
// strides that no prefetcher foresees, and prefetch instructions change nothing measurable. So while the heads work on
// some positions the next ones are read from end to end; this halves the time over a cache that lies in memory.
// `then` is read after the last position (`count` of them); null for nothing.
template <typename Work>
inline void stream(const Part& part, const float* cache, const float* then, int64_t count, Work work) {
  strides<kTogether>(count, [&](auto together, int64_t t) {
    constexpr int64_t taken = decltype(together)::value;
    const int64_t left = count - t - taken, ahead = left > 0 && left < taken ? left : taken;
    const float* next = left > 0 ? cache + (t + taken) * part.stride : then;
    for (int64_t head = 0; head < part.task.kv_heads; head++) {
      if (next != nullptr) touch(next + head * ahead * part.dims, ahead * part.dims);
      blocks(part.rows, [&](auto rows, int64_t row) {
        work(together, rows, cache + t * part.stride + head * part.dims, head, row, t);
      });
    }
  });
}

// Rows of all heads over `count` keys from `first` on.
void block(const Part& part, int64_t first, int64_t count) {
  const EngineAttention& task = part.task;
  const float* keys = task.key + first * part.stride;
  const float* values = task.value + first * part.stride;
  touch(keys, (count < kTogether ? count : kTogether) * part.stride);
  const auto score = [&](auto together, auto rows, const float* key, int64_t head, int64_t row, int64_t t) {
    dots<decltype(rows)::value, decltype(together)::value>(task.query + part.head(head), part.at + row, key, part,
                                                           part.p(head, row) + t);
  };
  const auto weigh = [&](auto together, auto rows, const float* value, int64_t head, int64_t row, int64_t t) {
    add_values<decltype(rows)::value, decltype(together)::value>(value, part, part.p(head, row) + t,
                                                                 part.acc(head, row));
  };
  stream(part, keys, values, count, score);
  soften(part, first, count);
  stream(part, values, nullptr, count, weigh);
}

void few_rows(const EngineAttention* task, int64_t index, float* scratch) {
  const int64_t keys = part_keys(*task), most = task->start + task->positions;
  const int64_t begin = index * keys, end = begin + keys < most ? begin + keys : most;
  if (begin >= end) return;
  const Part part(*task, index, scratch);
  part.each([&](int64_t head, int64_t row) {
    for (int64_t d = 0; d < part.dims; d += kLanes) store(part.acc(head, row) + d, Vec{});
    part.maximum(head, row) = kMasked;
    part.total(head, row) = 0.0f;
  });
  constexpr int64_t whole = ENGINE_PART_KEYS;
  for (int64_t first = begin; first < end; first += whole)
    block(part, first, end - first < whole ? end - first : whole);
}

// Puts together what the parts computed.
void merge(const EngineAttention* task, float* scratch) {
  const int64_t keys = part_keys(*task), parts = (task->start + task->positions + keys - 1) / keys;
  const Part part(*task, 0, scratch);
  const int64_t next = part.rows * task->kv_heads * part.size;  // the same row in the next part
  part.each([&](int64_t head, int64_t row) {
    const float* maxima = &part.maximum(head, row);
    float maximum = kMasked, total = 0.0f, weight[ENGINE_PARTS];
    for (int64_t i = 0; i < parts; i++) maximum = maxima[i * next] > maximum ? maxima[i * next] : maximum;
    for (int64_t i = 0; i < parts; i++) {
      weight[i] = exp_nonpositive(splat(maxima[i * next] - maximum))[0];
      total += weight[i] * (&part.total(head, row))[i * next];
    }
    float* out = task->out + part.head(head) + part.at[row];
    for (int64_t d = 0; d < part.dims; d += kLanes) {
      Vec all = {};
      for (int64_t i = 0; i < parts; i++) all += load(part.acc(head, row) + i * next + d) * weight[i];
      store(out + d, all / total);
    }
  });
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

void many(const EngineAttention* task, int64_t kv_head, int64_t begin, int64_t end) {
  const Rows rows{*task, kv_head, task->heads / task->kv_heads};
  for (; begin < end; begin += kRows) many_rows(rows, begin, begin + kRows < end ? begin + kRows : end);
}
bool few(const EngineAttention* task) {
  return task->positions * (task->heads / task->kv_heads) <= kLanes && task->head_dim % kLanes == 0;
}

}  // namespace

extern "C" const EngineAttentionKernels ENGINE_ATTENTION = {few, few_rows, merge, many};
