// A vector of floats as wide as the instruction set that the including file is compiled for.
//
// Like attention.h it includes no C++ header, and everything in it is local to the file: see there for the reason.
#pragma once

#include <stdint.h>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntVec __attribute__((vector_size(4 * kLanes)));
typedef float UnalignedVec __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
inline Vec splat(float x) { return Vec{} + x; }
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

// Lanes of `a` in the blocks of `Width` lanes of even number, of `b` in the odd ones: each is the sum of two that lie
// `Width` apart.
template <int Width, int... Lane>
inline Vec fold_lanes(Vec a, Vec b) {
  return __builtin_shufflevector(a, b, ((Lane & Width) != 0 ? kLanes + (Lane & ~Width) : Lane)...) +
         __builtin_shufflevector(a, b, ((Lane & Width) != 0 ? kLanes + Lane : Lane | Width)...);
}
template <int Width>
inline Vec fold(Vec a, Vec b) {
#if defined(__AVX512F__)
  return fold_lanes<Width, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>(a, b);
#elif defined(__AVX2__)
  return fold_lanes<Width, 0, 1, 2, 3, 4, 5, 6, 7>(a, b);
#else
  return fold_lanes<Width, 0, 1, 2, 3>(a, b);
#endif
}

// Lane i of the result is the sum of the lanes of v[i]: one tree for all of them, where a sum for each costs more
// than the dot product before it.
template <int Width = kLanes / 2>
inline Vec sums(Vec* v) {
  for (int i = 0; i < Width; i++) v[i] = fold<Width>(v[i], v[i + Width]);
  if constexpr (Width == 1)
    return v[0];
  else
    return sums<Width / 2>(v);
}

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

// Horizontal maximum.
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

}  // namespace
