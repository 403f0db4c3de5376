// Rows of forces and virials of a linear ACE: halberd::ace_design_rows.
//
// A function of a site depends on few entries of its atomic basis A. Its derivative with respect to the neighbours is
// summed over these alone, for all neighbours of the site at once, and BLOCK functions are written to a row together.
// Every function belongs to one thread, so that sums have one order whatever the number of threads.

#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

namespace design {

using at::Tensor;
constexpr int64_t BLOCK = 8;

struct Pattern {
  const int64_t* pointers;  // (functions + 1)
  const int32_t* entries;   // of A, (nonzeros)
  int64_t functions, nonzeros, width;
};

struct Sites {
  const int64_t* first;      // (sites + 1), into edges
  const int64_t* edges;      // of all sites, one after another
  const int64_t* atom;       // (sites)
  const int64_t* frame;      // (sites)
  const int64_t* neighbour;  // of every edge
  const double* vectors;     // of every edge, (E, 3)
  int64_t count;
};

// Functions [low, high) of all sites.
inline void rows(const Pattern& pattern, const Sites& sites, const double* slopes, const double* gradients,
                 double* forces, double* virial, int64_t low, int64_t high) {
  const int64_t n = pattern.functions, width = pattern.width;
  std::vector<double> gradient, sums, lever;
  for (int64_t site = 0; site < sites.count; ++site) {
    const int64_t begin = sites.first[site], count = sites.first[site + 1] - begin;
    if (count == 0) continue;
    const int64_t padded = (count + 7) / 8 * 8, stretch = 3 * padded;
    // Neighbours last, so that they are summed in lanes.
    gradient.assign(width * stretch, 0.0);
    lever.assign(stretch, 0.0);
    for (int64_t e = 0; e < count; ++e) {
      const int64_t edge = sites.edges[begin + e];
      for (int c = 0; c < 3; ++c) {
        lever[c * padded + e] = sites.vectors[3 * edge + c];
        const double* from = gradients + (3 * edge + c) * width;
        for (int64_t k = 0; k < width; ++k) gradient[k * stretch + c * padded + e] = from[k];
      }
    }
    const double* own = slopes + site * pattern.nonzeros;
    for (int64_t f = low; f < high; f += BLOCK) {
      const int64_t here = std::min(BLOCK, high - f);
      sums.assign(BLOCK * stretch, 0.0);
      for (int64_t j = 0; j < here; ++j) {
        double* __restrict__ sum = sums.data() + j * stretch;
        for (int64_t p = pattern.pointers[f + j]; p < pattern.pointers[f + j + 1]; ++p) {
          const double slope = own[p];
          const double* __restrict__ from = gradient.data() + pattern.entries[p] * stretch;
          for (int64_t x = 0; x < stretch; ++x) sum[x] += slope * from[x];
        }
      }
      double centre[3][BLOCK] = {};
      for (int64_t e = 0; e < count; ++e) {
        const int64_t other = sites.neighbour[sites.edges[begin + e]];
        for (int c = 0; c < 3; ++c) {
          double* row = forces + (3 * other + c) * n + f;
          for (int64_t j = 0; j < here; ++j) {
            const double value = sums[j * stretch + c * padded + e];
            row[j] -= value;
            centre[c][j] += value;
          }
        }
      }
      for (int c = 0; c < 3; ++c) {
        double* row = forces + (3 * sites.atom[site] + c) * n + f;
        for (int64_t j = 0; j < here; ++j) row[j] += centre[c][j];
      }
      for (int a = 0; a < 3; ++a) {
        for (int b = 0; b < 3; ++b) {
          double* row = virial + ((sites.frame[site] * 3 + a) * 3 + b) * n + f;
          for (int64_t j = 0; j < here; ++j) {
            const double* sum = sums.data() + j * stretch + b * padded;
            double total = 0.0;
            for (int64_t e = 0; e < padded; ++e) total += lever[a * padded + e] * sum[e];
            row[j] -= total;
          }
        }
      }
    }
  }
}

// Adds to forces (atoms, 3, functions) and virial (frames, 3, 3, functions).
inline void add_rows(const Tensor& slopes, const Tensor& pointers, const Tensor& entries, const Tensor& gradients,
                     const Tensor& first, const Tensor& edges, const Tensor& atom, const Tensor& frame,
                     const Tensor& neighbour, const Tensor& vectors, Tensor& forces, Tensor& virial) {
  for (const Tensor& each : {slopes, gradients, vectors, forces, virial})
    TORCH_CHECK(each.scalar_type() == at::kDouble && each.is_contiguous(), "halberd: rows are made in double");
  const Pattern pattern{pointers.data_ptr<int64_t>(), entries.data_ptr<int32_t>(), pointers.size(0) - 1,
                        entries.size(0), gradients.size(2)};
  TORCH_CHECK(forces.size(2) == pattern.functions && virial.size(3) == pattern.functions &&
                  slopes.size(1) == pattern.nonzeros && slopes.size(0) == atom.size(0),
              "halberd: rows and slopes differ in size");
  const Sites sites{first.data_ptr<int64_t>(),     edges.data_ptr<int64_t>(), atom.data_ptr<int64_t>(),
                    frame.data_ptr<int64_t>(),     neighbour.data_ptr<int64_t>(), vectors.data_ptr<double>(),
                    atom.size(0)};
  const int64_t blocks = (pattern.functions + BLOCK - 1) / BLOCK, threads = at::get_num_threads();
  at::parallel_for(0, blocks, (blocks + threads - 1) / threads, [&](int64_t low, int64_t high) {
    rows(pattern, sites, slopes.data_ptr<double>(), gradients.data_ptr<double>(), forces.data_ptr<double>(),
         virial.data_ptr<double>(), low * BLOCK, std::min(high * BLOCK, pattern.functions));
  });
}

}  // namespace design
