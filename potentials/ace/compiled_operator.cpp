// Site energies of a linear ACE and their gradient on the CPU: the torch operator halberd::ace_sites.
//
// Same arithmetic as AceSites in sites.py, arranged for a CPU: one pass over the neighbours of a site, several at once,
// fills its atomic basis A in cache, products are evaluated for LANES sites of one species at once, and the backward
// pass reuses A. Sites are independent, so the result does not depend on the number of threads.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "design_rows.hpp"
#include "edges_in_lanes.hpp"
#include "products_of_sites.hpp"
#include "tables_and_sites.hpp"

namespace {

// Products of all orders, summed over the sites of every species: what the energy is linear in.
template <typename T>
void products_kernel(const Model<T>& model, const Sites& sites, const Tensor& species, const Tensor& edge_index,
                     const Tensor& vectors, Tensor& totals) {
  const int64_t* z = species.data_ptr<int64_t>();
  const int64_t* neighbour = edge_index.data_ptr<int64_t>() + edge_index.size(1);
  const T* v = vectors.data_ptr<T>();
  const int64_t terms = totals.size(1);
  // One row per block, added up in order: the result does not depend on the number of threads.
  std::vector<T> rows(sites.blocks() * terms, T(0));
  at::parallel_for(0, sites.blocks(), 1, [&](int64_t begin, int64_t end) {
    std::vector<Block<T>> lanes(model.entries);
    std::vector<T> own(model.entries);
    EdgeWork<T, false> work(model);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t* block = sites.block_sites.data() + b * LANES;
      std::fill(lanes.begin(), lanes.end(), Block<T>{});
      for (int w = 0; w < LANES && block[w] >= 0; ++w) {
        atomic_basis(work, sites, block[w], z, neighbour, v, own.data());
        for (int64_t a = 0; a < model.entries; ++a) lanes[a][w] = own[a];
      }
      T* row = rows.data() + b * terms;
      for_orders(model, [&](auto order) { row = add_products<order.value>(model, lanes.data(), row); });
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
    std::vector<Block<T>> lanes(model.entries), sums(model.members);
    EdgeWork<T, false> work(model);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t* block = sites.block_sites.data() + b * LANES;
      std::fill(lanes.begin(), lanes.end(), Block<T>{});
      for (int w = 0; w < LANES && block[w] >= 0; ++w) {
        T* own = A + block[w] * model.entries;
        atomic_basis(work, sites, block[w], z, neighbour, v, own);
        for (int64_t a = 0; a < model.entries; ++a) lanes[a][w] = own[a];
      }
      std::fill(sums.begin(), sums.end(), Block<T>{});
      const int64_t s = sites.block_species[b];
      for_orders(model, [&](auto order) { sum_products<order.value>(model, s, lanes.data(), sums.data()); });
      for (int w = 0; w < LANES && block[w] >= 0; ++w)
        for (int64_t k = 0; k < model.members; ++k) out[block[w] * model.members + k] = sums[k][w];
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
    std::vector<Block<T>> lanes(model.entries), spread(model.entries), weights(members);
    std::vector<T> own(model.entries);
    EdgeWork<T, true> work(model);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t* block = sites.block_sites.data() + b * LANES;
      std::fill(lanes.begin(), lanes.end(), Block<T>{});
      std::fill(spread.begin(), spread.end(), Block<T>{});
      std::fill(weights.begin(), weights.end(), Block<T>{});
      for (int w = 0; w < LANES && block[w] >= 0; ++w) {
        const T* from = A + block[w] * model.entries;
        for (int64_t a = 0; a < model.entries; ++a) lanes[a][w] = from[a];
        for (int64_t k = 0; k < members; ++k) weights[k][w] = g[block[w] * members + k];
      }
      const int64_t s = sites.block_species[b];
      for_orders(model, [&](auto order) {
        const size_t o = order.value - 1;
        const T* weight = folded.empty() ? nullptr : folded[o].data() + s * model.terms[o];
        spread_products<order.value>(model, s, lanes.data(), weights.data(), weight, spread.data());
      });
      for (int w = 0; w < LANES && block[w] >= 0; ++w) {
        for (int64_t a = 0; a < model.entries; ++a) own[a] = spread[a][w];
        edge_gradients(work, sites, block[w], z, neighbour, v, own.data(), 1, out, 0);
      }
    }
  });
}

