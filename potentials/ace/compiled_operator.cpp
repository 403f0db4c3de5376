// Site energies of a linear ACE and their gradient on the CPU: the torch operator halberd::ace_sites.
//
// Same arithmetic as AceSites in sites.py, arranged for a CPU: one pass over the neighbours of a site fills its
// atomic basis A in cache, products are evaluated for LANES sites of one species at once, and the backward pass reuses
// A. Sites are independent, so the result does not depend on the number of threads.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "design_rows.hpp"
#include "harmonics.hpp"

namespace {

using at::Tensor;
constexpr int LANES = 8;
constexpr int TILE = 64;

template <typename T>
struct Model {
  const T* table;
  int64_t n_species, knots, columns;
  double spacing;
  int64_t n_core;
  double many_range;
  std::vector<int64_t> start, count, offset;
  int64_t size = 0;     // entries of A per neighbour species
  int64_t entries = 0;  // entries of A per site
  int l_max;
  Harmonics harmonics;
  std::vector<const int32_t*> products;
  std::vector<const T*> weights;
  std::vector<int64_t> terms;
  int64_t members;

  Model(const Tensor& table_, double spacing_, at::IntArrayRef start_, at::IntArrayRef count_, int64_t n_core_,
        double many_range_, const std::vector<Tensor>& products_, const std::vector<Tensor>& weights_)
      : table(table_.data_ptr<T>()),
        knots(table_.size(1)),
        columns(table_.size(3)),
        spacing(spacing_),
        n_core(n_core_),
        many_range(many_range_),
        start(start_.vec()),
        count(count_.vec()),
        l_max(static_cast<int>(count_.size()) - 1),
        harmonics(l_max) {
    TORCH_CHECK(l_max <= MAX_L, "halberd: l is limited to ", MAX_L);
    for (int l = 0; l <= l_max; ++l) {
      offset.push_back(size);
      size += (2 * l + 1) * count[l];
    }
    n_species = weights_.at(0).size(0);
    members = weights_.at(0).size(1);
    entries = n_species * size;
    for (size_t order = 0; order < products_.size(); ++order) {
      products.push_back(products_[order].data_ptr<int32_t>());
      weights.push_back(weights_[order].data_ptr<T>());
      terms.push_back(products_[order].size(0));
    }
  }

  // Radial functions of one edge, columns 0 ... n - 1, and their derivative.
  template <bool GRADIENT>
  void radial(int64_t pair, T r, int64_t n, T* value, T* slope) const {
    const T position = std::min(T(r / spacing), T(knots - 1));
    int64_t interval = static_cast<int64_t>(position);
    interval = std::max<int64_t>(0, std::min(interval, knots - 2));  // a NaN distance reads anything and stays NaN
    const T t = position - T(interval), u = 1 - t;
    const T t2 = t * t, u2 = u * u, t3 = t2 * t, u3 = u2 * u;
    const T a0 = u3 * (1 + 3 * t + 6 * t2), a1 = u3 * t * (1 + 3 * t), a2 = u3 * t2 / 2;
    const T b0 = t3 * (1 + 3 * u + 6 * u2), b1 = -t3 * u * (1 + 3 * u), b2 = t3 * u2 / 2;
    const T* left = table + (pair * knots + interval) * 3 * columns;
    const T* right = left + 3 * columns;
    for (int64_t k = 0; k < n; ++k)
      value[k] = a0 * left[k] + a1 * left[columns + k] + a2 * left[2 * columns + k] + b0 * right[k] +
                 b1 * right[columns + k] + b2 * right[2 * columns + k];
    if (GRADIENT) {
      const T h = T(1 / spacing);
      const T d0 = -30 * t2 * u2 * h;
      const T c1 = u2 * (1 + 2 * t - 15 * t2) * h, c2 = u2 * t * (2 - 5 * t) / 2 * h;
      const T e1 = t2 * (1 + 2 * u - 15 * u2) * h, e2 = -t2 * u * (2 - 5 * u) / 2 * h;
      for (int64_t k = 0; k < n; ++k)
        slope[k] = d0 * (left[k] - right[k]) + c1 * left[columns + k] + c2 * left[2 * columns + k] +
                   e1 * right[columns + k] + e2 * right[2 * columns + k];
    }
  }
};

// Edges grouped by centre, sites grouped by species in blocks of LANES.
struct Sites {
  std::vector<int64_t> first, edges;
  std::vector<int64_t> block_sites;  // LANES per block, -1 where empty
  std::vector<int64_t> block_species;

