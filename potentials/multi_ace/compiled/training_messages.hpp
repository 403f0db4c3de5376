// Sums over neighbours with radial weights that are given, and their first and second derivatives, on a CPU.
//
// out_i = sum_e w_e b(y_e) x_j is linear in features x, harmonics y and weights w each. Its gradient for a given g, and
// what changes in both if x, y and w move by tangents, are all that a loss of forces needs: the gradient of a gradient is
// the derivative of sums and gradients along what came in for the latter.

#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "edge_order.hpp"
#include "lanes.hpp"
#include "messages_on_cpu.hpp"

namespace {

// Features (N, width), harmonics (E, n_lm) and weights (rows, n_weights) of one evaluation, or their tangents.
template <typename T>
struct Operands {
  const T *features, *harmonics, *weights;
};

// Their gradients: those of weights by the first edge of a row, and by the other one.
template <typename T>
struct Found {
  T *features, *harmonics, *weights, *other_weights;
};

// Edges, the row of weights of each, and the first edge of every row, of two at most.
template <typename T>
struct Neighbourhood {
  const int64_t *centre, *neighbour, *row, *first;
  int64_t n_atoms, width, n_lm, n_weights, n_outputs;
};

// What of one edge a path reads.
template <typename T>
struct EdgeOperands {
  const T *x, *w, *b;    // rows of its neighbour, its weights, its couplings
  const T *dx, *dw, *db;  // and their tangents
};

template <typename T, int ROWS, int TARGETS, bool TANGENT>
void sum_of_path(const Path& path, const std::vector<EdgeOperands<T>>& edges, T* out) {
  constexpr int MOST = ROWS ? TARGETS : MAX_M;
  const int rows = ROWS ? ROWS : int(path.rows), targets = ROWS ? TARGETS : int(path.target_rows);
  in_pieces<WIDTH<Lanes<T>, T>>(path.channels, [&](int64_t k, int64_t count, auto all) {
    constexpr bool ALL = decltype(all)::value;
    Lanes<T> sums[MOST];
    for (int m3 = 0; m3 < targets; ++m3) sums[m3] = Lanes<T>{};
    for (const EdgeOperands<T>& edge : edges) {
      Lanes<T> w, dw;
      load<ALL>(w, edge.w + path.weight + k, count);
      if (TANGENT) load<ALL>(dw, edge.dw + path.weight + k, count);
      const T *b = edge.b + path.couplings, *db = TANGENT ? edge.db + path.couplings : nullptr;
      for (int m1 = 0; m1 < rows; ++m1) {
        const int64_t place = path.source + m1 * path.channels + k;
        Lanes<T> x, moved;
        load<ALL>(x, edge.x + place, count);
        if (TANGENT) {
          load<ALL>(moved, edge.dx + place, count);
          moved = w * moved + dw * x;
        }
        x *= w;
        for (int m3 = 0; m3 < targets; ++m3) {
          const int at = m1 * targets + m3;
          if (TANGENT)
            sums[m3] += b[at] * moved + db[at] * x;
          else
            sums[m3] += b[at] * x;
        }
      }
    }
    for (int m3 = 0; m3 < targets; ++m3) store<ALL>(sums[m3], out + path.target + m3 * path.stride + k, count);
  });
}

// Gradients of one path and edge, given those of what its centre has summed; or how they move.
template <typename T, int ROWS, int TARGETS, bool TANGENT>
void gradient_of_path(const Coupled<T>& op, const Path& path, const EdgeOperands<T>& edge, const T* given, T* of_x,
                      T* of_w, Lanes<T>* of_harmonics) {
  constexpr int MOST = ROWS ? TARGETS : MAX_M, PAIRS = ROWS ? ROWS * TARGETS : MAX_M * MAX_M;
  const int rows = ROWS ? ROWS : int(path.rows), targets = ROWS ? TARGETS : int(path.target_rows);
  const T *b = edge.b + path.couplings, *db = TANGENT ? edge.db + path.couplings : nullptr;
  Lanes<T> of_b[PAIRS];
  for (int pair = 0; pair < rows * targets; ++pair) of_b[pair] = Lanes<T>{};
  in_pieces<WIDTH<Lanes<T>, T>>(path.channels, [&](int64_t k, int64_t count, auto all) {
    constexpr bool ALL = decltype(all)::value;
    Lanes<T> w, dw, g[MOST], sum_w{};
    load<ALL>(w, edge.w + path.weight + k, count);
    if (TANGENT) load<ALL>(dw, edge.dw + path.weight + k, count);
    for (int m3 = 0; m3 < targets; ++m3) load<ALL>(g[m3], given + path.target + m3 * path.stride + k, count);
    for (int m1 = 0; m1 < rows; ++m1) {
      const int64_t place = path.source + m1 * path.channels + k;
      Lanes<T> x, dx, back{}, moved{}, sum;
      load<ALL>(x, edge.x + place, count);
      if (TANGENT) load<ALL>(dx, edge.dx + place, count);
      const Lanes<T> weighted = TANGENT ? Lanes<T>(w * dx + dw * x) : Lanes<T>(w * x);
      for (int m3 = 0; m3 < targets; ++m3) {
        const int at = m1 * targets + m3;
        back += b[at] * g[m3];
        if (TANGENT) moved += db[at] * g[m3];
        of_b[at] += weighted * g[m3];
      }
      load<ALL>(sum, of_x + place, count);
      if (TANGENT) {
        sum += w * moved + dw * back;
        sum_w += dx * back + x * moved;
      } else {
        sum += w * back;
        sum_w += x * back;
      }
      store<ALL>(sum, of_x + place, count);
    }
    store<ALL>(sum_w, of_w + path.weight + k, count);
  });
  for (int64_t n = path.first; n < path.last; ++n) {
    const Coupling<T>& each = op.couplings[n];
    of_harmonics[each.harmonic] += each.value * of_b[each.pair - path.couplings];
  }
}

// The function for a path, of those that were compiled for degrees up to 3.
template <typename T, int ROWS, bool TANGENT>
decltype(&sum_of_path<T, 0, 0, TANGENT>) sum_for(const Path& path) {
  switch (path.target_rows) {
    case 1: return &sum_of_path<T, ROWS, 1, TANGENT>;
    case 3: return &sum_of_path<T, ROWS, 3, TANGENT>;
    case 5: return &sum_of_path<T, ROWS, 5, TANGENT>;
    case 7: return &sum_of_path<T, ROWS, 7, TANGENT>;
    default: return &sum_of_path<T, 0, 0, TANGENT>;
  }
}

template <typename T, bool TANGENT>
decltype(&sum_of_path<T, 0, 0, TANGENT>) sum_for(const Path& path) {
  switch (path.rows) {
    case 1: return sum_for<T, 1, TANGENT>(path);
    case 3: return sum_for<T, 3, TANGENT>(path);
    case 5: return sum_for<T, 5, TANGENT>(path);
    case 7: return sum_for<T, 7, TANGENT>(path);
    default: return &sum_of_path<T, 0, 0, TANGENT>;
  }
}

template <typename T, int ROWS, bool TANGENT>
decltype(&gradient_of_path<T, 0, 0, TANGENT>) gradient_for(const Path& path) {
  switch (path.target_rows) {
    case 1: return &gradient_of_path<T, ROWS, 1, TANGENT>;
    case 3: return &gradient_of_path<T, ROWS, 3, TANGENT>;
    case 5: return &gradient_of_path<T, ROWS, 5, TANGENT>;
    case 7: return &gradient_of_path<T, ROWS, 7, TANGENT>;
    default: return &gradient_of_path<T, 0, 0, TANGENT>;
  }
}

template <typename T, bool TANGENT>
decltype(&gradient_of_path<T, 0, 0, TANGENT>) gradient_for(const Path& path) {
  switch (path.rows) {
    case 1: return gradient_for<T, 1, TANGENT>(path);
    case 3: return gradient_for<T, 3, TANGENT>(path);
    case 5: return gradient_for<T, 5, TANGENT>(path);
    case 7: return gradient_for<T, 7, TANGENT>(path);
    default: return &gradient_of_path<T, 0, 0, TANGENT>;
  }
}

template <typename T, bool TANGENT>
EdgeOperands<T> operands_of(const Neighbourhood<T>& at, const Operands<T>& given, const Operands<T>& moved, int64_t e,
                            const T* b, const T* db) {
  const int64_t j = at.neighbour[e];
  EdgeOperands<T> edge{given.features + j * at.width, given.weights + at.row[e] * at.n_weights, b, nullptr, nullptr, db};
  if (TANGENT) {
    edge.dx = moved.features + j * at.width;
    edge.dw = moved.weights + at.row[e] * at.n_weights;
  }
  return edge;
}

// Sums (N, n_outputs), or how they move along tangents; ``by_centre`` has the edges of every atom that sums.
template <typename T, bool TANGENT>
void sums(const Coupled<T>& op, const Neighbourhood<T>& at, const Order& by_centre, const Operands<T>& given,
          const Operands<T>& moved, T* out) {
  std::vector<decltype(sum_for<T, TANGENT>(op.paths[0]))> functions;
  for (const Path& path : op.paths) functions.push_back(sum_for<T, TANGENT>(path));
  at::parallel_for(0, at.n_atoms, 1, [&](int64_t begin, int64_t end) {
    std::vector<EdgeOperands<T>> edges;
    std::vector<T> b, db;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = by_centre.start[i], count = by_centre.start[i + 1] - first;
      edges.clear();
      b.resize(count * op.n_couplings);
      db.resize(TANGENT ? count * op.n_couplings : 0);
      for (int64_t n = 0; n < count; ++n) {
        const int64_t e = by_centre.edge[first + n];
        T* own = b.data() + n * op.n_couplings;
        op.couple(given.harmonics + e * at.n_lm, own);
        T* other = TANGENT ? db.data() + n * op.n_couplings : nullptr;
        if (TANGENT) op.couple(moved.harmonics + e * at.n_lm, other);
        edges.push_back(operands_of<T, TANGENT>(at, given, moved, e, own, other));
      }
      for (size_t path = 0; path < op.paths.size(); ++path)
        functions[path](op.paths[path], edges, out + i * at.n_outputs);
    }
  });
}

