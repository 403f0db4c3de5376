// A network of the family: the torch operators halberd::messages, halberd::mix and halberd::products.
//
// On a CPU they are messages_on_cpu.hpp, mixes.hpp and products_on_cpu.hpp; on a GPU, kernels that were compiled at run
// time do the same (on_kernels.hpp), and torch's matrix products.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <vector>

#include "edge_order.hpp"
#include "messages_on_cpu.hpp"
#include "mixes.hpp"
#include "on_kernels.hpp"
#include "products_on_cpu.hpp"

namespace {

using at::Tensor;
// For messages: edges by their centres, then by their neighbours.
std::vector<Tensor> edge_order(const Tensor& edge_index, const Tensor& species) {
  const Tensor edges = edge_index.contiguous();
  const auto centres = by_end(edges[0], species.size(0)), neighbours = by_end(edges[1], species.size(0));
  return {centres.first, centres.second, neighbours.first, neighbours.second};
}

void once(const Tensor& incoming) {
  TORCH_CHECK(!at::GradMode::is_enabled() || !incoming.requires_grad(),
              "halberd: the compiled operators of message passing are differentiable once; set HALBERD_MULTI_ACE=torch "
              "for more");
}

Order order_of(const Tensor& start, const Tensor& edges) {
  return {start.data_ptr<int64_t>(), edges.data_ptr<int64_t>()};
}

template <typename T>
Evaluation<T> evaluation(const Messages& g) {
  return {g.species.data_ptr<int64_t>(), g.edges.data_ptr<int64_t>(), g.edges.size(1), g.features.size(0),
          g.vectors.data_ptr<T>(), g.features.data_ptr<T>(), g.features.size(1), g.sign};
}

void run_forward(const Messages& g, const Tensor& out) {
  AT_DISPATCH_FLOATING_TYPES(g.features.scalar_type(), "halberd_messages", [&] {
    const Convolution<scalar_t> op(g.paths, g.triples, g.values, g.table, g.pair, g.spacing, g.n_outputs, g.max_ell);
    messages_forward<scalar_t>(op, evaluation<scalar_t>(g), order_of(g.centre_start, g.centre_edges),
                               out.data_ptr<scalar_t>());
  });
}

void run_backward(const Messages& g, const Tensor& given, const Tensor& of_vectors, const Tensor& of_features) {
  AT_DISPATCH_FLOATING_TYPES(g.features.scalar_type(), "halberd_messages_backward", [&] {
    const Convolution<scalar_t> op(g.paths, g.triples, g.values, g.table, g.pair, g.spacing, g.n_outputs, g.max_ell);
    const auto edges = evaluation<scalar_t>(g);
    const scalar_t* incoming = given.data_ptr<scalar_t>();
    scalar_t* gradient = of_vectors.data_ptr<scalar_t>();
    if (of_features.defined())
      messages_backward<scalar_t, true>(op, edges, order_of(g.neighbour_start, g.neighbour_edges), incoming, gradient,
                                        of_features.data_ptr<scalar_t>());
    else
      messages_backward<scalar_t, false>(op, edges, order_of(g.centre_start, g.centre_edges), incoming, gradient,
                                         nullptr);
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
    // Kernels leave alone what no path reads.
    const bool kernels = on_kernels(g.kernels, g.features);
    Tensor of_vectors = kernels ? at::zeros_like(g.vectors) : at::empty_like(g.vectors), of_features;
    if (ctx->needs_input_grad(0)) of_features = kernels ? at::zeros_like(g.features) : at::empty_like(g.features);
    if (kernels)
      backward_on_kernels(g, {s[13], s[14], s[15]}, given, of_vectors, of_features);
    else
      run_backward(g, given, of_vectors, of_features);
    torch::autograd::variable_list gradients(19);
    gradients[0] = of_features;
    gradients[1] = of_vectors;
    return gradients;
  }
};

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
      products_forward<scalar_t>(Polynomial<scalar_t>(x, nodes, entries, weights, n_rows), species.data_ptr<int64_t>(),
                                 x.size(0), x.data_ptr<scalar_t>(), out.data_ptr<scalar_t>());
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
            Polynomial<scalar_t>(s[0], s[2], s[3], s[4], ctx->saved_data["n_rows"].toInt()), s[1].data_ptr<int64_t>(),
            s[0].size(0), s[0].data_ptr<scalar_t>(), given.data_ptr<scalar_t>(), gradient.data_ptr<scalar_t>());
      });
    torch::autograd::variable_list gradients(7);
    gradients[0] = gradient;
    return gradients;
  }
};