  Sites(const Tensor& species, const Tensor& edge_index, int64_t n_species) {
    const int64_t n_sites = species.size(0), n_edges = edge_index.size(1);
    const int64_t* z = species.data_ptr<int64_t>();
    const int64_t* centre = edge_index.data_ptr<int64_t>();
    first.assign(n_sites + 1, 0);
    for (int64_t e = 0; e < n_edges; ++e) ++first[centre[e] + 1];
    for (int64_t i = 0; i < n_sites; ++i) first[i + 1] += first[i];
    std::vector<int64_t> next(first.begin(), first.end() - 1);
    edges.resize(n_edges);
    for (int64_t e = 0; e < n_edges; ++e) edges[next[centre[e]]++] = e;
    for (int64_t s = 0; s < n_species; ++s) {
      int lane = LANES;
      for (int64_t i = 0; i < n_sites; ++i) {
        if (z[i] != s) continue;
        if (lane == LANES) {
          block_species.push_back(s);
          block_sites.resize(block_sites.size() + LANES, -1);
          lane = 0;
        }
        block_sites[block_sites.size() - LANES + lane++] = i;
      }
    }
  }

  int64_t blocks() const { return static_cast<int64_t>(block_species.size()); }
};

struct Edge {
  double r;
  double u[3];
};

template <typename T>
Edge edge_geometry(const T* v) {
  const double x = v[0], y = v[1], z = v[2];
  const double r = std::sqrt(x * x + y * y + z * z), inverse = 1.0 / r;
  return {r, {x * inverse, y * inverse, z * inverse}};
}

// Number of angular momenta and of l = 0 columns that reach a distance.
template <typename T>
void reach(const Model<T>& model, double r, int& l_top, int64_t& n0, int64_t& n_columns) {
  const bool near = !(r >= model.many_range);
  l_top = near ? model.l_max : 0;
  n0 = near ? model.count[0] : model.n_core;
  n_columns = near ? model.columns : model.n_core;
}

template <typename T>
void atomic_basis(const Model<T>& model, const Sites& sites, int64_t site, const int64_t* species,
                  const int64_t* neighbour, const T* vectors, T* A) {
  T y[MAX_LM];
  std::vector<T> R(model.columns);
  std::fill(A, A + model.entries, T(0));
  for (int64_t at = sites.first[site]; at < sites.first[site + 1]; ++at) {
    const int64_t e = sites.edges[at];
    const Edge edge = edge_geometry(vectors + 3 * e);
    const T u[3] = {T(edge.u[0]), T(edge.u[1]), T(edge.u[2])};
    int l_top;
    int64_t n0, n_columns;
    reach(model, edge.r, l_top, n0, n_columns);
    const int64_t z = species[neighbour[e]];
    model.template radial<false>(species[site] * model.n_species + z, T(edge.r), n_columns, R.data(), nullptr);
    if (l_top > 0) model.harmonics.template evaluate<false, T>(u, T(1 / edge.r), y, nullptr, nullptr, nullptr);
    T* block = A + z * model.size;
    for (int64_t k = 0; k < n0; ++k) block[k] += R[k];
    for (int l = 1; l <= l_top; ++l) {
      const int64_t n = model.count[l];
      const T* r = R.data() + model.start[l];
      T* row = block + model.offset[l];
      for (int m = 0; m < 2 * l + 1; ++m, row += n) {
        const T factor = y[l * l + m];
        for (int64_t k = 0; k < n; ++k) row[k] += factor * r[k];
      }
    }
  }
}

template <typename T>
void edge_gradients(const Model<T>& model, const Sites& sites, int64_t site, const int64_t* species,
                    const int64_t* neighbour, const T* vectors, const T* G, T* gradient) {
  T y[MAX_LM], dx[MAX_LM], dy[MAX_LM], dz[MAX_LM];
  std::vector<T> R(model.columns), D(model.columns);
  for (int64_t at = sites.first[site]; at < sites.first[site + 1]; ++at) {
    const int64_t e = sites.edges[at];
    const Edge edge = edge_geometry(vectors + 3 * e);
    const T u[3] = {T(edge.u[0]), T(edge.u[1]), T(edge.u[2])};
    int l_top;
    int64_t n0, n_columns;
    reach(model, edge.r, l_top, n0, n_columns);
    const int64_t z = species[neighbour[e]];
    model.template radial<true>(species[site] * model.n_species + z, T(edge.r), n_columns, R.data(), D.data());
    if (l_top > 0) model.harmonics.template evaluate<true, T>(u, T(1 / edge.r), y, dx, dy, dz);
    const T* block = G + z * model.size;
    T along = 0, gx = 0, gy = 0, gz = 0;
    for (int64_t k = 0; k < n0; ++k) along += block[k] * D[k];
    for (int l = 1; l <= l_top; ++l) {
      const int64_t n = model.count[l];
      const T* r = R.data() + model.start[l];
      const T* d = D.data() + model.start[l];
      const T* row = block + model.offset[l];
      for (int m = 0; m < 2 * l + 1; ++m, row += n) {
        T value = 0, slope = 0;
        for (int64_t k = 0; k < n; ++k) {
          value += row[k] * r[k];
          slope += row[k] * d[k];
        }
        const int lm = l * l + m;
        along += slope * y[lm];
        gx += value * dx[lm];
        gy += value * dy[lm];
        gz += value * dz[lm];
      }
    }
    gradient[3 * e] = gx + along * u[0];
    gradient[3 * e + 1] = gy + along * u[1];
    gradient[3 * e + 2] = gz + along * u[2];
  }
}

template <int ORDER, typename T>
void product(const int32_t* index, const T* A, T* out) {
  const T* first = A + int64_t(index[0]) * LANES;
  for (int w = 0; w < LANES; ++w) out[w] = first[w];
  for (int t = 1; t < ORDER; ++t) {
    const T* factor = A + int64_t(index[t]) * LANES;
    for (int w = 0; w < LANES; ++w) out[w] *= factor[w];
  }
}

template <int ORDER, typename T>
void sum_products(const Model<T>& model, int64_t species, const T* A, T* energy) {
  const int64_t terms = model.terms[ORDER - 1];
  const int32_t* index = model.products[ORDER - 1];
  const T* weights = model.weights[ORDER - 1] + species * model.members * terms;
  alignas(64) T tile[TILE][LANES];
  for (int64_t t0 = 0; t0 < terms; t0 += TILE) {
    const int n = static_cast<int>(std::min<int64_t>(TILE, terms - t0));
    for (int t = 0; t < n; ++t) product<ORDER>(index + (t0 + t) * ORDER, A, tile[t]);
    for (int64_t k = 0; k < model.members; ++k) {
      const T* c = weights + k * terms + t0;
      T sum[LANES];
      for (int w = 0; w < LANES; ++w) sum[w] = energy[k * LANES + w];
      for (int t = 0; t < n; ++t)
        for (int w = 0; w < LANES; ++w) sum[w] += c[t] * tile[t][w];
      for (int w = 0; w < LANES; ++w) energy[k * LANES + w] = sum[w];
    }
  }
}

// G += d(sum of products) / dA; `folded` holds the weights of one linear combination of members, or else they are
// folded here for every lane with the incoming gradient.
template <int ORDER, typename T>
void spread_products(const Model<T>& model, int64_t species, const T* A, const T* incoming, const T* folded, T* G) {
  const int64_t terms = model.terms[ORDER - 1];
  const int32_t* index = model.products[ORDER - 1];
  const T* weights = model.weights[ORDER - 1] + species * model.members * terms;
  alignas(64) T tile[TILE][LANES];
  for (int64_t t0 = 0; t0 < terms; t0 += TILE) {
    const int n = static_cast<int>(std::min<int64_t>(TILE, terms - t0));
    if (folded != nullptr) {
      for (int t = 0; t < n; ++t)
        for (int w = 0; w < LANES; ++w) tile[t][w] = folded[t0 + t];
    } else {
      std::memset(tile, 0, sizeof(tile));
      for (int64_t k = 0; k < model.members; ++k)
        for (int t = 0; t < n; ++t)
          for (int w = 0; w < LANES; ++w) tile[t][w] += weights[k * terms + t0 + t] * incoming[k * LANES + w];
    }
    for (int t = 0; t < n; ++t) {
      const int32_t* i = index + (t0 + t) * ORDER;
      const T* c = tile[t];
      if (ORDER == 1) {
        T* g = G + int64_t(i[0]) * LANES;
        for (int w = 0; w < LANES; ++w) g[w] += c[w];
        continue;
      }
      // Products of the factors before and after each one.
      T before[ORDER][LANES], after[LANES];
      for (int w = 0; w < LANES; ++w) before[0][w] = c[w];
      for (int f = 1; f < ORDER; ++f) {
        const T* a = A + int64_t(i[f - 1]) * LANES;
        for (int w = 0; w < LANES; ++w) before[f][w] = before[f - 1][w] * a[w];
      }
      for (int w = 0; w < LANES; ++w) after[w] = 1;
      for (int f = ORDER - 1; f >= 0; --f) {
        T* g = G + int64_t(i[f]) * LANES;
        for (int w = 0; w < LANES; ++w) g[w] += before[f][w] * after[w];
        if (f > 0) {
          const T* a = A + int64_t(i[f]) * LANES;
          for (int w = 0; w < LANES; ++w) after[w] *= a[w];
        }
      }
    }
  }
}

// Sums of products over the sites of a block (empty lanes hold zeros).
template <int ORDER, typename T>
T* add_products(const Model<T>& model, const T* A, T* totals) {
  const int64_t terms = model.terms[ORDER - 1];
  const int32_t* index = model.products[ORDER - 1];
  T value[LANES];
  for (int64_t t = 0; t < terms; ++t) {
    product<ORDER>(index + t * ORDER, A, value);
    for (int w = 0; w < LANES; ++w) totals[t] += value[w];
  }
  return totals + terms;
}

// Products of all orders, summed over the sites of every species: what the energy is linear in.
template <typename T>
void products_kernel(const Model<T>& model, const Sites& sites, const Tensor& species, const Tensor& edge_index,
                     const Tensor& vectors, Tensor& totals) {
  const int64_t* z = species.data_ptr<int64_t>();
  const int64_t* neighbour = edge_index.data_ptr<int64_t>() + edge_index.size(1);
  const T* v = vectors.data_ptr<T>();
  const int64_t terms = totals.size(1);
  const size_t orders = model.products.size();
  // One row per block, added up in order: the result does not depend on the number of threads.
  std::vector<T> rows(sites.blocks() * terms, T(0));
  at::parallel_for(0, sites.blocks(), 1, [&](int64_t begin, int64_t end) {
    std::vector<T> lanes(model.entries * LANES), own(model.entries);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t* block = sites.block_sites.data() + b * LANES;
      std::fill(lanes.begin(), lanes.end(), T(0));
      for (int w = 0; w < LANES && block[w] >= 0; ++w) {
        atomic_basis(model, sites, block[w], z, neighbour, v, own.data());
        for (int64_t a = 0; a < model.entries; ++a) lanes[a * LANES + w] = own[a];
      }
      T* row = add_products<1>(model, lanes.data(), rows.data() + b * terms);
      if (orders > 1) row = add_products<2>(model, lanes.data(), row);
      if (orders > 2) row = add_products<3>(model, lanes.data(), row);
      if (orders > 3) row = add_products<4>(model, lanes.data(), row);
      if (orders > 4) row = add_products<5>(model, lanes.data(), row);
      if (orders > 5) row = add_products<6>(model, lanes.data(), row);
    }
  });
  T* out = totals.data_ptr<T>();
  for (int64_t b = 0; b < sites.blocks(); ++b)
    for (int64_t t = 0; t < terms; ++t) out[sites.block_species[b] * terms + t] += rows[b * terms + t];
}

