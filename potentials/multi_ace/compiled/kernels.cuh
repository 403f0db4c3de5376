// CUDA kernels of message passing that are the same for every network; what is generated for one layer follows them.
//
// Compiled at run time, or as C++ for a CPU, one thread after the other, which is how they are tested without a GPU.
// Defined before: PRECISION, float or double; HALBERD_MAX_L, the degree of the harmonics; WARP, threads that can exchange numbers.

typedef PRECISION T;
typedef long long Index;

#ifdef HALBERD_EMULATED
#include <utility>
#define __global__
#define __device__
#define __restrict__
struct Place { int x, y; };
static Place blockIdx, threadIdx, blockDim;
static inline T __shfl_xor_sync(unsigned, T value, int) { return value; }
template <typename... A, size_t... I>
void call(void (*kernel)(A...), void** given, std::index_sequence<I...>) {
  kernel(*reinterpret_cast<A*>(given[I])...);
}
template <typename... A>
void emulate(void (*kernel)(A...), int columns, int rows, int threads, void** given) {
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < columns; ++blockIdx.x)
    for (blockIdx.y = 0; blockIdx.y < rows; ++blockIdx.y)
      for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
        call(kernel, given, std::make_index_sequence<sizeof...(A)>());
}
#define KERNEL(name)                                                                            \
  extern "C" void emulated_##name(int columns, int rows, int threads, void** given) {           \
    emulate(name, columns, rows, threads, given);                                               \
  }
#else
#define KERNEL(name)
#endif

constexpr int LM = (HALBERD_MAX_L + 1) * (HALBERD_MAX_L + 1);

static __device__ T in_warp(T value) {
  for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// A polynomial of degree 5 at t, with W numbers between its coefficients, and its slope.
template <int W>
static __device__ T spline(const T* __restrict__ c, T t) {
  return c[0] + t * (c[W] + t * (c[2 * W] + t * (c[3 * W] + t * (c[4 * W] + t * c[5 * W]))));
}

template <int W>
static __device__ T slope(const T* __restrict__ c, T t) {
  return c[W] + t * (2 * c[2 * W] + t * (3 * c[3 * W] + t * (4 * c[4 * W] + t * 5 * c[5 * W])));
}

struct Direction {
  T u[3], inverse;
  double r;
};

static __device__ Direction direction(const T* vector, double sign) {
  Direction d;
  d.r = ::sqrt(double(vector[0]) * vector[0] + double(vector[1]) * vector[1] + double(vector[2]) * vector[2]);
  d.inverse = T(1 / d.r);
  for (int c = 0; c < 3; ++c) d.u[c] = T(sign) * vector[c] * d.inverse;
  return d;
}

// Of every edge the harmonics, (E, LM), and where its distance is in the splines: which of them, and the place in it.
extern "C" __global__ void embed(const T* vectors, const Index* edges, const Index* species, const Index* pair,
                                 Index n_edges, Index n_species, Index n_intervals, double spacing, double sign,
                                 T* harmonics, Index* row, T* place) {
  const Index e = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (e >= n_edges) return;
  const Direction d = direction(vectors + 3 * e, sign);
  T y[LM];
  Harmonics(HALBERD_MAX_L).evaluate<false, T>(d.u, d.inverse, y, nullptr, nullptr, nullptr);
  for (int n = 0; n < LM; ++n) harmonics[e * LM + n] = y[n];
  const double x = d.r / spacing;
  // A distance that is no number must not become an address.
  Index interval = x < double(n_intervals - 1) ? Index(x) : n_intervals - 1;
  if (!(x >= 0)) interval = 0;
  row[e] = pair[species[edges[e]] * n_species + species[edges[n_edges + e]]] * n_intervals + interval;
  place[e] = T(x - interval);
}
KERNEL(embed)

// Gradients of edge vectors, (E, 3), from those of the harmonics and the distance, (E, LM + 1).
extern "C" __global__ void turn_back(const T* vectors, const T* given, Index n_edges, double spacing, double sign,
                                     T* gradient) {
  const Index e = Index(blockIdx.x) * blockDim.x + threadIdx.x;
  if (e >= n_edges) return;
  const Direction d = direction(vectors + 3 * e, sign);
  T y[LM], dx[LM], dy[LM], dz[LM], total[3] = {0, 0, 0};
  Harmonics(HALBERD_MAX_L).evaluate<true, T>(d.u, d.inverse, y, dx, dy, dz);
  const T* of_y = given + e * (LM + 1);
  for (int n = 0; n < LM; ++n) {
    total[0] += of_y[n] * dx[n];
    total[1] += of_y[n] * dy[n];
    total[2] += of_y[n] * dz[n];
  }
  const T of_r = of_y[LM] / T(spacing);
  for (int c = 0; c < 3; ++c) gradient[3 * e + c] = T(sign) * (total[c] + of_r * d.u[c]);
}
KERNEL(turn_back)