// Gradients of features, harmonics and weights, given those of the sums; or how they move along tangents.
template <typename T, bool TANGENT>
void gradients(const Coupled<T>& op, const Neighbourhood<T>& at, const Order& by_neighbour, const Operands<T>& given,
               const Operands<T>& moved, const T* incoming, const Found<T>& found) {
  std::vector<decltype(gradient_for<T, TANGENT>(op.paths[0]))> functions;
  for (const Path& path : op.paths) functions.push_back(gradient_for<T, TANGENT>(path));
  at::parallel_for(0, at.n_atoms, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> b(op.n_couplings), db(TANGENT ? op.n_couplings : 0);
    Lanes<T> of_y[MAX_LM];
    for (int64_t j = begin; j < end; ++j) {
      T* mine = found.features + j * at.width;
      std::fill_n(mine, at.width, T(0));
      for (int64_t n = by_neighbour.start[j]; n < by_neighbour.start[j + 1]; ++n) {
        const int64_t e = by_neighbour.edge[n];
        op.couple(given.harmonics + e * at.n_lm, b.data());
        if (TANGENT) op.couple(moved.harmonics + e * at.n_lm, db.data());
        const EdgeOperands<T> edge = operands_of<T, TANGENT>(at, given, moved, e, b.data(), db.data());
        for (int64_t lm = 0; lm < at.n_lm; ++lm) of_y[lm] = Lanes<T>{};
        const T* g = incoming + at.centre[e] * at.n_outputs;
        const int64_t row = at.row[e];
        T* own_weights = (at.first[row] == e ? found.weights : found.other_weights) + row * at.n_weights;
        for (size_t path = 0; path < op.paths.size(); ++path)
          functions[path](op, op.paths[path], edge, g, mine, own_weights, of_y);
        for (int64_t lm = 0; lm < at.n_lm; ++lm) found.harmonics[e * at.n_lm + lm] = total<T>(of_y[lm]);
      }
    }
  });
}

}  // namespace