template <typename T>
void forward_kernel(const Model<T>& model, const Sites& sites, const Tensor& species, const Tensor& edge_index,
                    const Tensor& vectors, Tensor& energies, Tensor& basis) {
  const int64_t* z = species.data_ptr<int64_t>();
  const int64_t* neighbour = edge_index.data_ptr<int64_t>() + edge_index.size(1);
  const T* v = vectors.data_ptr<T>();
  T* A = basis.data_ptr<T>();
  T* out = energies.data_ptr<T>();
  at::parallel_for(0, sites.blocks(), 1, [&](int64_t begin, int64_t end) {
    std::vector<T> lanes(model.entries * LANES), sums(model.members * LANES);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t* block = sites.block_sites.data() + b * LANES;
      std::fill(lanes.begin(), lanes.end(), T(0));
      for (int w = 0; w < LANES && block[w] >= 0; ++w) {
        T* own = A + block[w] * model.entries;
        atomic_basis(model, sites, block[w], z, neighbour, v, own);
        for (int64_t a = 0; a < model.entries; ++a) lanes[a * LANES + w] = own[a];
      }
      std::fill(sums.begin(), sums.end(), T(0));
      const int64_t s = sites.block_species[b];
      const size_t orders = model.products.size();
      sum_products<1>(model, s, lanes.data(), sums.data());
      if (orders > 1) sum_products<2>(model, s, lanes.data(), sums.data());
      if (orders > 2) sum_products<3>(model, s, lanes.data(), sums.data());
      if (orders > 3) sum_products<4>(model, s, lanes.data(), sums.data());
      if (orders > 4) sum_products<5>(model, s, lanes.data(), sums.data());
      if (orders > 5) sum_products<6>(model, s, lanes.data(), sums.data());
      for (int w = 0; w < LANES && block[w] >= 0; ++w)
        for (int64_t k = 0; k < model.members; ++k) out[block[w] * model.members + k] = sums[k * LANES + w];
    }
  });
}

