// Products of features of one atom, channel by channel, on a CPU.
//
// Nodes after the components of A are products of two earlier nodes; entries weigh nodes into outputs. All nodes of a
// piece of the channels are kept, and walked in reverse for the gradient.

#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <vector>

#include "lanes.hpp"

namespace {

template <typename T>
struct Polynomial {
  std::vector<std::pair<int32_t, int32_t>> nodes, entries;
  const T* weights;
  int64_t n_components, n_rows, channels;
  bool by_species;

  Polynomial(const at::Tensor& x, const at::Tensor& node_table, const at::Tensor& entry_table,
             const at::Tensor& weights_, int64_t n_rows_)
      : nodes(pairs(node_table)), entries(pairs(entry_table)), weights(weights_.data_ptr<T>()), n_components(x.size(1)),
        n_rows(n_rows_), channels(x.size(2)), by_species(weights_.size(0) > 1) {}

  int64_t size() const { return n_components + int64_t(nodes.size()); }

  const T* weights_of(int64_t species) const {
    return weights + (by_species ? species : 0) * int64_t(entries.size()) * channels;
  }

 private:
  static std::vector<std::pair<int32_t, int32_t>> pairs(const at::Tensor& table) {
    const int64_t* p = table.data_ptr<int64_t>();
    std::vector<std::pair<int32_t, int32_t>> found;
    for (int64_t n = 0; n < table.size(0); ++n) found.emplace_back(int32_t(p[2 * n]), int32_t(p[2 * n + 1]));
    return found;
  }
};

// Memory for lanes, aligned.
template <typename V>
class Workspace {
 public:
  explicit Workspace(int64_t count) : memory_((count + 1) * sizeof(V)) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    begin_ = reinterpret_cast<V*>((address + sizeof(V) - 1) / sizeof(V) * sizeof(V));
  }
  V* get() { return begin_; }

 private:
  std::vector<char> memory_;
  V* begin_;
};

template <bool ALL, typename V, typename T>
void fill_nodes(const Polynomial<T>& p, const T* x, int64_t count, V* v) {
  for (int64_t m = 0; m < p.n_components; ++m) load<ALL>(v[m], x + m * p.channels, count);
  V* own = v + p.n_components;
  for (const auto& node : p.nodes) *own++ = v[node.first] * v[node.second];
}

template <typename T>
void products_forward(const Polynomial<T>& p, const int64_t* species, int64_t n_atoms, const T* x, T* out) {
  using V = DoubleLanes<T>;
  at::parallel_for(0, n_atoms, 1, [&](int64_t begin, int64_t end) {
    Workspace<V> nodes(p.size()), rows(p.n_rows);
    V *v = nodes.get(), *sums = rows.get();
    for (int64_t i = begin; i < end; ++i) {
      const T* weights = p.weights_of(species[i]);
      in_pieces<WIDTH<V, T>>(p.channels, [&](int64_t k, int64_t count, auto all) {
        constexpr bool ALL = decltype(all)::value;
        fill_nodes<ALL>(p, x + i * p.n_components * p.channels + k, count, v);
        for (int64_t m = 0; m < p.n_rows; ++m) sums[m] = V{};
        const T* w = weights + k;
        for (const auto& entry : p.entries) {
          V own;
          load<ALL>(own, w, count);
          sums[entry.second] += own * v[entry.first];
          w += p.channels;
        }
        for (int64_t m = 0; m < p.n_rows; ++m) store<ALL>(sums[m], out + (i * p.n_rows + m) * p.channels + k, count);
      });
    }
  });
}

template <typename T>
void products_backward(const Polynomial<T>& p, const int64_t* species, int64_t n_atoms, const T* x, const T* incoming,
                       T* gradient) {
  using V = DoubleLanes<T>;
  at::parallel_for(0, n_atoms, 1, [&](int64_t begin, int64_t end) {
    Workspace<V> nodes(p.size()), gradients(p.size()), rows(p.n_rows);
    V *v = nodes.get(), *of_v = gradients.get(), *given = rows.get();
    for (int64_t i = begin; i < end; ++i) {
      const T* weights = p.weights_of(species[i]);
      in_pieces<WIDTH<V, T>>(p.channels, [&](int64_t k, int64_t count, auto all) {
        constexpr bool ALL = decltype(all)::value;
        fill_nodes<ALL>(p, x + i * p.n_components * p.channels + k, count, v);
        for (int64_t m = 0; m < p.n_rows; ++m)
          load<ALL>(given[m], incoming + (i * p.n_rows + m) * p.channels + k, count);
        for (int64_t n = 0; n < p.size(); ++n) of_v[n] = V{};
        const T* w = weights + k;
        for (const auto& entry : p.entries) {
          V own;
          load<ALL>(own, w, count);
          of_v[entry.first] += own * given[entry.second];
          w += p.channels;
        }
        for (int64_t n = int64_t(p.nodes.size()) - 1; n >= 0; --n) {
          const int32_t a = p.nodes[n].first, b = p.nodes[n].second;
          const V g = of_v[p.n_components + n];
          of_v[a] += g * v[b];
          of_v[b] += g * v[a];
        }
        for (int64_t m = 0; m < p.n_components; ++m)
          store<ALL>(of_v[m], gradient + (i * p.n_components + m) * p.channels + k, count);
      });
    }
  });
}

}  // namespace
