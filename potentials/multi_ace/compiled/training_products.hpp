// Products of features of one atom, with the gradients that a training needs: of features and of weights, and how these
// move when what came in for the former does.
//
// A thread owns channels, so that gradients of weights, which sum over atoms, do not depend on the number of threads.

#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <vector>

#include "lanes.hpp"
#include "products_on_cpu.hpp"

namespace {

// Call f(first channel, count, All or Some) for pieces of the channels, in parallel.
template <typename V, typename T, typename F>
void over_channels(int64_t channels, const F& f) {
  constexpr int64_t W = WIDTH<V, T>;
  at::parallel_for(0, (channels + W - 1) / W, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      if ((n + 1) * W <= channels)
        f(n * W, W, All());
      else
        f(n * W, channels - n * W, Some());
    }
  });
}

// Gradients of features and, summed over atoms, of weights, (species, entries, channels).
template <typename T>
void gradients_of_products(const Polynomial<T>& p, const int64_t* species, int64_t n_atoms, const T* x,
                           const T* incoming, T* of_x, T* of_weights) {
  using V = DoubleLanes<T>;
  over_channels<V, T>(p.channels, [&](int64_t k, int64_t count, auto all) {
    constexpr bool ALL = decltype(all)::value;
    Workspace<V> nodes(p.size()), node_gradients(p.size()), rows(p.n_rows);
    V *v = nodes.get(), *of_v = node_gradients.get(), *given = rows.get();
    for (int64_t i = 0; i < n_atoms; ++i) {
      fill_nodes<ALL>(p, x + i * p.n_components * p.channels + k, count, v);
      for (int64_t m = 0; m < p.n_rows; ++m)
        load<ALL>(given[m], incoming + (i * p.n_rows + m) * p.channels + k, count);
      for (int64_t n = 0; n < p.size(); ++n) of_v[n] = V{};
      const T* w = p.weights_of(species[i]) + k;
      T* of_w = of_weights + (w - p.weights);
      for (const auto& entry : p.entries) {
        V own, sum;
        load<ALL>(own, w, count);
        load<ALL>(sum, of_w, count);
        of_v[entry.first] += own * given[entry.second];
        store<ALL>(V(sum + v[entry.first] * given[entry.second]), of_w, count);
        w += p.channels;
        of_w += p.channels;
      }
      for (int64_t n = int64_t(p.nodes.size()) - 1; n >= 0; --n) {
        const int32_t a = p.nodes[n].first, b = p.nodes[n].second;
        const V g = of_v[p.n_components + n];
        of_v[a] += g * v[b];
        of_v[b] += g * v[a];
      }
      for (int64_t m = 0; m < p.n_components; ++m)
        store<ALL>(of_v[m], of_x + (i * p.n_components + m) * p.channels + k, count);
    }
  });
}

// For tangents dx of features: how products move, and the gradients of <incoming, that> of features and weights.
template <typename T>
void tangents_of_products(const Polynomial<T>& p, const int64_t* species, int64_t n_atoms, const T* x, const T* dx,
                          const T* incoming, T* moved, T* of_x, T* of_weights) {
  using V = Lanes<T>;
  over_channels<V, T>(p.channels, [&](int64_t k, int64_t count, auto all) {
    constexpr bool ALL = decltype(all)::value;
    Workspace<V> space(4 * p.size() + 2 * p.n_rows);
    V *v = space.get(), *t = v + p.size(), *of_v = t + p.size(), *of_t = of_v + p.size(), *given = of_t + p.size(),
      *sums = given + p.n_rows;
    for (int64_t i = 0; i < n_atoms; ++i) {
      fill_nodes<ALL>(p, x + i * p.n_components * p.channels + k, count, v);
      for (int64_t m = 0; m < p.n_components; ++m)
        load<ALL>(t[m], dx + (i * p.n_components + m) * p.channels + k, count);
      V* next = t + p.n_components;
      for (const auto& node : p.nodes) *next++ = t[node.first] * v[node.second] + v[node.first] * t[node.second];
      for (int64_t m = 0; m < p.n_rows; ++m) {
        load<ALL>(given[m], incoming + (i * p.n_rows + m) * p.channels + k, count);
        sums[m] = V{};
      }
      for (int64_t n = 0; n < p.size(); ++n) of_v[n] = of_t[n] = V{};
      const T* w = p.weights_of(species[i]) + k;
      T* of_w = of_weights + (w - p.weights);
      for (const auto& entry : p.entries) {
        V own, sum;
        load<ALL>(own, w, count);
        load<ALL>(sum, of_w, count);
        sums[entry.second] += own * t[entry.first];
        of_t[entry.first] += own * given[entry.second];
        store<ALL>(V(sum + t[entry.first] * given[entry.second]), of_w, count);
        w += p.channels;
        of_w += p.channels;
      }
      for (int64_t n = int64_t(p.nodes.size()) - 1; n >= 0; --n) {
        const int32_t a = p.nodes[n].first, b = p.nodes[n].second;
        const V g = of_t[p.n_components + n], h = of_v[p.n_components + n];
        of_t[a] += g * v[b];
        of_t[b] += g * v[a];
        of_v[a] += g * t[b] + h * v[b];
        of_v[b] += g * t[a] + h * v[a];
      }
      for (int64_t m = 0; m < p.n_rows; ++m) store<ALL>(sums[m], moved + (i * p.n_rows + m) * p.channels + k, count);
      for (int64_t m = 0; m < p.n_components; ++m)
        store<ALL>(of_v[m], of_x + (i * p.n_components + m) * p.channels + k, count);
    }
  });
}

}  // namespace