// One weight per member, the same for every site? Then they can be folded once for all.
template <typename T>
bool uniform(const T* g, int64_t sites, int64_t members) {
  for (int64_t i = 1; i < sites; ++i)
    for (int64_t k = 0; k < members; ++k)
      if (!(g[i * members + k] == g[k])) return false;
  return sites > 0;
}

template <typename T>
void backward_kernel(const Model<T>& model, const Sites& sites, const Tensor& species, const Tensor& edge_index,
                     const Tensor& vectors, const Tensor& basis, const Tensor& incoming, Tensor& gradient) {
  const int64_t* z = species.data_ptr<int64_t>();
  const int64_t* neighbour = edge_index.data_ptr<int64_t>() + edge_index.size(1);
  const T* v = vectors.data_ptr<T>();
  const T* A = basis.data_ptr<T>();
  const T* g = incoming.data_ptr<T>();
  const int64_t members = model.members;
  const size_t orders = model.products.size();
  std::vector<std::vector<T>> folded;
  if (uniform(g, species.size(0), members)) {
    for (size_t o = 0; o < orders; ++o) {
      folded.emplace_back(model.n_species * model.terms[o], T(0));
      for (int64_t s = 0; s < model.n_species; ++s) {
        T* into = folded[o].data() + s * model.terms[o];
        for (int64_t k = 0; k < members; ++k) {
          const T* from = model.weights[o] + (s * members + k) * model.terms[o];
          for (int64_t t = 0; t < model.terms[o]; ++t) into[t] += g[k] * from[t];
        }
      }
    }
  }
  T* out = gradient.data_ptr<T>();
  at::parallel_for(0, sites.blocks(), 1, [&](int64_t begin, int64_t end) {
    std::vector<T> lanes(model.entries * LANES), spread(model.entries * LANES), own(model.entries);
    std::vector<T> weights(members * LANES);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t* block = sites.block_sites.data() + b * LANES;
      std::fill(lanes.begin(), lanes.end(), T(0));
      std::fill(spread.begin(), spread.end(), T(0));
      std::fill(weights.begin(), weights.end(), T(0));
      for (int w = 0; w < LANES && block[w] >= 0; ++w) {
        const T* from = A + block[w] * model.entries;
        for (int64_t a = 0; a < model.entries; ++a) lanes[a * LANES + w] = from[a];
        for (int64_t k = 0; k < members; ++k) weights[k * LANES + w] = g[block[w] * members + k];
      }
      const int64_t s = sites.block_species[b];
      const auto fold = [&](size_t o) { return folded.empty() ? nullptr : folded[o].data() + s * model.terms[o]; };
      spread_products<1>(model, s, lanes.data(), weights.data(), fold(0), spread.data());
      if (orders > 1) spread_products<2>(model, s, lanes.data(), weights.data(), fold(1), spread.data());
      if (orders > 2) spread_products<3>(model, s, lanes.data(), weights.data(), fold(2), spread.data());
      if (orders > 3) spread_products<4>(model, s, lanes.data(), weights.data(), fold(3), spread.data());
      if (orders > 4) spread_products<5>(model, s, lanes.data(), weights.data(), fold(4), spread.data());
      if (orders > 5) spread_products<6>(model, s, lanes.data(), weights.data(), fold(5), spread.data());
      for (int w = 0; w < LANES && block[w] >= 0; ++w) {
        for (int64_t a = 0; a < model.entries; ++a) own[a] = spread[a * LANES + w];
        edge_gradients(model, sites, block[w], z, neighbour, v, own.data(), out);
      }
    }
  });
}

