// Messages of a network of the family: the torch operators halberd::messages and halberd::products.
//
// What follows is for the CPU; on a GPU, kernels that were compiled at run time do the same (on_kernels.hpp).
//
// Edges are read once per layer and nothing is kept of them: harmonics and radial weights are computed where they are
// used, in the backward pass again. Channels are innermost in every loop. A thread owns the atoms that it sums for, and
// the backward pass walks edges by centre for gradients of edges and by neighbour for gradients of features, so that
// nothing depends on the number of threads.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "harmonics.hpp"
#include "on_kernels.hpp"

namespace {

using at::Tensor;
constexpr int MAX_M = 2 * MAX_L + 1;

// One way of coupling features of a neighbour with harmonics, and where its numbers are.
struct Path {
  int64_t source, channels, rows, edge_degree, target, stride, target_rows, weight, first, last;
};

struct Triple {
  int m1, m2, m3;
  double value;
};

// Everything that does not change between calls.
template <typename T>
struct Convolution {
  std::vector<Path> paths;
  std::vector<Triple> triples;
  const T* table;
  const int64_t* pair;
  int64_t n_species, n_intervals, n_weights, n_outputs;
  double spacing;
  Harmonics harmonics;

  Convolution(const Tensor& path_table, const Tensor& triple_table, const Tensor& values, const Tensor& splines,
              const Tensor& pairs, double spacing_, int64_t n_outputs_, int64_t max_ell)
      : table(splines.data_ptr<T>()), pair(pairs.data_ptr<int64_t>()), n_species(pairs.size(0)),
        n_intervals(splines.size(1)), n_weights(splines.size(3)), n_outputs(n_outputs_), spacing(spacing_),
        harmonics(int(max_ell)) {
    const auto p = path_table.accessor<int64_t, 2>();
    for (int64_t n = 0; n < p.size(0); ++n)
      paths.push_back({p[n][0], p[n][1], p[n][2], p[n][3], p[n][4], p[n][5], p[n][6], p[n][7], p[n][8], p[n][9]});
    const auto t = triple_table.accessor<int64_t, 2>();
    const auto v = values.accessor<double, 1>();
    for (int64_t n = 0; n < t.size(0); ++n) triples.push_back({int(t[n][0]), int(t[n][1]), int(t[n][2]), v[n]});
  }

  int64_t most_channels() const {
    int64_t most = 0;
    for (const Path& path : paths) most = std::max(most, path.channels);
    return most;
  }

  // Radial weights, and their slopes, of one edge: polynomials of degree 5 in every interval of the distance.
  template <bool SLOPE>
  void radial(int64_t kind, double r, T* weights, T* slopes) const {
    const double x = r / spacing;
    const int64_t interval = std::min(int64_t(x), n_intervals - 1);
    const T t = T(x - interval);
    const T* c0 = table + (kind * n_intervals + interval) * 6 * n_weights;
    const T *c1 = c0 + n_weights, *c2 = c1 + n_weights, *c3 = c2 + n_weights, *c4 = c3 + n_weights,
            *c5 = c4 + n_weights;
    for (int64_t w = 0; w < n_weights; ++w)
      weights[w] = c0[w] + t * (c1[w] + t * (c2[w] + t * (c3[w] + t * (c4[w] + t * c5[w]))));
    if (SLOPE) {
      const T h = T(1 / spacing);
      for (int64_t w = 0; w < n_weights; ++w)
        slopes[w] = h * (c1[w] + t * (2 * c2[w] + t * (3 * c3[w] + t * (4 * c4[w] + t * 5 * c5[w]))));
    }
  }

