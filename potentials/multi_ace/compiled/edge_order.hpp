// Edges by one of their ends.

#pragma once

#include <ATen/ATen.h>

#include <utility>
#include <vector>

namespace {

// Where the edges of every atom begin in a list of their numbers, and that list.
std::pair<at::Tensor, at::Tensor> by_end(const at::Tensor& end, int64_t n_atoms) {
  if (end.is_cuda()) {
    const auto sorted = at::sort(end.to(at::kInt), /*stable=*/true, /*dim=*/0, /*descending=*/false);
    const at::Tensor atoms = at::arange(n_atoms + 1, end.options().dtype(at::kInt));
    return {at::searchsorted(std::get<0>(sorted), atoms), std::get<1>(sorted)};
  }
  const int64_t n_edges = end.size(0);
  at::Tensor starts = at::zeros({n_atoms + 1}, end.options()), edges = at::empty({n_edges}, end.options());
  const int64_t* atom = end.data_ptr<int64_t>();
  int64_t *start = starts.data_ptr<int64_t>(), *edge = edges.data_ptr<int64_t>();
  for (int64_t e = 0; e < n_edges; ++e) ++start[atom[e] + 1];
  for (int64_t i = 0; i < n_atoms; ++i) start[i + 1] += start[i];
  std::vector<int64_t> next(start, start + n_atoms);
  for (int64_t e = 0; e < n_edges; ++e) edge[next[atom[e]]++] = e;
  return {starts, edges};
}

// What edges are walked by whose gradients are summed, or who sum: start and number, by centres, then by neighbours.
struct Order {
  const int64_t *start, *edge;
};

}  // namespace
