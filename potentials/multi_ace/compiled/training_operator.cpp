// What a training calls on a CPU: halberd::summed_messages and halberd::weighted_products, differentiable twice.

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <vector>

#include "edge_order.hpp"
#include "training_messages.hpp"
#include "training_products.hpp"

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void twice(const variable_list& incoming) {
  for (const Tensor& each : incoming)
    TORCH_CHECK(!each.defined() || !at::GradMode::is_enabled() || !each.requires_grad(),
                "halberd: the operators of a training are differentiable twice; set HALBERD_MULTI_ACE_TRAINING=torch for "
                "more");
}

Tensor or_zeros(const Tensor& given, const Tensor& like) {
  return given.defined() ? given.contiguous() : at::zeros_like(like);
}

// -- messages --------------------------------------------------------------------------------------------------------

// Everything but what is differentiated: edges, which of them have their weights from which row, their order, the tables
// of paths and couplings, numbers of outputs.
struct MessageTables {
  Tensor edges, rows, firsts, centre_start, centre_edges, neighbour_start, neighbour_edges, paths, triples, values;
  int64_t n_outputs;

  template <typename T>
  Neighbourhood<T> at(const Tensor& x, const Tensor& y, const Tensor& w) const {
    return {edges.data_ptr<int64_t>(), edges.data_ptr<int64_t>() + edges.size(1), rows.data_ptr<int64_t>(),
            firsts.data_ptr<int64_t>(), x.size(0), x.size(1), y.size(1), w.size(1), n_outputs};
  }
  Order by_centre() const { return {centre_start.data_ptr<int64_t>(), centre_edges.data_ptr<int64_t>()}; }
  Order by_neighbour() const { return {neighbour_start.data_ptr<int64_t>(), neighbour_edges.data_ptr<int64_t>()}; }

  variable_list tensors() const {
    return {edges, rows, firsts, centre_start, centre_edges, neighbour_start, neighbour_edges, paths, triples, values};
  }
  static MessageTables from(const variable_list& s, size_t first, int64_t n_outputs) {
    return {s[first],     s[first + 1], s[first + 2], s[first + 3], s[first + 4], s[first + 5],
            s[first + 6], s[first + 7], s[first + 8], s[first + 9], n_outputs};
  }
};

template <typename T>
Operands<T> operands(const Tensor& x, const Tensor& y, const Tensor& w) {
  return {x.data_ptr<T>(), y.data_ptr<T>(), w.data_ptr<T>()};
}

Tensor run_sums(const MessageTables& tables, const variable_list& given, const variable_list& moved) {
  const Tensor out = at::empty({given[0].size(0), tables.n_outputs}, given[0].options());
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "halberd_sums", [&] {
    const Coupled<scalar_t> op(tables.paths, tables.triples, tables.values);
    const auto at = tables.at<scalar_t>(given[0], given[1], given[2]);
    const auto own = operands<scalar_t>(given[0], given[1], given[2]);
    if (moved.empty())
      sums<scalar_t, false>(op, at, tables.by_centre(), own, {}, out.data_ptr<scalar_t>());
    else
      sums<scalar_t, true>(op, at, tables.by_centre(), own, operands<scalar_t>(moved[0], moved[1], moved[2]),
                           out.data_ptr<scalar_t>());
  });
  return out;
}

variable_list run_gradients(const MessageTables& tables, const variable_list& given, const variable_list& moved,
                            const Tensor& incoming) {
  // Every edge has a neighbour, and every weight a path: all is written, of weights by the first edge that has them. What
  // the second one has to say goes elsewhere, so that it does not matter which of them comes first.
  const variable_list found{at::empty_like(given[0]), at::empty_like(given[1]), at::empty_like(given[2])};
  const int64_t n_rows = given[2].size(0), n_edges = given[1].size(0);
  const Tensor second = n_edges == n_rows       ? at::empty({0}, given[2].options())
                        : n_edges == 2 * n_rows ? at::empty_like(given[2])
                                                : at::zeros_like(given[2]);
  AT_DISPATCH_FLOATING_TYPES(incoming.scalar_type(), "halberd_gradients", [&] {
    const Coupled<scalar_t> op(tables.paths, tables.triples, tables.values);
    const auto at = tables.at<scalar_t>(given[0], given[1], given[2]);
    const auto own = operands<scalar_t>(given[0], given[1], given[2]);
    const Found<scalar_t> into{found[0].data_ptr<scalar_t>(), found[1].data_ptr<scalar_t>(),
                               found[2].data_ptr<scalar_t>(), second.data_ptr<scalar_t>()};
    const scalar_t* g = incoming.data_ptr<scalar_t>();
    if (moved.empty())
      gradients<scalar_t, false>(op, at, tables.by_neighbour(), own, {}, g, into);
    else
      gradients<scalar_t, true>(op, at, tables.by_neighbour(), own,
                                operands<scalar_t>(moved[0], moved[1], moved[2]), g, into);
  });
  if (n_edges != n_rows) found[2].add_(second);
  return found;
}