void check_products(const std::vector<Tensor>& products, const std::vector<Tensor>& weights) {
  TORCH_CHECK(!products.empty() && products.size() <= 6 && products.size() == weights.size(),
              "halberd: 1 to 6 orders of products, with weights for each");
}

struct Evaluation {
  Tensor energies, basis;
};

template <typename T>
Evaluation run_forward(const Tensor& species, const Tensor& edge_index, const Tensor& vectors, const Tensor& table,
                       double spacing, at::IntArrayRef start, at::IntArrayRef count, int64_t n_core, double many_range,
                       const std::vector<Tensor>& products, const std::vector<Tensor>& weights) {
  const Model<T> model(table, spacing, start, count, n_core, many_range, products, weights);
  const Sites sites(species, edge_index, model.n_species);
  Tensor energies = at::zeros({species.size(0), model.members}, vectors.options());
  Tensor basis = at::empty({species.size(0), model.entries}, vectors.options());
  forward_kernel(model, sites, species, edge_index, vectors, energies, basis);
  return {energies, basis};
}

Evaluation evaluate(const Tensor& species, const Tensor& edge_index, const Tensor& vectors, const Tensor& table,
                    double spacing, at::IntArrayRef start, at::IntArrayRef count, int64_t n_core, double many_range,
                    const std::vector<Tensor>& products, const std::vector<Tensor>& weights) {
  check_products(products, weights);
  TORCH_CHECK(vectors.scalar_type() == table.scalar_type(), "halberd: edge vectors and model differ in precision");
  return vectors.scalar_type() == at::kDouble
             ? run_forward<double>(species, edge_index, vectors, table, spacing, start, count, n_core, many_range,
                                   products, weights)
             : run_forward<float>(species, edge_index, vectors, table, spacing, start, count, n_core, many_range,
                                  products, weights);
}