  // Couplings of a path with the harmonics of one edge: rows of features to rows of what comes out.
  void coupled(const Path& path, const T* y, T* b) const {
    std::fill_n(b, path.rows * path.target_rows, T(0));
    const int64_t low = path.edge_degree * path.edge_degree;
    for (int64_t n = path.first; n < path.last; ++n) {
      const Triple& t = triples[n];
      b[t.m1 * path.target_rows + t.m3] += T(t.value) * y[low + t.m2];
    }
  }
};

// Edges by one of their ends: where those of every atom begin in a list of their numbers.
struct Order {
  const int64_t *start, *edge;
};

std::pair<Tensor, Tensor> by_end(const Tensor& end, int64_t n_atoms) {
  if (end.is_cuda()) {
    const auto sorted = at::sort(end.to(at::kInt), /*stable=*/true, /*dim=*/0, /*descending=*/false);
    const Tensor atoms = at::arange(n_atoms + 1, end.options().dtype(at::kInt));
    return {at::searchsorted(std::get<0>(sorted), atoms), std::get<1>(sorted)};
  }
  const int64_t n_edges = end.size(0);
  Tensor starts = at::zeros({n_atoms + 1}, end.options()), edges = at::empty({n_edges}, end.options());
  const int64_t* atom = end.data_ptr<int64_t>();
  int64_t *start = starts.data_ptr<int64_t>(), *edge = edges.data_ptr<int64_t>();
  for (int64_t e = 0; e < n_edges; ++e) ++start[atom[e] + 1];
  for (int64_t i = 0; i < n_atoms; ++i) start[i + 1] += start[i];
  std::vector<int64_t> next(start, start + n_atoms);
  for (int64_t e = 0; e < n_edges; ++e) edge[next[atom[e]]++] = e;
  return {starts, edges};
}

// For messages: edges by their centres, then by their neighbours.
std::vector<Tensor> edge_order(const Tensor& edge_index, const Tensor& species) {
  const Tensor edges = edge_index.contiguous();
  const auto centres = by_end(edges[0], species.size(0)), neighbours = by_end(edges[1], species.size(0));
  return {centres.first, centres.second, neighbours.first, neighbours.second};
}

template <typename T>
struct Geometry {
  T u[3], inverse_r;
  double r;
  explicit Geometry(const T* v, double sign) {
    r = std::sqrt(double(v[0]) * v[0] + double(v[1]) * v[1] + double(v[2]) * v[2]);
    inverse_r = T(1 / r);
    for (int c = 0; c < 3; ++c) u[c] = T(sign) * v[c] * inverse_r;
  }
};

template <typename T>
void forward_kernel(const Convolution<T>& op, const Order& order, const int64_t* species, const int64_t* edges,
                    int64_t n_edges, int64_t n_atoms, const T* vectors, const T* features, int64_t width, double sign, T* out) {
  const int64_t* neighbour = edges + n_edges;
  at::parallel_for(0, n_atoms, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> weights(op.n_weights);
    T y[MAX_LM], b[MAX_M * MAX_M];
    for (int64_t i = begin; i < end; ++i) {
      T* mine = out + i * op.n_outputs;
      std::fill_n(mine, op.n_outputs, T(0));
      for (int64_t n = order.start[i]; n < order.start[i + 1]; ++n) {
        const int64_t e = order.edge[n], j = neighbour[e];
        const Geometry<T> g(vectors + 3 * e, sign);
        op.harmonics.template evaluate<false, T>(g.u, g.inverse_r, y, nullptr, nullptr, nullptr);
        op.template radial<false>(op.pair[species[i] * op.n_species + species[j]], g.r, weights.data(), nullptr);
        const T* x = features + j * width;
        for (const Path& path : op.paths) {
          op.coupled(path, y, b);
          const int64_t k_max = path.channels;
          const T* w = weights.data() + path.weight;
          for (int64_t m3 = 0; m3 < path.target_rows; ++m3) {
            T* target = mine + path.target + m3 * path.stride;
            for (int64_t m1 = 0; m1 < path.rows; ++m1) {
              const T f = b[m1 * path.target_rows + m3];
              const T* row = x + path.source + m1 * k_max;
              if (f != T(0))
                for (int64_t k = 0; k < k_max; ++k) target[k] += f * w[k] * row[k];
            }
          }
        }
      }
    }
  });
}

