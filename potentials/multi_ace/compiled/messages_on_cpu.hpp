// Sums over neighbours on a CPU.
//
// Nothing is kept of edges: harmonics and radial weights are computed where they are used, in the backward pass again.
// Channels are innermost in every loop. A thread owns the atoms that it sums for; the backward pass walks edges by the
// atom whose gradient it sums, so that nothing depends on the number of threads.

#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "edge_order.hpp"
#include "harmonics.hpp"
#include "lanes.hpp"

namespace {

constexpr int MAX_M = 2 * MAX_L + 1;

// One way of coupling features of a neighbour with harmonics, and where its numbers are.
struct Path {
  int64_t source, channels, rows, edge_degree, target, stride, target_rows, weight, first, last;
  int64_t couplings;  // where those of its rows with what comes out begin
};

// Radial weights whose coefficients lie together: those of a path are padded to as many.
constexpr int64_t PIECE = 16;

// A coupling of a row of features with a row of what comes out, and the harmonic and the number that it contains.
template <typename T>
struct Coupling {
  int32_t pair, harmonic;
  T value;
};

// Paths, and the couplings of each with harmonics.
template <typename T>
struct Coupled {
  std::vector<Path> paths;
  std::vector<Coupling<T>> couplings;
  int64_t n_couplings = 0;

  Coupled(const at::Tensor& path_table, const at::Tensor& triple_table, const at::Tensor& values) {
    const auto p = path_table.accessor<int64_t, 2>();
    const auto t = triple_table.accessor<int64_t, 2>();
    const auto v = values.accessor<double, 1>();
    for (int64_t n = 0; n < p.size(0); ++n) {
      const Path path{p[n][0], p[n][1], p[n][2], p[n][3], p[n][4], p[n][5], p[n][6], p[n][7], p[n][8], p[n][9],
                      n_couplings};
      paths.push_back(path);
      for (int64_t k = path.first; k < path.last; ++k)
        couplings.push_back({int32_t(path.couplings + t[k][0] * path.target_rows + t[k][2]),
                             int32_t(path.edge_degree * path.edge_degree + t[k][1]), T(v[k])});
      n_couplings += path.rows * path.target_rows;
    }
  }

  // Couplings of all paths with the harmonics of one edge: rows of features to rows of what comes out.
  void couple(const T* y, T* b) const {
    for (int64_t n = 0; n < n_couplings; ++n) b[n] = 0;
    for (const Coupling<T>& each : couplings) b[each.pair] += each.value * y[each.harmonic];
  }
};

// Everything that does not change between calls; weights of paths are where their coefficients begin in the table.
template <typename T>
struct Convolution : Coupled<T> {
  const T* table;
  const int64_t* pair;
  int64_t n_species, n_intervals, per_interval, n_outputs;
  double spacing;
  Harmonics harmonics;

  Convolution(const at::Tensor& path_table, const at::Tensor& triple_table, const at::Tensor& values,
              const at::Tensor& splines, const at::Tensor& pairs, double spacing_, int64_t n_outputs_, int64_t max_ell)
      : Coupled<T>(path_table, triple_table, values), table(splines.data_ptr<T>()), pair(pairs.data_ptr<int64_t>()),
        n_species(pairs.size(0)), n_intervals(splines.size(1)), per_interval(6 * PIECE * splines.size(2)),
        n_outputs(n_outputs_), spacing(spacing_), harmonics(int(max_ell)) {
    int64_t weight = 0;
    for (Path& path : this->paths) {
      path.weight = weight;
      weight += 6 * PIECE * ((path.channels + PIECE - 1) / PIECE);
    }
    TORCH_CHECK(splines.dim() == 5 && splines.size(3) == 6 && splines.size(4) == PIECE && weight == per_interval,
                "halberd: radial weights are not in the order of a CPU");
  }

  int n_harmonics() const { return (harmonics.l_max + 1) * (harmonics.l_max + 1); }
};

// The tensors of one evaluation.
template <typename T>
struct Evaluation {
  const int64_t *species, *edges;
  int64_t n_edges, n_atoms;
  const T *vectors, *features;
  int64_t width;
  double sign;
};

// An edge: its direction, and the radial weights' polynomials of degree 5 in the interval that its distance is in.
template <typename T>
struct Edge {
  T u[3], inverse_r, t;
  const T* coefficients;