template <typename T>
Tensor run_products(const Tensor& species, const Tensor& edge_index, const Tensor& vectors, const Tensor& table,
                    double spacing, at::IntArrayRef start, at::IntArrayRef count, int64_t n_core, double many_range,
                    const std::vector<Tensor>& products, const std::vector<Tensor>& weights) {
  const Model<T> model(table, spacing, start, count, n_core, many_range, products, weights);
  const Sites sites(species, edge_index, model.n_species);
  int64_t terms = 0;
  for (int64_t n : model.terms) terms += n;
  Tensor totals = at::zeros({model.n_species, terms}, vectors.options());
  products_kernel(model, sites, species, edge_index, vectors, totals);
  return totals;
}

// Not differentiable; the weights only tell the number of species.
Tensor ace_products_cpu(const Tensor& species, const Tensor& edge_index, const Tensor& edge_vectors,
                        const Tensor& table, double spacing, at::IntArrayRef start, at::IntArrayRef count,
                        int64_t n_core, double many_range, at::TensorList products, at::TensorList weights) {
  check_products(products.vec(), weights.vec());
  const Tensor vectors = edge_vectors.detach().contiguous();
  TORCH_CHECK(vectors.scalar_type() == table.scalar_type(), "halberd: edge vectors and model differ in precision");
  const auto run = vectors.scalar_type() == at::kDouble ? run_products<double> : run_products<float>;
  return run(species.contiguous(), edge_index.contiguous(), vectors, table, spacing, start, count, n_core, many_range,
             products.vec(), weights.vec());
}