template <typename T>
void edge_gradients(const Convolution<T>& op, const Order& order, const int64_t* species, const int64_t* edges,
                    int64_t n_edges, int64_t n_atoms, const T* vectors, const T* features, int64_t width, double sign,
                    const T* incoming, T* gradient) {
  const int64_t* neighbour = edges + n_edges;
  const int n_lm = (op.harmonics.l_max + 1) * (op.harmonics.l_max + 1);
  at::parallel_for(0, n_atoms, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> weights(op.n_weights), slopes(op.n_weights), scratch(2 * op.most_channels());
    T y[MAX_LM], dx[MAX_LM], dy[MAX_LM], dz[MAX_LM], of_y[MAX_LM], b[MAX_M * MAX_M], of_b[MAX_M * MAX_M];
    for (int64_t i = begin; i < end; ++i) {
      const T* given = incoming + i * op.n_outputs;
      for (int64_t n = order.start[i]; n < order.start[i + 1]; ++n) {
        const int64_t e = order.edge[n], j = neighbour[e];
        const Geometry<T> g(vectors + 3 * e, sign);
        op.harmonics.template evaluate<true, T>(g.u, g.inverse_r, y, dx, dy, dz);
        op.template radial<true>(op.pair[species[i] * op.n_species + species[j]], g.r, weights.data(), slopes.data());
        const T* x = features + j * width;
        std::fill_n(of_y, n_lm, T(0));
        T of_r = 0;
        for (const Path& path : op.paths) {
          op.coupled(path, y, b);
          const int64_t k_max = path.channels;
          const T *w = weights.data() + path.weight, *s = slopes.data() + path.weight;
          for (int64_t m1 = 0; m1 < path.rows; ++m1) {
            const T* row = x + path.source + m1 * k_max;
            T *weighted = scratch.data(), *back = scratch.data() + k_max;
            for (int64_t k = 0; k < k_max; ++k) {
              weighted[k] = w[k] * row[k];
              back[k] = 0;
            }
            for (int64_t m3 = 0; m3 < path.target_rows; ++m3) {
              const T* target = given + path.target + m3 * path.stride;
              const T f = b[m1 * path.target_rows + m3];
              T sum = 0;
              for (int64_t k = 0; k < k_max; ++k) {
                sum += weighted[k] * target[k];
                back[k] += f * target[k];
              }
              of_b[m1 * path.target_rows + m3] = sum;
            }
            T sum = 0;
            for (int64_t k = 0; k < k_max; ++k) sum += back[k] * s[k] * row[k];
            of_r += sum;
          }
          const int64_t low = path.edge_degree * path.edge_degree;
          for (int64_t t = path.first; t < path.last; ++t) {
            const Triple& triple = op.triples[t];
            of_y[low + triple.m2] += T(triple.value) * of_b[triple.m1 * path.target_rows + triple.m3];
          }
        }
        T total[3] = {0, 0, 0};
        for (int lm = 0; lm < n_lm; ++lm) {
          total[0] += of_y[lm] * dx[lm];
          total[1] += of_y[lm] * dy[lm];
          total[2] += of_y[lm] * dz[lm];
        }
        for (int c = 0; c < 3; ++c) gradient[3 * e + c] = T(sign) * (total[c] + of_r * g.u[c]);
      }
    }
  });
}

