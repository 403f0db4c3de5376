// Edges of linear ACE, as many at once as a processor has lanes: what they add to the atomic basis of their site, and
// the gradients that come back.

#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "harmonics.hpp"
#include "lanes.hpp"
#include "tables_and_sites.hpp"

namespace {

constexpr int EDGE_BYTES = 64;
template <typename T>
using Edges = typename Vector<T, EDGE_BYTES>::type;
template <typename T>
constexpr int EDGES = EDGE_BYTES / sizeof(T);

template <>
struct Number<Edges<double>> {
  using Scalar = double;
  static Edges<double> all(double x) { return Edges<double>{} + x; }
};
template <>
struct Number<Edges<float>> {
  using Scalar = float;
  static Edges<float> all(float x) { return Edges<float>{} + x; }
};

// The edges of one site, those to neighbours of one species and of one reach together.
struct Neighbours {
  struct One {
    int64_t edge;
    double r;
  };
  std::vector<One> unsorted, sorted;
  std::vector<int64_t> key, first;  // of (species, near or far): 2 * species + far

  template <typename T>
  void collect(const Model<T>& model, const Sites& sites, int64_t site, const int64_t* species,
               const int64_t* neighbour, const T* vectors) {
    const int64_t begin = sites.first[site], count = sites.first[site + 1] - begin;
    unsorted.resize(count);
    sorted.resize(count);
    key.resize(count);
    first.assign(2 * model.n_species + 1, 0);
    for (int64_t n = 0; n < count; ++n) {
      const int64_t e = sites.edges[begin + n];
      const double x = vectors[3 * e], y = vectors[3 * e + 1], z = vectors[3 * e + 2];
      const double r = std::sqrt(x * x + y * y + z * z);
      unsorted[n] = {e, r};
      key[n] = 2 * species[neighbour[e]] + (r >= model.many_range);  // a distance that is NaN is near, and stays NaN
      ++first[key[n] + 1];
    }
    for (size_t k = 1; k < first.size(); ++k) first[k] += first[k - 1];
    for (int64_t n = 0; n < count; ++n) sorted[first[key[n]]++] = unsorted[n];
    for (size_t k = first.size() - 1; k > 0; --k) first[k] = first[k - 1];
    first[0] = 0;
  }
};

// What is worked with, of one thread.
template <typename T, bool GRADIENT>
struct EdgeWork {
  using V = Edges<T>;
  static constexpr int W = EDGES<T>;

  const Model<T>& model;
  Neighbours neighbours;
  std::vector<V> R, D, sums, y, dx, dy, dz;
  std::vector<V> values, slopes;  // of one edge after another
  V u[3], inverse;

  explicit EdgeWork(const Model<T>& model_) : model(model_) {
    const size_t lm = (model.l_max + 1) * (model.l_max + 1);
    for (auto* each : {&R, &values}) each->resize(model.columns);
    y.resize(lm);
    if (GRADIENT) {
      for (auto* each : {&D, &slopes}) each->resize(model.columns);
      for (auto* each : {&dx, &dy, &dz}) each->resize(lm);
    } else {
      sums.resize(model.size);
    }
  }

  // Directions, radial functions and harmonics of up to W edges; lanes without an edge have radial functions of zero.
  void prepare(const Neighbours::One* edges, int count, const T* vectors, int64_t pair, int64_t n_columns, bool near) {
    for (int w = 0; w < W; ++w) {
      const auto& one = edges[w < count ? w : 0];
      const double over = 1.0 / one.r;
      for (int k = 0; k < 3; ++k) u[k][w] = T(vectors[3 * one.edge + k] * over);
      inverse[w] = T(over);
    }
    radial(edges, count, pair, (n_columns + W - 1) / W);
    if (near && model.l_max > 0)
      model.harmonics.template evaluate<GRADIENT, V>(u, inverse, y.data(), dx.data(), dy.data(), dz.data());
  }

  // Radial functions by quintic Hermite interpolation between knots, in pieces of W columns.
  void radial(const Neighbours::One* edges, int count, int64_t pair, int64_t pieces) {
    int64_t interval[W];
    V t{};
    for (int w = 0; w < count; ++w) {
      const T position = std::min(T(edges[w].r / model.spacing), T(model.knots - 1));
      // A NaN distance reads anything and stays NaN.
      interval[w] = std::max<int64_t>(0, std::min(static_cast<int64_t>(position), model.knots - 2));
      t[w] = position - T(interval[w]);
    }
    const V u1 = T(1) - t, t2 = t * t, u2 = u1 * u1, t3 = t2 * t, u3 = u2 * u1;
    const V value[6] = {u3 * (T(1) + T(3) * t + T(6) * t2),   u3 * t * (T(1) + T(3) * t),    u3 * t2 / T(2),
                        t3 * (T(1) + T(3) * u1 + T(6) * u2), -t3 * u1 * (T(1) + T(3) * u1), t3 * u2 / T(2)};
    const T h = T(1 / model.spacing);
    const V d0 = T(-30) * t2 * u2 * h;
    const V slope[6] = {d0,  u2 * (T(1) + T(2) * t - T(15) * t2) * h,  u2 * t * (T(2) - T(5) * t) * (h / T(2)),
                        -d0, t2 * (T(1) + T(2) * u1 - T(15) * u2) * h, -t2 * u1 * (T(2) - T(5) * u1) * (h / T(2))};
    for (int w = 0; w < W; ++w) {
      V *into = values.data() + w * pieces, *slope_into = slopes.data() + w * pieces;
      if (w >= count) {
        for (int64_t p = 0; p < pieces; ++p) into[p] = V{};
        for (int64_t p = 0; GRADIENT && p < pieces; ++p) slope_into[p] = V{};
        continue;
      }
      const T* from = model.table + (pair * model.knots + interval[w]) * 3 * model.columns;
      T a[6], b[6];
      for (int j = 0; j < 6; ++j) {
        a[j] = value[j][w];
        b[j] = slope[j][w];
      }
      for (int64_t p = 0; p < pieces; ++p) {
        V sum{}, rise{};
        for (int j = 0; j < 6; ++j) {
          V row;
          __builtin_memcpy(&row, from + j * model.columns + p * W, sizeof(V));
          sum += a[j] * row;
          if (GRADIENT) rise += b[j] * row;
        }
        into[p] = sum;
        if (GRADIENT) slope_into[p] = rise;
      }
    }
    for (int64_t p = 0; p < pieces; ++p) {
      in_columns(values.data() + p, pieces, R.data() + p * W);
      if (GRADIENT) in_columns(slopes.data() + p, pieces, D.data() + p * W);
    }
  }