class AceSites : public torch::autograd::Function<AceSites> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& vectors, const Tensor& species,
                        const Tensor& edge_index, const Tensor& table, double spacing, std::vector<int64_t> start,
                        std::vector<int64_t> count, int64_t n_core, double many_range, std::vector<Tensor> products,
                        std::vector<Tensor> weights) {
    at::AutoDispatchBelowADInplaceOrView guard;
    Evaluation result =
        evaluate(species, edge_index, vectors, table, spacing, start, count, n_core, many_range, products, weights);
    ctx->save_for_backward({vectors, species, edge_index, table, result.basis});
    ctx->saved_data["spacing"] = spacing;
    ctx->saved_data["start"] = start;
    ctx->saved_data["count"] = count;
    ctx->saved_data["n_core"] = n_core;
    ctx->saved_data["many_range"] = many_range;
    ctx->saved_data["products"] = products;
    ctx->saved_data["weights"] = weights;
    return result.energies;
  }

  template <typename T>
  static void run(torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& saved,
                  const Tensor& incoming, Tensor& gradient) {
    const Model<T> model(saved[3], ctx->saved_data["spacing"].toDouble(), ctx->saved_data["start"].toIntVector(),
                         ctx->saved_data["count"].toIntVector(), ctx->saved_data["n_core"].toInt(),
                         ctx->saved_data["many_range"].toDouble(), ctx->saved_data["products"].toTensorVector(),
                         ctx->saved_data["weights"].toTensorVector());
    const Sites sites(saved[1], saved[2], model.n_species);
    backward_kernel(model, sites, saved[1], saved[2], saved[0], saved[4], incoming, gradient);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list incoming) {
    TORCH_CHECK(!at::GradMode::is_enabled() || !incoming[0].requires_grad(),
                "halberd: the compiled ACE operator is differentiable once; set HALBERD_ACE=torch for more");
    const auto saved = ctx->get_saved_variables();
    const Tensor g = incoming[0].contiguous();
    Tensor gradient = at::zeros_like(saved[0]);
    if (saved[0].scalar_type() == at::kDouble) {
      run<double>(ctx, saved, g, gradient);
    } else {
      run<float>(ctx, saved, g, gradient);
    }
    torch::autograd::variable_list gradients(11);
    gradients[0] = gradient;
    return gradients;
  }
};

Tensor ace_sites_autograd(const Tensor& species, const Tensor& edge_index, const Tensor& vectors, const Tensor& table,
                          double spacing, at::IntArrayRef start, at::IntArrayRef count, int64_t n_core,
                          double many_range, at::TensorList products, at::TensorList weights) {
  return AceSites::apply(vectors.contiguous(), species.contiguous(), edge_index.contiguous(), table.contiguous(),
                         spacing, start.vec(), count.vec(), n_core, many_range, products.vec(), weights.vec());
}

Tensor ace_sites_cpu(const Tensor& species, const Tensor& edge_index, const Tensor& vectors, const Tensor& table,
                     double spacing, at::IntArrayRef start, at::IntArrayRef count, int64_t n_core, double many_range,
                     at::TensorList products, at::TensorList weights) {
  return evaluate(species.contiguous(), edge_index.contiguous(), vectors.contiguous(), table.contiguous(), spacing,
                  start, count, n_core, many_range, products.vec(), weights.vec())
      .energies;
}

// Not differentiable.
void ace_design_rows_cpu(const Tensor& slopes, const Tensor& pointers, const Tensor& entries, const Tensor& gradients,
                         const Tensor& first, const Tensor& edges, const Tensor& atom, const Tensor& frame,
                         const Tensor& neighbour, const Tensor& vectors, Tensor& forces, Tensor& virial) {
  design::add_rows(slopes, pointers, entries, gradients, first, edges, atom, frame, neighbour, vectors, forces, virial);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(halberd, m) {
  m.def(
      "ace_sites(Tensor species, Tensor edge_index, Tensor edge_vectors, Tensor table, float spacing, int[] start, "
      "int[] count, int n_core, float many_range, Tensor[] products, Tensor[] weights) -> Tensor");
  m.def(
      "ace_products(Tensor species, Tensor edge_index, Tensor edge_vectors, Tensor table, float spacing, int[] start, "
      "int[] count, int n_core, float many_range, Tensor[] products, Tensor[] weights) -> Tensor");
  m.def(
      "ace_design_rows(Tensor slopes, Tensor pointers, Tensor entries, Tensor gradients, Tensor first, Tensor edges, "
      "Tensor atom, Tensor frame, Tensor neighbour, Tensor vectors, Tensor(a!) forces, Tensor(b!) virial) -> ()");
}

TORCH_LIBRARY_IMPL(halberd, CPU, m) {
  m.impl("ace_sites", ace_sites_cpu);
  m.impl("ace_products", ace_products_cpu);
  m.impl("ace_design_rows", ace_design_rows_cpu);
}
TORCH_LIBRARY_IMPL(halberd, AutogradCPU, m) { m.impl("ace_sites", ace_sites_autograd); }