template <typename T>
void feature_gradients(const Convolution<T>& op, const Order& order, const int64_t* species, const int64_t* edges,
                       int64_t n_edges, int64_t n_atoms, const T* vectors, int64_t width, double sign, const T* incoming, T* gradient) {
  at::parallel_for(0, n_atoms, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> weights(op.n_weights);
    T y[MAX_LM], b[MAX_M * MAX_M];
    for (int64_t j = begin; j < end; ++j) {
      T* mine = gradient + j * width;
      std::fill_n(mine, width, T(0));
      for (int64_t n = order.start[j]; n < order.start[j + 1]; ++n) {
        const int64_t e = order.edge[n], i = edges[e];
        const Geometry<T> g(vectors + 3 * e, sign);
        op.harmonics.template evaluate<false, T>(g.u, g.inverse_r, y, nullptr, nullptr, nullptr);
        op.template radial<false>(op.pair[species[i] * op.n_species + species[j]], g.r, weights.data(), nullptr);
        const T* given = incoming + i * op.n_outputs;
        for (const Path& path : op.paths) {
          op.coupled(path, y, b);
          const int64_t k_max = path.channels;
          const T* w = weights.data() + path.weight;
          for (int64_t m3 = 0; m3 < path.target_rows; ++m3) {
            const T* target = given + path.target + m3 * path.stride;
            for (int64_t m1 = 0; m1 < path.rows; ++m1) {
              const T f = b[m1 * path.target_rows + m3];
              T* row = mine + path.source + m1 * k_max;
              if (f != T(0))
                for (int64_t k = 0; k < k_max; ++k) row[k] += f * w[k] * target[k];
            }
          }
        }
      }
    }
  });
}

void once(const Tensor& incoming) {
  TORCH_CHECK(!at::GradMode::is_enabled() || !incoming.requires_grad(),
              "halberd: the compiled operators of message passing are differentiable once; set HALBERD_MULTI_ACE=torch "
              "for more");
}

Order order_of(const Tensor& start, const Tensor& edges) {
  return {start.data_ptr<int64_t>(), edges.data_ptr<int64_t>()};
}

void run_forward(const Messages& g, const Tensor& out) {
  AT_DISPATCH_FLOATING_TYPES(g.features.scalar_type(), "halberd_messages", [&] {
    const Convolution<scalar_t> op(g.paths, g.triples, g.values, g.table, g.pair, g.spacing, g.n_outputs, g.max_ell);
    forward_kernel<scalar_t>(op, order_of(g.centre_start, g.centre_edges), g.species.data_ptr<int64_t>(),
                             g.edges.data_ptr<int64_t>(), g.edges.size(1), g.features.size(0),
                             g.vectors.data_ptr<scalar_t>(), g.features.data_ptr<scalar_t>(), g.features.size(1),
                             g.sign, out.data_ptr<scalar_t>());
  });
}

void run_backward(const Messages& g, const Tensor& given, const Tensor& of_vectors, const Tensor& of_features) {
  AT_DISPATCH_FLOATING_TYPES(g.features.scalar_type(), "halberd_messages_backward", [&] {
    const Convolution<scalar_t> op(g.paths, g.triples, g.values, g.table, g.pair, g.spacing, g.n_outputs, g.max_ell);
    const int64_t n_edges = g.edges.size(1), n_atoms = g.features.size(0), width = g.features.size(1);
    const int64_t *species = g.species.data_ptr<int64_t>(), *edges = g.edges.data_ptr<int64_t>();
    const scalar_t *vectors = g.vectors.data_ptr<scalar_t>(), *incoming = given.data_ptr<scalar_t>();
    edge_gradients<scalar_t>(op, order_of(g.centre_start, g.centre_edges), species, edges, n_edges, n_atoms, vectors,
                             g.features.data_ptr<scalar_t>(), width, g.sign, incoming, of_vectors.data_ptr<scalar_t>());
    if (of_features.defined())
      feature_gradients<scalar_t>(op, order_of(g.neighbour_start, g.neighbour_edges), species, edges, n_edges, n_atoms,
                                  vectors, width, g.sign, incoming, of_features.data_ptr<scalar_t>());
  });
}

