// Messages and products on CUDA kernels: what kernels.py generates, called with the tensors of one evaluation.

#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace {

constexpr int THREADS = 128;

// Everything that messages are given.
struct Messages {
  at::Tensor features, vectors, species, edges, centre_start, centre_edges, neighbour_start, neighbour_edges, paths,
      triples, values, table, pair;
  double spacing, sign;
  int64_t n_outputs, max_ell;
  std::string kernels;
  // Kernels forward, most channels of a path, harmonics; numbers per atom that are read, radial weights of an edge.
  std::vector<int64_t> launch;
};

// What is computed once of every edge: its harmonics, and where its distance is in the splines.
struct Embedded {
  at::Tensor harmonics, row, place;
};

int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }

// A block has at most one thread per channel.
int threads_for(int64_t channels) { return int(std::min<int64_t>(THREADS, 32 * blocks(channels, 32))); }

Embedded forward_on_kernels(const Messages& g, const at::Tensor& out) {
  const Program program(g.kernels, g.features);
  const long long n_edges = g.edges.size(1), n_species = g.pair.size(0), n_intervals = g.table.size(1);
  const Embedded embedded{at::empty({n_edges, g.launch[2]}, g.vectors.options()), at::empty({n_edges}, g.edges.options()),
                          at::empty({n_edges}, g.vectors.options())};
  program.launch("embed", blocks(n_edges, THREADS), 1, THREADS, g.vectors.data_ptr(), g.edges.data_ptr(),
                 g.species.data_ptr(), g.pair.data_ptr(), n_edges, n_species, n_intervals, g.spacing, g.sign,
                 embedded.harmonics.data_ptr(), embedded.row.data_ptr(), embedded.place.data_ptr());
  const int threads = threads_for(g.launch[1]);
  void* neighbour = g.edges.data_ptr<int64_t>() + n_edges;
  for (int64_t n = 0; n < g.launch[0]; ++n)
    program.launch("forward_" + std::to_string(n), g.features.size(0), blocks(g.launch[1], threads), threads,
                   g.centre_start.data_ptr(), g.centre_edges.data_ptr(), neighbour, embedded.harmonics.data_ptr(),
                   embedded.row.data_ptr(), embedded.place.data_ptr(), g.table.data_ptr(), g.features.data_ptr(),
                   out.data_ptr());
  return embedded;
}

void backward_on_kernels(const Messages& g, const Embedded& embedded, const at::Tensor& given,
                         const at::Tensor& of_vectors, const at::Tensor& of_features) {
  const Program program(g.kernels, g.features);
  const long long n_edges = g.edges.size(1);
  void *centre = g.edges.data_ptr<int64_t>(), *neighbour = g.edges.data_ptr<int64_t>() + n_edges;
  const at::Tensor of_edges = at::zeros({n_edges, g.launch[2] + 1}, g.vectors.options());
  program.launch("of_edges", blocks(n_edges * program.warp(), THREADS), 1, THREADS, g.centre_edges.data_ptr(),
                 neighbour, embedded.harmonics.data_ptr(), embedded.row.data_ptr(), embedded.place.data_ptr(),
                 g.table.data_ptr(), centre, n_edges, g.features.data_ptr(), given.data_ptr(), of_edges.data_ptr());
  program.launch("turn_back", blocks(n_edges, THREADS), 1, THREADS, g.vectors.data_ptr(), of_edges.data_ptr(), n_edges,
                 g.spacing, g.sign, of_vectors.data_ptr());
  if (!of_features.defined()) return;
  const int threads = threads_for(g.launch[1]);
  program.launch("of_features", g.features.size(0), blocks(g.launch[1], threads), threads, g.neighbour_start.data_ptr(),
                 g.neighbour_edges.data_ptr(), centre, embedded.harmonics.data_ptr(), embedded.row.data_ptr(),
                 embedded.place.data_ptr(), g.table.data_ptr(), given.data_ptr(), of_features.data_ptr());
}

void products_on_kernels(const std::string& kernels, const at::Tensor& x, const at::Tensor& species,
                         const at::Tensor& weights, const at::Tensor& out) {
  const long long n_atoms = x.size(0), by_species = weights.size(0) > 1;
  Program(kernels, x).launch("products", blocks(n_atoms * x.size(2), THREADS), 1, THREADS, n_atoms, by_species,
                             species.data_ptr(), weights.data_ptr(), x.data_ptr(), out.data_ptr());
}

void of_products_on_kernels(const std::string& kernels, const at::Tensor& x, const at::Tensor& species,
                            const at::Tensor& weights, const at::Tensor& given, const at::Tensor& gradient) {
  const long long n_atoms = x.size(0), by_species = weights.size(0) > 1;
  Program(kernels, x).launch("of_products", blocks(n_atoms * x.size(2), THREADS), 1, THREADS, n_atoms, by_species,
                             species.data_ptr(), weights.data_ptr(), x.data_ptr(), given.data_ptr(),
                             gradient.data_ptr());
}

}  // namespace