// Gradients of features, harmonics and weights; its own gradient is what both of the above say along tangents.
class MessageGradients : public torch::autograd::Function<MessageGradients> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& y, const Tensor& w, const Tensor& g,
                               variable_list tables, int64_t n_outputs) {
    at::AutoDispatchBelowADInplaceOrView guard;
    variable_list saved{x, y, w, g};
    saved.insert(saved.end(), tables.begin(), tables.end());
    ctx->save_for_backward(saved);
    ctx->saved_data["n_outputs"] = n_outputs;
    return run_gradients(MessageTables::from(tables, 0, n_outputs), {x, y, w}, {}, g);
  }

  static variable_list backward(AutogradContext* ctx, variable_list incoming) {
    twice(incoming);
    const auto s = ctx->get_saved_variables();
    const MessageTables tables = MessageTables::from(s, 4, ctx->saved_data["n_outputs"].toInt());
    const variable_list given{s[0], s[1], s[2]};
    const variable_list moved{or_zeros(incoming[0], s[0]), or_zeros(incoming[1], s[1]), or_zeros(incoming[2], s[2])};
    variable_list found = run_gradients(tables, given, moved, s[3]);
    found.push_back(run_sums(tables, given, moved));
    for (size_t n = 4; n < s.size() + 1; ++n) found.emplace_back();
    return found;
  }
};

class SummedMessages : public torch::autograd::Function<SummedMessages> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& y, const Tensor& w, variable_list tables,
                        int64_t n_outputs) {
    at::AutoDispatchBelowADInplaceOrView guard;
    variable_list saved{x, y, w};
    saved.insert(saved.end(), tables.begin(), tables.end());
    ctx->save_for_backward(saved);
    ctx->saved_data["n_outputs"] = n_outputs;
    return run_sums(MessageTables::from(tables, 0, n_outputs), {x, y, w}, {});
  }

  static variable_list backward(AutogradContext* ctx, variable_list incoming) {
    const auto s = ctx->get_saved_variables();
    const variable_list tables(s.begin() + 3, s.end());
    variable_list found = MessageGradients::apply(s[0], s[1], s[2], incoming[0].contiguous(), tables,
                                                  ctx->saved_data["n_outputs"].toInt());
    for (size_t n = 0; n < tables.size() + 1; ++n) found.emplace_back();
    return found;
  }
};

Tensor summed_messages(const Tensor& x, const Tensor& y, const Tensor& w, const Tensor& edges, at::TensorList pairs,
                       at::TensorList order, const Tensor& paths, const Tensor& triples, const Tensor& values,
                       int64_t n_outputs) {
  TORCH_CHECK(x.scalar_type() == y.scalar_type() && y.scalar_type() == w.scalar_type(),
              "halberd: features, harmonics and radial weights differ in precision");
  TORCH_CHECK(order.size() == 4 && pairs.size() == 2 && y.size(1) <= MAX_LM,
              "halberd: messages of a training go up to degree ", MAX_L);
  const auto path = paths.accessor<int64_t, 2>();
  int64_t n_weights = 0;
  for (int64_t n = 0; n < paths.size(0); ++n) n_weights += path[n][1];  // its channels
  TORCH_CHECK(n_weights == w.size(1) && pairs[0].size(0) == w.size(0) && pairs[1].size(0) == y.size(0),
              "halberd: radial weights do not fit paths or edges");
  const MessageTables tables{edges.contiguous(), pairs[1], pairs[0], order[0], order[1], order[2], order[3], paths,
                             triples, values, n_outputs};
  return SummedMessages::apply(x.contiguous(), y.contiguous(), w.contiguous(), tables.tensors(), n_outputs);
}

// Of as many atoms as there are species: a number would be a constant to whoever records the call.
std::vector<Tensor> edges_by_ends(const Tensor& edge_index, const Tensor& species) {
  const Tensor edges = edge_index.contiguous();
  const int64_t n_atoms = species.size(0);
  const auto centres = by_end(edges[0], n_atoms), neighbours = by_end(edges[1], n_atoms);
  return {centres.first, centres.second, neighbours.first, neighbours.second};
}

// Edges that have the same distance since they are each other's reverse: the first of two, and the row of the first that
// every edge has in common with its reverse. An edge without one is alone.
std::vector<Tensor> reversed_edges(const Tensor& edge_index, const Tensor& edge_vectors, at::TensorList order) {
  TORCH_CHECK(order.size() == 4, "halberd: edges are to be ordered by their ends");
  const Tensor edges = edge_index.contiguous(), vectors = edge_vectors.contiguous();
  const int64_t n_edges = edges.size(1);
  const int64_t *centre = edges.data_ptr<int64_t>(), *neighbour = centre + n_edges;
  const int64_t *start = order[0].data_ptr<int64_t>(), *by_centre = order[1].data_ptr<int64_t>();
  Tensor rows = at::full({n_edges}, -1, edges.options());
  int64_t* row = rows.data_ptr<int64_t>();
  std::vector<int64_t> first;
  AT_DISPATCH_FLOATING_TYPES(vectors.scalar_type(), "halberd_reversed_edges", [&] {
    const scalar_t* v = vectors.data_ptr<scalar_t>();
    for (int64_t e = 0; e < n_edges; ++e) {
      if (row[e] >= 0) continue;
      row[e] = int64_t(first.size());
      first.push_back(e);
      const int64_t j = neighbour[e];
      for (int64_t n = start[j]; n < start[j + 1]; ++n) {
        const int64_t f = by_centre[n];
        if (row[f] >= 0 || neighbour[f] != centre[e]) continue;
        if (v[3 * f] != -v[3 * e] || v[3 * f + 1] != -v[3 * e + 1] || v[3 * f + 2] != -v[3 * e + 2]) continue;
        row[f] = row[e];
        break;
      }
    }
  });
  return {at::tensor(first, edges.options()), rows};
}