  static void in_columns(const V* from, int64_t stride, V* to) {
    V rows[W];
    for (int w = 0; w < W; ++w) rows[w] = from[w * stride];
    transpose<T>(rows);
    for (int w = 0; w < W; ++w) to[w] = rows[w];
  }

  // Of what the edges that are prepared add to a basis, with derivatives G by it: along the edges, and by directions.
  void gradient(const T* G, int64_t n0, bool near, V& along, V (&by)[3]) const {
    along = by[0] = by[1] = by[2] = V{};
    for (int64_t k = 0; k < n0; ++k) along += G[k] * D[k];
    for (int l = 1; near && l <= model.l_max; ++l) {
      const int64_t n = model.count[l];
      const V *r = R.data() + model.start[l], *d = D.data() + model.start[l];
      const T* row = G + model.offset[l];
      for (int m = 0; m < 2 * l + 1; ++m, row += n) {
        V value{}, slope{};
        for (int64_t k = 0; k < n; ++k) {
          value += row[k] * r[k];
          slope += row[k] * d[k];
        }
        const int lm = l * l + m;
        along += slope * y[lm];
        by[0] += value * dx[lm];
        by[1] += value * dy[lm];
        by[2] += value * dz[lm];
      }
    }
  }

  // Call f(first edge, count, near) for every group of edges of a species.
  template <typename F>
  void groups(int64_t z, const F& f) const {
    for (int far = 0; far < 2; ++far) {
      const int64_t end = neighbours.first[2 * z + far + 1];
      for (int64_t at = neighbours.first[2 * z + far]; at < end; at += W)
        f(neighbours.sorted.data() + at, static_cast<int>(std::min<int64_t>(W, end - at)), far == 0);
    }
  }
};

template <typename T>
void atomic_basis(EdgeWork<T, false>& work, const Sites& sites, int64_t site, const int64_t* species,
                  const int64_t* neighbour, const T* vectors, T* A) {
  using V = Edges<T>;
  const Model<T>& model = work.model;
  work.neighbours.collect(model, sites, site, species, neighbour, vectors);
  for (int64_t z = 0; z < model.n_species; ++z, A += model.size) {
    if (work.neighbours.first[2 * z] == work.neighbours.first[2 * z + 2]) {
      std::fill(A, A + model.size, T(0));
      continue;
    }
    std::fill(work.sums.begin(), work.sums.end(), V{});
    V* sums = work.sums.data();
    const V* R = work.R.data();
    work.groups(z, [&](const Neighbours::One* edges, int count, bool near) {
      const int64_t n0 = near ? model.count[0] : model.n_core;
      work.prepare(edges, count, vectors, species[site] * model.n_species + z, near ? model.columns : n0, near);
      for (int64_t k = 0; k < n0; ++k) sums[k] += R[k];
      for (int l = 1; near && l <= model.l_max; ++l) {
        const int64_t n = model.count[l];
        const V* r = R + model.start[l];
        V* row = sums + model.offset[l];
        for (int m = 0; m < 2 * l + 1; ++m, row += n) {
          const V factor = work.y[l * l + m];
          for (int64_t k = 0; k < n; ++k) row[k] += factor * r[k];
        }
      }
    });
    for (int64_t a = 0; a < model.size; ++a) {
      T sum = 0;
      for (int w = 0; w < EDGES<T>; ++w) sum += sums[a][w];
      A[a] = sum;
    }
  }
}

// Gradients of `count` energies of a site, of which G holds the derivatives by its atomic basis one after another; those
// of one energy are `stride` numbers behind those of the one before.
template <typename T>
void edge_gradients(EdgeWork<T, true>& work, const Sites& sites, int64_t site, const int64_t* species,
                    const int64_t* neighbour, const T* vectors, const T* G, int64_t count, T* gradient,
                    int64_t stride) {
  using V = Edges<T>;
  const Model<T>& model = work.model;
  work.neighbours.collect(model, sites, site, species, neighbour, vectors);
  for (int64_t z = 0; z < model.n_species; ++z, G += model.size) {
    work.groups(z, [&](const Neighbours::One* edges, int lanes, bool near) {
      const int64_t n0 = near ? model.count[0] : model.n_core;
      work.prepare(edges, lanes, vectors, species[site] * model.n_species + z, near ? model.columns : n0, near);
      for (int64_t k = 0; k < count; ++k) {
        V along, by[3];
        work.gradient(G + k * model.entries, n0, near, along, by);
        for (int i = 0; i < 3; ++i) by[i] += along * work.u[i];
        T* out = gradient + k * stride;
        for (int w = 0; w < lanes; ++w)
          for (int i = 0; i < 3; ++i) out[3 * edges[w].edge + i] = by[i][w];
      }
    });
  }
}

}  // namespace
