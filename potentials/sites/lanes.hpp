// As many numbers as a processor works on at once.

#pragma once

#include <cstdint>
#include <type_traits>

#if defined(__FMA__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANE_BYTES = 64;
#elif defined(__AVX__)
constexpr int LANE_BYTES = 32;
#else
constexpr int LANE_BYTES = 16;
#endif

template <typename T, int BYTES>
struct Vector {
  typedef T type __attribute__((vector_size(BYTES)));
};

// What fits into a register, and into two of them, for chains of operations that wait for one another.
template <typename T>
using Lanes = typename Vector<T, LANE_BYTES>::type;
template <typename T>
using DoubleLanes = typename Vector<T, 2 * LANE_BYTES>::type;

template <typename V, typename T>
constexpr int WIDTH = sizeof(V) / sizeof(T);

// The next numbers: for all lanes, or for the first ones and zeros.
template <bool ALL, typename V, typename T>
inline __attribute__((always_inline)) void load(V& lanes, const T* from, int64_t count) {
  if (ALL)
    __builtin_memcpy(&lanes, from, sizeof(V));
  else
    for (int k = 0; k < WIDTH<V, T>; ++k) lanes[k] = k < count ? from[k] : T(0);
}

template <bool ALL, typename V, typename T>
inline __attribute__((always_inline)) void store(const V& lanes, T* to, int64_t count) {
  if (ALL)
    __builtin_memcpy(to, &lanes, sizeof(V));
  else
    for (int64_t k = 0; k < count; ++k) to[k] = lanes[k];
}

// a b + c, rounded once wherever processors can, which compilers do or leave from one line to the next.
inline __attribute__((always_inline)) Lanes<float> multiply_add(float a, const Lanes<float>& b, const Lanes<float>& c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(_mm512_set1_ps(a), b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(_mm256_set1_ps(a), b, c);
#elif defined(__ARM_FEATURE_FMA)
  Lanes<float> sum;
  for (int k = 0; k < WIDTH<Lanes<float>, float>; ++k) sum[k] = __builtin_fmaf(a, b[k], c[k]);
  return sum;
#else
  return a * b + c;
#endif
}

inline __attribute__((always_inline)) Lanes<double> multiply_add(double a, const Lanes<double>& b,
                                                                 const Lanes<double>& c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_pd(_mm512_set1_pd(a), b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_pd(_mm256_set1_pd(a), b, c);
#elif defined(__ARM_FEATURE_FMA)
  Lanes<double> sum;
  for (int k = 0; k < WIDTH<Lanes<double>, double>; ++k) sum[k] = __builtin_fma(a, b[k], c[k]);
  return sum;
#else
  return a * b + c;
#endif
}

template <typename T>
inline T total(const Lanes<T>& lanes) {
  T sum = 0;
  for (int k = 0; k < WIDTH<Lanes<T>, T>; ++k) sum += lanes[k];
  return sum;
}

// Rows of a square become its columns.
template <typename T, typename V>
inline __attribute__((always_inline)) void transpose(V* rows) {
  using Index = typename std::conditional<sizeof(T) == 8, int64_t, int32_t>::type;
  using Mask = typename Vector<Index, sizeof(V)>::type;
  constexpr int W = WIDTH<V, T>;
#pragma GCC unroll 8
  for (int step = 1; step < W; step *= 2) {
    Mask low{}, high{};
    for (int j = 0; j < W; ++j) {
      low[j] = j & step ? W + j - step : j;
      high[j] = j & step ? W + j : j + step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
      if (i & step) continue;
      const V one = rows[i], other = rows[i + step];
#if defined(__GNUC__) && !defined(__clang__)
      rows[i] = __builtin_shuffle(one, other, low);
      rows[i + step] = __builtin_shuffle(one, other, high);
#else
      for (int j = 0; j < W; ++j) {
        rows[i][j] = low[j] < W ? one[low[j]] : other[low[j] - W];
        rows[i + step][j] = high[j] < W ? one[high[j]] : other[high[j] - W];
      }
#endif
    }
  }
}

struct All {
  static constexpr bool value = true;
};
struct Some {
  static constexpr bool value = false;
};

// Call f(first, count, All or Some) for pieces of a row: all lanes as often as they fit, then what is left.
template <int SIZE, typename F>
inline __attribute__((always_inline)) void in_pieces(int64_t length, const F& f) {
  int64_t k = 0;
  for (; k + SIZE <= length; k += SIZE) f(k, int64_t(SIZE), All());
  if (k < length) f(k, length - k, Some());
}

}  // namespace