  Edge(const Convolution<T>& op, const Evaluation<T>& given, int64_t e) {
    const T* v = given.vectors + 3 * e;
    const double r = std::sqrt(double(v[0]) * v[0] + double(v[1]) * v[1] + double(v[2]) * v[2]);
    inverse_r = T(1 / r);
    for (int c = 0; c < 3; ++c) u[c] = T(given.sign) * v[c] * inverse_r;
    const double x = r / op.spacing;
    const int64_t interval = x < double(op.n_intervals) ? int64_t(x) : op.n_intervals - 1;  // no number: the last
    t = T(x - interval);
    const int64_t centre = given.species[given.edges[e]], neighbour = given.species[given.edges[given.n_edges + e]];
    coefficients = op.table + (op.pair[centre * op.n_species + neighbour] * op.n_intervals + interval) * op.per_interval;
  }
};

// Where the coefficients of the weights from channel k on begin.
inline int64_t place_of(int64_t k) { return k / PIECE * 6 * PIECE + k % PIECE; }

// Radial weights of some channels; what is beyond the last is zero.
template <typename T>
inline __attribute__((always_inline)) Lanes<T> radial(const T* coefficients, T t) {
  Lanes<T> sum, next;
  load<true>(sum, coefficients + 5 * PIECE, 0);
  for (int power = 4; power >= 0; --power) {
    load<true>(next, coefficients + power * PIECE, 0);
    sum = next + t * sum;
  }
  return sum;
}

// Radial weights and their slopes, per interval.
template <typename T>
inline __attribute__((always_inline)) void radial(const T* coefficients, T t, Lanes<T>& weights, Lanes<T>& slopes) {
  Lanes<T> next, slope{};
  load<true>(weights, coefficients + 5 * PIECE, 0);
  for (int power = 4; power >= 0; --power) {
    load<true>(next, coefficients + power * PIECE, 0);
    slope = weights + t * slope;
    weights = next + t * weights;
  }
  slopes = slope;
}

// What of one path an atom sums over its neighbours. Rows of features and of sums are known when this is compiled, or
// 0: then they are those of the path.
template <typename T, int ROWS, int TARGETS>
void path_forward(const Convolution<T>& op, const Path& path, const std::vector<Edge<T>>& edges, const T* const* features,
                  const T* couplings, T* out) {
  constexpr int MOST = ROWS ? TARGETS : MAX_M;
  const int rows = ROWS ? ROWS : int(path.rows), targets = ROWS ? TARGETS : int(path.target_rows);
  in_pieces<WIDTH<Lanes<T>, T>>(path.channels, [&](int64_t k, int64_t count, auto all) {
    constexpr bool ALL = decltype(all)::value;
    Lanes<T> sums[MOST];
    for (int m3 = 0; m3 < targets; ++m3) sums[m3] = Lanes<T>{};
    const T* b = couplings + path.couplings;
    const int64_t weight = path.weight + place_of(k);
    for (size_t n = 0; n < edges.size(); ++n, b += op.n_couplings) {
      const Edge<T>& edge = edges[n];
      const Lanes<T> weights = radial(edge.coefficients + weight, edge.t);
      for (int m1 = 0; m1 < rows; ++m1) {
        Lanes<T> x;
        load<ALL>(x, features[n] + path.source + m1 * path.channels + k, count);
        x *= weights;
        for (int m3 = 0; m3 < targets; ++m3) sums[m3] += b[m1 * targets + m3] * x;
      }
    }
    for (int m3 = 0; m3 < targets; ++m3) store<ALL>(sums[m3], out + path.target + m3 * path.stride + k, count);
  });
}

// Gradients of one path and edge, given those of what its centre has summed.
template <typename T, int ROWS, int TARGETS, bool OF_FEATURES>
void path_backward(const Convolution<T>& op, const Path& path, const Edge<T>& edge, const T* features, const T* b,
                   const T* given, T* of_features, Lanes<T>* of_harmonics, Lanes<T>& of_r) {
  constexpr int MOST = ROWS ? TARGETS : MAX_M, PAIRS = ROWS ? ROWS * TARGETS : MAX_M * MAX_M;
  const int rows = ROWS ? ROWS : int(path.rows), targets = ROWS ? TARGETS : int(path.target_rows);
  Lanes<T> of_b[PAIRS];
  for (int pair = 0; pair < rows * targets; ++pair) of_b[pair] = Lanes<T>{};
  in_pieces<WIDTH<Lanes<T>, T>>(path.channels, [&](int64_t k, int64_t count, auto all) {
    constexpr bool ALL = decltype(all)::value;
    Lanes<T> weights, slopes, g[MOST];
    radial(edge.coefficients + path.weight + place_of(k), edge.t, weights, slopes);
    for (int m3 = 0; m3 < targets; ++m3) load<ALL>(g[m3], given + path.target + m3 * path.stride + k, count);
    for (int m1 = 0; m1 < rows; ++m1) {
      const int64_t place = path.source + m1 * path.channels + k;
      Lanes<T> x, back{};
      load<ALL>(x, features + place, count);
      const Lanes<T> weighted = weights * x;
      for (int m3 = 0; m3 < targets; ++m3) {
        back += b[m1 * targets + m3] * g[m3];
        of_b[m1 * targets + m3] += weighted * g[m3];
      }
      of_r += slopes * x * back;
      if (OF_FEATURES) {
        Lanes<T> sum;
        load<ALL>(sum, of_features + place, count);
        store<ALL>(Lanes<T>(sum + weights * back), of_features + place, count);
      }
    }
  });
  for (int64_t n = path.first; n < path.last; ++n) {
    const Coupling<T>& each = op.couplings[n];
    of_harmonics[each.harmonic] += each.value * of_b[each.pair - path.couplings];
  }
}

template <typename T>
using Forward = decltype(&path_forward<T, 1, 1>);
template <typename T, bool OF_FEATURES>
using Backward = decltype(&path_backward<T, 1, 1, OF_FEATURES>);

// The function for a path: up to degree 3 one that was compiled for it.
template <typename T, int ROWS>
Forward<T> forward_of(const Path& path) {
  switch (path.target_rows) {
    case 1: return &path_forward<T, ROWS, 1>;
    case 3: return &path_forward<T, ROWS, 3>;
    case 5: return &path_forward<T, ROWS, 5>;
    case 7: return &path_forward<T, ROWS, 7>;
    default: return &path_forward<T, 0, 0>;
  }
}

template <typename T>
Forward<T> forward_of(const Path& path) {
  switch (path.rows) {
    case 1: return forward_of<T, 1>(path);
    case 3: return forward_of<T, 3>(path);
    case 5: return forward_of<T, 5>(path);
    case 7: return forward_of<T, 7>(path);
    default: return &path_forward<T, 0, 0>;
  }
}

template <typename T, int ROWS, bool OF_FEATURES>
Backward<T, OF_FEATURES> backward_of(const Path& path) {
  switch (path.target_rows) {
    case 1: return &path_backward<T, ROWS, 1, OF_FEATURES>;
    case 3: return &path_backward<T, ROWS, 3, OF_FEATURES>;
    case 5: return &path_backward<T, ROWS, 5, OF_FEATURES>;
    case 7: return &path_backward<T, ROWS, 7, OF_FEATURES>;
    default: return &path_backward<T, 0, 0, OF_FEATURES>;
  }
}

template <typename T, bool OF_FEATURES>
Backward<T, OF_FEATURES> backward_of(const Path& path) {
  switch (path.rows) {
    case 1: return backward_of<T, 1, OF_FEATURES>(path);
    case 3: return backward_of<T, 3, OF_FEATURES>(path);
    case 5: return backward_of<T, 5, OF_FEATURES>(path);
    case 7: return backward_of<T, 7, OF_FEATURES>(path);
    default: return &path_backward<T, 0, 0, OF_FEATURES>;
  }
}

// Harmonics of an edge, and their gradient: up to degree 4 by functions that were compiled for it.
template <typename T, bool GRADIENT, int L>
void harmonics_of_degree(const Harmonics& harmonics, const Edge<T>& edge, T* y, T* dx, T* dy, T* dz) {
  harmonics.template evaluate<GRADIENT, T, L>(edge.u, edge.inverse_r, y, dx, dy, dz);
}

template <typename T, bool GRADIENT>
decltype(&harmonics_of_degree<T, GRADIENT, -1>) harmonics_of(int l_max) {
  switch (l_max) {
    case 0: return &harmonics_of_degree<T, GRADIENT, 0>;
    case 1: return &harmonics_of_degree<T, GRADIENT, 1>;
    case 2: return &harmonics_of_degree<T, GRADIENT, 2>;
    case 3: return &harmonics_of_degree<T, GRADIENT, 3>;
    case 4: return &harmonics_of_degree<T, GRADIENT, 4>;
    default: return &harmonics_of_degree<T, GRADIENT, -1>;
  }
}

template <typename T>
void messages_forward(const Convolution<T>& op, const Evaluation<T>& given, const Order& order, T* out) {
  const auto evaluate = harmonics_of<T, false>(op.harmonics.l_max);
  std::vector<Forward<T>> functions;
  for (const Path& path : op.paths) functions.push_back(forward_of<T>(path));
  at::parallel_for(0, given.n_atoms, 1, [&](int64_t begin, int64_t end) {
    std::vector<Edge<T>> edges;
    std::vector<const T*> features;
    std::vector<T> couplings;
    T y[MAX_LM];
    for (int64_t i = begin; i < end; ++i) {
      edges.clear();
      features.clear();
      const int64_t n_edges = order.start[i + 1] - order.start[i];
      couplings.resize(n_edges * op.n_couplings);
      for (int64_t n = 0; n < n_edges; ++n) {
        const int64_t e = order.edge[order.start[i] + n];
        edges.emplace_back(op, given, e);
        features.push_back(given.features + given.edges[given.n_edges + e] * given.width);
        evaluate(op.harmonics, edges[n], y, nullptr, nullptr, nullptr);
        op.couple(y, couplings.data() + n * op.n_couplings);
      }
      for (size_t path = 0; path < op.paths.size(); ++path)
        functions[path](op, op.paths[path], edges, features.data(), couplings.data(), out + i * op.n_outputs);
    }
  });
}

// Edges by their neighbours, whose features' gradients are summed; or by their centres, whose sums' gradients are read
// again and again, if features need none.
template <typename T, bool OF_FEATURES>
void messages_backward(const Convolution<T>& op, const Evaluation<T>& given, const Order& order, const T* incoming,
                       T* of_vectors, T* of_features) {
  const int n_lm = op.n_harmonics();
  const auto evaluate = harmonics_of<T, true>(op.harmonics.l_max);
  std::vector<Backward<T, OF_FEATURES>> functions;
  for (const Path& path : op.paths) functions.push_back(backward_of<T, OF_FEATURES>(path));
  at::parallel_for(0, given.n_atoms, 1, [&](int64_t begin, int64_t end) {
    T y[MAX_LM], dx[MAX_LM], dy[MAX_LM], dz[MAX_LM];
    std::vector<T> b(op.n_couplings);
    Lanes<T> of_y[MAX_LM];
    for (int64_t atom = begin; atom < end; ++atom) {
      T* mine = OF_FEATURES ? of_features + atom * given.width : nullptr;
      if (OF_FEATURES) std::fill_n(mine, given.width, T(0));
      for (int64_t n = order.start[atom]; n < order.start[atom + 1]; ++n) {
        const int64_t e = order.edge[n], i = given.edges[e], j = given.edges[given.n_edges + e];
        const Edge<T> edge(op, given, e);
        evaluate(op.harmonics, edge, y, dx, dy, dz);
        op.couple(y, b.data());
        for (int lm = 0; lm < n_lm; ++lm) of_y[lm] = Lanes<T>{};
        Lanes<T> of_r{};
        for (size_t number = 0; number < op.paths.size(); ++number) {
          const Path& path = op.paths[number];
          functions[number](op, path, edge, given.features + j * given.width, b.data() + path.couplings,
                            incoming + i * op.n_outputs, mine, of_y, of_r);
        }
        Lanes<T> sums[3] = {};
        for (int lm = 0; lm < n_lm; ++lm) {
          sums[0] += dx[lm] * of_y[lm];
          sums[1] += dy[lm] * of_y[lm];
          sums[2] += dz[lm] * of_y[lm];
        }
        const T along = T(1 / op.spacing) * total<T>(of_r);
        for (int c = 0; c < 3; ++c) of_vectors[3 * e + c] = T(given.sign) * (total<T>(sums[c]) + along * edge.u[c]);
      }
    }
  });
}

}  // namespace