class MessagesFunction : public torch::autograd::Function<MessagesFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& features, const Tensor& vectors,
                        const Tensor& species, const Tensor& edges, const Tensor& centre_start,
                        const Tensor& centre_edges, const Tensor& neighbour_start, const Tensor& neighbour_edges,
                        const Tensor& paths, const Tensor& triples, const Tensor& values, const Tensor& table,
                        const Tensor& pair, double spacing, double sign, int64_t n_outputs, int64_t max_ell,
                        const std::string& kernels, const std::vector<int64_t>& launch) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const Messages g{features, vectors, species, edges, centre_start, centre_edges, neighbour_start, neighbour_edges,
                     paths, triples, values, table, pair, spacing, sign, n_outputs, max_ell, kernels, launch};
    Tensor out = at::empty({features.size(0), n_outputs}, features.options());
    Embedded embedded;
    if (on_kernels(kernels, features))
      embedded = forward_on_kernels(g, out);
    else
      run_forward(g, out);
    ctx->save_for_backward({features, vectors, species, edges, centre_start, centre_edges, neighbour_start,
                            neighbour_edges, paths, triples, values, table, pair, embedded.harmonics, embedded.row,
                            embedded.place});
    ctx->saved_data["spacing"] = spacing;
    ctx->saved_data["sign"] = sign;
    ctx->saved_data["n_outputs"] = n_outputs;
    ctx->saved_data["max_ell"] = max_ell;
    ctx->saved_data["kernels"] = kernels;
    ctx->saved_data["launch"] = launch;
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list incoming) {
    once(incoming[0]);
    const auto s = ctx->get_saved_variables();
    const Messages g{s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12],
                     ctx->saved_data["spacing"].toDouble(), ctx->saved_data["sign"].toDouble(),
                     ctx->saved_data["n_outputs"].toInt(), ctx->saved_data["max_ell"].toInt(),
                     ctx->saved_data["kernels"].toStringRef(), ctx->saved_data["launch"].toIntVector()};
    const Tensor given = incoming[0].contiguous();
    Tensor of_vectors = at::zeros_like(g.vectors), of_features;
    if (ctx->needs_input_grad(0)) of_features = at::zeros_like(g.features);
    if (on_kernels(g.kernels, g.features))
      backward_on_kernels(g, {s[13], s[14], s[15]}, given, of_vectors, of_features);
    else
      run_backward(g, given, of_vectors, of_features);
    torch::autograd::variable_list gradients(19);
    gradients[0] = of_features;
    gradients[1] = of_vectors;
    return gradients;
  }
};

// Products: nodes after the components of A are products of two earlier nodes; entries weigh nodes into outputs.
constexpr int TILE = 16;

template <typename T>
struct Polynomial {  // a sum of weighted products
  const int64_t *nodes, *entries;
  const T* weights;
  int64_t n_components, n_nodes, n_entries, n_rows, channels;
};

template <typename T>
void fill_nodes(const Polynomial<T>& p, const T* x, int64_t from, int64_t size, T* v) {
  for (int64_t m = 0; m < p.n_components; ++m)
    for (int64_t k = 0; k < TILE; ++k) v[m * TILE + k] = k < size ? x[m * p.channels + from + k] : T(0);
  for (int64_t n = 0; n < p.n_nodes; ++n) {
    const T *a = v + p.nodes[2 * n] * TILE, *b = v + p.nodes[2 * n + 1] * TILE;
    T* own = v + (p.n_components + n) * TILE;
    for (int k = 0; k < TILE; ++k) own[k] = a[k] * b[k];
  }
}

template <typename T>
void products_forward(const Polynomial<T>& p, const int64_t* species, int64_t n_atoms, bool by_species, const T* x,
                      T* out) {
  at::parallel_for(0, n_atoms, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> v((p.n_components + p.n_nodes) * TILE), sums(p.n_rows * TILE);
    for (int64_t i = begin; i < end; ++i) {
      const T* weights = p.weights + (by_species ? species[i] : 0) * p.n_entries * p.channels;
      for (int64_t from = 0; from < p.channels; from += TILE) {
        const int64_t size = std::min<int64_t>(TILE, p.channels - from);
        fill_nodes(p, x + i * p.n_components * p.channels, from, size, v.data());
        std::fill(sums.begin(), sums.end(), T(0));
        for (int64_t n = 0; n < p.n_entries; ++n) {
          const T *node = v.data() + p.entries[2 * n] * TILE, *w = weights + n * p.channels + from;
          T* sum = sums.data() + p.entries[2 * n + 1] * TILE;
          if (size == TILE)
            for (int k = 0; k < TILE; ++k) sum[k] += w[k] * node[k];
          else
            for (int64_t k = 0; k < size; ++k) sum[k] += w[k] * node[k];
        }
        for (int64_t m = 0; m < p.n_rows; ++m)
          for (int64_t k = 0; k < size; ++k) out[(i * p.n_rows + m) * p.channels + from + k] = sums[m * TILE + k];
      }
    }
  });
}