class Mix : public torch::autograd::Function<Mix> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x, const std::optional<Tensor>& other,
                        const Tensor& species, const std::vector<int64_t>& maps, const Tensor& matrices,
                        const Tensor& transposed, const Tensor& bias, bool in_torch) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor second = other.value_or(Tensor());
    ctx->save_for_backward({species, transposed});
    ctx->saved_data["maps"] = maps;
    ctx->saved_data["widths"] = std::vector<int64_t>{x.size(1), second.defined() ? second.size(1) : 0};
    ctx->saved_data["in_torch"] = in_torch;
    Tensor mixed = at::empty({x.size(0), bias.size(0)}, x.options());
    mixed.copy_(bias);
    run<false>(Mixing(maps), matrices, species, {x, second}, mixed, in_torch);
    return mixed;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list incoming) {
    once(incoming[0]);
    const auto s = ctx->get_saved_variables();
    const std::vector<int64_t> widths = ctx->saved_data["widths"].toIntVector();
    const Tensor given = incoming[0].contiguous();
    std::array<Tensor, 2> gradients;
    for (size_t n = 0; n < 2; ++n)
      if (widths[n] > 0 && ctx->needs_input_grad(n)) gradients[n] = at::zeros({given.size(0), widths[n]}, given.options());
    run<true>(Mixing(ctx->saved_data["maps"].toIntVector()), s[1], s[0], gradients, given,
              ctx->saved_data["in_torch"].toBool());
    torch::autograd::variable_list all(8);
    all[0] = gradients[0];
    all[1] = gradients[1];
    return all;
  }

 private:
  template <bool BACK>
  static void run(const Mixing& mixing, const Tensor& matrices, const Tensor& species,
                  const std::array<Tensor, 2>& operands, const Tensor& mixed, bool in_torch) {
    if (in_torch || mixed.is_cuda()) return mix_in_torch<BACK>(mixing, matrices, species, operands.data(), mixed);
    AT_DISPATCH_FLOATING_TYPES(mixed.scalar_type(), "halberd_mix", [&] {
      Rows<scalar_t> rows[2] = {};
      for (size_t n = 0; n < 2; ++n)
        if (operands[n].defined()) rows[n] = {operands[n].data_ptr<scalar_t>(), operands[n].size(1)};
      mix<scalar_t, BACK>(mixing, matrices.data_ptr<scalar_t>(), species.data_ptr<int64_t>(), mixed.size(0), rows,
                          {mixed.data_ptr<scalar_t>(), mixed.size(1)});
    });
  }
};

Tensor mix_features(const Tensor& x, const std::optional<Tensor>& other, const Tensor& species,
                    const std::vector<int64_t>& maps, const Tensor& matrices, const Tensor& transposed,
                    const Tensor& bias, bool in_torch) {
  TORCH_CHECK(x.dim() == 2 && x.scalar_type() == matrices.scalar_type() && (!other || other->sizes()[0] == x.size(0)),
              "halberd: linear maps were given features of another shape or precision");
  const std::optional<Tensor> second = other ? std::optional<Tensor>(other->contiguous()) : std::nullopt;
  return Mix::apply(x.contiguous(), second, species.contiguous(), maps, matrices, transposed, bias, in_torch);
}

Tensor messages(const Tensor& features, const Tensor& vectors, const Tensor& species, const Tensor& edges,
                at::TensorList order, const Tensor& paths, const Tensor& triples, const Tensor& values,
                const Tensor& table, const Tensor& pair, double spacing, double sign, int64_t n_outputs,
                int64_t max_ell, const std::string& kernels, const std::vector<int64_t>& launch) {
  TORCH_CHECK(features.scalar_type() == table.scalar_type() && vectors.scalar_type() == table.scalar_type(),
              "halberd: edge vectors and model differ in precision");
  TORCH_CHECK(max_ell <= MAX_L, "halberd: compiled messages go up to degree ", MAX_L);
  TORCH_CHECK(order.size() == 4, "halberd: messages need the order of edges by both of their ends");
  TORCH_CHECK(launch.size() == 5 && launch[3] == features.size(1),
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
  m.def(
      "mix(Tensor features, Tensor? other, Tensor species, int[] maps, Tensor matrices, Tensor transposed, Tensor bias, "
      "bool in_torch) -> Tensor",
      mix_features);
  m.def("register_kernels(str key, Tensor image) -> ()", register_image);
  m.def("look_for_kernels(str folder, str ending) -> ()", look_for_kernels);
  m.def("emulate_kernels(str key, str library) -> ()", register_library);
}
