// A linear ACE as the compiled operator sees it: tables of radial functions, products and weights; and sites with edges.

#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "harmonics.hpp"

namespace {

using at::Tensor;
constexpr int LANES = 8;  // sites whose products are evaluated at once

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

}  // namespace