template <typename T>
void products_backward(const Polynomial<T>& p, const int64_t* species, int64_t n_atoms, bool by_species, const T* x,
                       const T* incoming, T* gradient) {
  at::parallel_for(0, n_atoms, 1, [&](int64_t begin, int64_t end) {
    const int64_t total = p.n_components + p.n_nodes;
    std::vector<T> v(total * TILE), of_v(total * TILE), given(p.n_rows * TILE);
    for (int64_t i = begin; i < end; ++i) {
      const T* weights = p.weights + (by_species ? species[i] : 0) * p.n_entries * p.channels;
      for (int64_t from = 0; from < p.channels; from += TILE) {
        const int64_t size = std::min<int64_t>(TILE, p.channels - from);
        fill_nodes(p, x + i * p.n_components * p.channels, from, size, v.data());
        for (int64_t m = 0; m < p.n_rows; ++m)
          for (int64_t k = 0; k < TILE; ++k)
            given[m * TILE + k] = k < size ? incoming[(i * p.n_rows + m) * p.channels + from + k] : T(0);
        std::fill(of_v.begin(), of_v.end(), T(0));
        for (int64_t n = 0; n < p.n_entries; ++n) {
          const T *w = weights + n * p.channels + from, *g = given.data() + p.entries[2 * n + 1] * TILE;
          T* own = of_v.data() + p.entries[2 * n] * TILE;
          if (size == TILE)
            for (int k = 0; k < TILE; ++k) own[k] += w[k] * g[k];
          else
            for (int64_t k = 0; k < size; ++k) own[k] += w[k] * g[k];
        }
        for (int64_t n = p.n_nodes - 1; n >= 0; --n) {
          const int64_t a = p.nodes[2 * n] * TILE, b = p.nodes[2 * n + 1] * TILE, own = (p.n_components + n) * TILE;
          for (int k = 0; k < TILE; ++k) {
            const T g = of_v[own + k];
            of_v[a + k] += g * v[b + k];
            of_v[b + k] += g * v[a + k];
          }
        }
        for (int64_t m = 0; m < p.n_components; ++m)
          for (int64_t k = 0; k < size; ++k)
            gradient[(i * p.n_components + m) * p.channels + from + k] = of_v[m * TILE + k];
      }
    }
  });
}

template <typename T>
Polynomial<T> polynomial(const Tensor& x, const Tensor& nodes, const Tensor& entries, const Tensor& weights,
                         int64_t n_rows) {
  return {nodes.data_ptr<int64_t>(), entries.data_ptr<int64_t>(), weights.data_ptr<T>(), x.size(1), nodes.size(0),
          entries.size(0), n_rows, x.size(2)};
}