// -- products --------------------------------------------------------------------------------------------------------

class ProductGradients : public torch::autograd::Function<ProductGradients> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& weights, const Tensor& g,
                               const Tensor& species, const Tensor& nodes, const Tensor& entries, int64_t n_rows) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({x, weights, g, species, nodes, entries});
    ctx->saved_data["n_rows"] = n_rows;
    const variable_list found{at::empty_like(x), at::zeros_like(weights)};
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "halberd_product_gradients", [&] {
      gradients_of_products<scalar_t>(Polynomial<scalar_t>(x, nodes, entries, weights, n_rows),
                                      species.data_ptr<int64_t>(), x.size(0), x.data_ptr<scalar_t>(),
                                      g.data_ptr<scalar_t>(), found[0].data_ptr<scalar_t>(),
                                      found[1].data_ptr<scalar_t>());
    });
    return found;
  }

  static variable_list backward(AutogradContext* ctx, variable_list incoming) {
    twice(incoming);
    const auto s = ctx->get_saved_variables();
    TORCH_CHECK(!incoming[1].defined() || !incoming[1].any().item<bool>(),
                "halberd: gradients of product weights are not differentiated further");
    const Tensor &x = s[0], &weights = s[1], &g = s[2], &species = s[3], &nodes = s[4], &entries = s[5];
    const Tensor moved_x = or_zeros(incoming[0], x);
    const int64_t n_rows = ctx->saved_data["n_rows"].toInt();
    variable_list found{at::empty_like(x), at::zeros_like(weights), at::empty_like(g)};
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "halberd_product_tangents", [&] {
      tangents_of_products<scalar_t>(Polynomial<scalar_t>(x, nodes, entries, weights, n_rows),
                                     species.data_ptr<int64_t>(), x.size(0), x.data_ptr<scalar_t>(),
                                     moved_x.data_ptr<scalar_t>(), g.data_ptr<scalar_t>(),
                                     found[2].data_ptr<scalar_t>(), found[0].data_ptr<scalar_t>(),
                                     found[1].data_ptr<scalar_t>());
    });
    for (size_t n = 0; n < 4; ++n) found.emplace_back();
    return found;
  }
};

class WeightedProducts : public torch::autograd::Function<WeightedProducts> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weights, const Tensor& species,
                        const Tensor& nodes, const Tensor& entries, int64_t n_rows) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({x, weights, species, nodes, entries});
    ctx->saved_data["n_rows"] = n_rows;
    Tensor out = at::empty({x.size(0), n_rows, x.size(2)}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "halberd_weighted_products", [&] {
      products_forward<scalar_t>(Polynomial<scalar_t>(x, nodes, entries, weights, n_rows), species.data_ptr<int64_t>(),
                                 x.size(0), x.data_ptr<scalar_t>(), out.data_ptr<scalar_t>());
    });
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list incoming) {
    const auto s = ctx->get_saved_variables();
    variable_list found = ProductGradients::apply(s[0], s[1], incoming[0].contiguous(), s[2], s[3], s[4],
                                                  ctx->saved_data["n_rows"].toInt());
    for (size_t n = 0; n < 4; ++n) found.emplace_back();
    return found;
  }
};

Tensor weighted_products(const Tensor& x, const Tensor& weights, const Tensor& species, const Tensor& nodes,
                         const Tensor& entries, int64_t n_rows) {
  TORCH_CHECK(x.dim() == 3 && weights.dim() == 3 && x.size(2) == weights.size(2) && entries.size(0) == weights.size(1) &&
                  x.scalar_type() == weights.scalar_type(),
              "halberd: products of a training were given features or weights of another shape or precision");
  return WeightedProducts::apply(x.contiguous(), weights.contiguous(), species.contiguous(), nodes, entries, n_rows);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(halberd, m) {
  m.def("edges_by_ends(Tensor edge_index, Tensor species) -> Tensor[]", edges_by_ends);
  m.def("reversed_edges(Tensor edge_index, Tensor edge_vectors, Tensor[] order) -> Tensor[]", reversed_edges);
  m.def(
      "summed_messages(Tensor features, Tensor harmonics, Tensor weights, Tensor edge_index, Tensor[] pairs, "
      "Tensor[] order, Tensor paths, Tensor triples, Tensor values, int n_outputs) -> Tensor",
      summed_messages);
  m.def(
      "weighted_products(Tensor features, Tensor weights, Tensor species, Tensor nodes, Tensor entries, int n_rows) -> "
      "Tensor",
      weighted_products);
}