// Gradients of all members, (K, E, 3), with edges prepared once for them all.
template <typename T>
void members_kernel(const Model<T>& model, const Sites& sites, const Tensor& species, const Tensor& edge_index,
                    const Tensor& vectors, const Tensor& basis, Tensor& gradients) {
  const int64_t* z = species.data_ptr<int64_t>();
  const int64_t* neighbour = edge_index.data_ptr<int64_t>() + edge_index.size(1);
  const T* v = vectors.data_ptr<T>();
  const T* A = basis.data_ptr<T>();
  T* out = gradients.data_ptr<T>();
  const int64_t members = model.members, entries = model.entries;
  at::parallel_for(0, sites.blocks(), 1, [&](int64_t begin, int64_t end) {
    std::vector<Block<T>> lanes(entries), spread(members * entries);
    std::vector<T> own(members * entries);
    EdgeWork<T, true> work(model);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t* block = sites.block_sites.data() + b * LANES;
      const int64_t s = sites.block_species[b];
      std::fill(lanes.begin(), lanes.end(), Block<T>{});
      std::fill(spread.begin(), spread.end(), Block<T>{});
      for (int w = 0; w < LANES && block[w] >= 0; ++w)
        for (int64_t a = 0; a < entries; ++a) lanes[a][w] = A[block[w] * entries + a];
      for (int64_t k = 0; k < members; ++k)
        for_orders(model, [&](auto order) {
          const size_t o = order.value - 1;
          const T* weight = model.weights[o] + (s * members + k) * model.terms[o];
          spread_products<order.value, T>(model, s, lanes.data(), nullptr, weight, spread.data() + k * entries);
        });
      for (int w = 0; w < LANES && block[w] >= 0; ++w) {
        for (int64_t a = 0; a < members * entries; ++a) own[a] = spread[a][w];
        edge_gradients(work, sites, block[w], z, neighbour, v, own.data(), members, out, 3 * edge_index.size(1));
      }
    }
  });
}

// The only member that a gradient is asked of, the same for every site, or -1.
int64_t only_member(const Tensor& incoming) {
  const Tensor first = incoming[0];
  const Tensor wanted = first.nonzero();
  return wanted.numel() == 1 && incoming.equal(first.expand_as(incoming)) ? wanted.item<int64_t>() : -1;
}

void check_products(const std::vector<Tensor>& products, const std::vector<Tensor>& weights) {
  TORCH_CHECK(!products.empty() && products.size() <= 6 && products.size() == weights.size(),
              "halberd: 1 to 6 orders of products, with weights for each");
}

// A table with as many columns as vectors are filled by; models pad theirs beforehand.
Tensor padded(const Tensor& table) {
  constexpr int64_t WHOLE = EDGES<float>;
  const int64_t missing = (WHOLE - table.size(3) % WHOLE) % WHOLE;
  return missing ? at::constant_pad_nd(table, {0, missing}).contiguous() : table.contiguous();
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
  return run(species.contiguous(), edge_index.contiguous(), vectors, padded(table), spacing, start, count, n_core, many_range,
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
  static Model<T> model(torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& saved) {
    return Model<T>(saved[3], ctx->saved_data["spacing"].toDouble(), ctx->saved_data["start"].toIntVector(),
                    ctx->saved_data["count"].toIntVector(), ctx->saved_data["n_core"].toInt(),
                    ctx->saved_data["many_range"].toDouble(), ctx->saved_data["products"].toTensorVector(),
                    ctx->saved_data["weights"].toTensorVector());
  }

  // Whoever asks for the gradient of one member after another gets those of all at the second time.
  template <typename T>
  static Tensor run(torch::autograd::AutogradContext* ctx, const torch::autograd::variable_list& saved,
                    const Tensor& incoming) {
    const Model<T> own = model<T>(ctx, saved);
    const Sites sites(saved[1], saved[2], own.n_species);
    auto& data = ctx->saved_data;
    const int64_t member = own.members > 1 && incoming.size(0) > 0 ? only_member(incoming) : -1;
    if (member >= 0 && !data.count("gradients") && data.count("asked") && data["asked"].toInt() != member) {
      Tensor gradients = at::zeros({own.members, saved[0].size(0), 3}, saved[0].options());
      members_kernel(own, sites, saved[1], saved[2], saved[0], saved[4], gradients);
      data["gradients"] = gradients;
    }
    if (member >= 0 && data.count("gradients"))
      return data["gradients"].toTensor()[member] * incoming[0][member];
    if (member >= 0) data["asked"] = member;
    Tensor gradient = at::zeros_like(saved[0]);
    backward_kernel(own, sites, saved[1], saved[2], saved[0], saved[4], incoming, gradient);
    return gradient;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list incoming) {
    TORCH_CHECK(!at::GradMode::is_enabled() || !incoming[0].requires_grad(),
                "halberd: the compiled ACE operator is differentiable once; set HALBERD_ACE=torch for more");
    const auto saved = ctx->get_saved_variables();
    const Tensor g = incoming[0].contiguous();
    torch::autograd::variable_list gradients(11);
    gradients[0] = saved[0].scalar_type() == at::kDouble ? run<double>(ctx, saved, g) : run<float>(ctx, saved, g);
    return gradients;
  }
};

Tensor ace_sites_autograd(const Tensor& species, const Tensor& edge_index, const Tensor& vectors, const Tensor& table,
                          double spacing, at::IntArrayRef start, at::IntArrayRef count, int64_t n_core,
                          double many_range, at::TensorList products, at::TensorList weights) {
  return AceSites::apply(vectors.contiguous(), species.contiguous(), edge_index.contiguous(), padded(table),
                         spacing, start.vec(), count.vec(), n_core, many_range, products.vec(), weights.vec());
}

Tensor ace_sites_cpu(const Tensor& species, const Tensor& edge_index, const Tensor& vectors, const Tensor& table,
                     double spacing, at::IntArrayRef start, at::IntArrayRef count, int64_t n_core, double many_range,
                     at::TensorList products, at::TensorList weights) {
  return evaluate(species.contiguous(), edge_index.contiguous(), vectors.contiguous(), padded(table), spacing,
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