class Products : public torch::autograd::Function<Products> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x, const Tensor& species,
                        const Tensor& nodes, const Tensor& entries, const Tensor& weights, int64_t n_rows,
                        const std::string& kernels) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({x, species, nodes, entries, weights});
    ctx->saved_data["n_rows"] = n_rows;
    ctx->saved_data["kernels"] = kernels;
    Tensor out = at::empty({x.size(0), n_rows, x.size(2)}, x.options());
    if (on_kernels(kernels, x)) {
      products_on_kernels(kernels, x, species, weights, out);
      return out;
    }
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "halberd_products", [&] {
      products_forward<scalar_t>(polynomial<scalar_t>(x, nodes, entries, weights, n_rows), species.data_ptr<int64_t>(),
                                 x.size(0), weights.size(0) > 1, x.data_ptr<scalar_t>(), out.data_ptr<scalar_t>());
    });
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list incoming) {
    once(incoming[0]);
    const auto s = ctx->get_saved_variables();
    const Tensor given = incoming[0].contiguous();
    Tensor gradient = at::empty_like(s[0]);
    const std::string kernels = ctx->saved_data["kernels"].toStringRef();
    if (on_kernels(kernels, s[0]))
      of_products_on_kernels(kernels, s[0], s[1], s[4], given, gradient);
    else
      AT_DISPATCH_FLOATING_TYPES(s[0].scalar_type(), "halberd_products_backward", [&] {
        products_backward<scalar_t>(
            polynomial<scalar_t>(s[0], s[2], s[3], s[4], ctx->saved_data["n_rows"].toInt()), s[1].data_ptr<int64_t>(),
            s[0].size(0), s[4].size(0) > 1, s[0].data_ptr<scalar_t>(), given.data_ptr<scalar_t>(),
            gradient.data_ptr<scalar_t>());
      });
    torch::autograd::variable_list gradients(7);
    gradients[0] = gradient;
    return gradients;
  }
};

Tensor messages(const Tensor& features, const Tensor& vectors, const Tensor& species, const Tensor& edges,
                at::TensorList order, const Tensor& paths, const Tensor& triples, const Tensor& values,
                const Tensor& table, const Tensor& pair, double spacing, double sign, int64_t n_outputs,
                int64_t max_ell, const std::string& kernels, const std::vector<int64_t>& launch) {
  TORCH_CHECK(features.scalar_type() == table.scalar_type() && vectors.scalar_type() == table.scalar_type(),
              "halberd: edge vectors and model differ in precision");
  TORCH_CHECK(max_ell <= MAX_L, "halberd: compiled messages go up to degree ", MAX_L);
  TORCH_CHECK(order.size() == 4, "halberd: messages need the order of edges by both of their ends");
  TORCH_CHECK(launch.size() == 5 && launch[3] == features.size(1) && launch[4] == table.size(3),
              "halberd: messages were given features of another shape");
  return MessagesFunction::apply(
      features.contiguous(), vectors.contiguous(), species.contiguous(), edges.contiguous(), order[0], order[1],
      order[2], order[3], paths.contiguous(), triples.contiguous(), values.contiguous(), table.contiguous(),
      pair.contiguous(), spacing, sign, n_outputs, max_ell, kernels, launch);
}

Tensor products(const Tensor& x, const Tensor& species, const Tensor& nodes, const Tensor& entries,
                const Tensor& weights, int64_t n_rows, int64_t n_components, const std::string& kernels) {
  TORCH_CHECK(x.dim() == 3 && x.size(1) == n_components && x.size(2) == weights.size(2) &&
                  x.scalar_type() == weights.scalar_type(),
              "halberd: products of ", n_components, " components were given features of another shape or precision");
  return Products::apply(x.contiguous(), species.contiguous(), nodes.contiguous(), entries.contiguous(),
                         weights.contiguous(), n_rows, kernels);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(halberd, m) {
  m.def("edge_order(Tensor edge_index, Tensor species) -> Tensor[]", edge_order);
  m.def(
      "messages(Tensor features, Tensor edge_vectors, Tensor species, Tensor edge_index, Tensor[] order, Tensor paths, "
      "Tensor triples, Tensor values, Tensor table, Tensor pair, float spacing, float sign, int n_outputs, "
      "int max_ell, str kernels, int[] launch) -> Tensor",
      messages);
  m.def(
      "products(Tensor features, Tensor species, Tensor nodes, Tensor entries, Tensor weights, int n_rows, "
      "int n_components, str kernels) -> Tensor",
      products);
  m.def("register_kernels(str key, Tensor image) -> ()", register_image);
  m.def("look_for_kernels(str folder, str ending) -> ()", look_for_kernels);
  m.def("emulate_kernels(str key, str library) -> ()", register_library);
}
