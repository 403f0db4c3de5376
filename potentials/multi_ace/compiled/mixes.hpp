// Linear maps of features within their kinds, by matrices that may be the atoms' species' own; several maps, of up to two
// tensors of features, add up to one tensor.
//
// On a CPU, rows times matrices are written out here: a row's sum has one order whatever its neighbours are, so that
// nothing depends on the number of threads. On a GPU they are torch's.

#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "lanes.hpp"

namespace {

// Channels in the rows of one kind, which are as long as a stride says, and where their matrices begin: fan_in times
// fan_out, one or one per species.
struct Map {
  int64_t operand, source, fan_in, source_stride, rows, target, fan_out, target_stride, first, n_species;
};

// All maps to one tensor.
class Mixing {
 public:
  explicit Mixing(const std::vector<int64_t>& table) {
    for (const int64_t* p = table.data(); p != table.data() + table.size(); p += 10)
      maps_.push_back({p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9]});
  }
  const std::vector<Map>& maps() const { return maps_; }

 private:
  std::vector<Map> maps_;
};

// Numbers of atoms, one row of them after the other.
template <typename T>
struct Rows {
  T* data;
  int64_t width;
};

constexpr int TILE_ROWS = 6;
#if defined(__AVX512F__)
constexpr int TILE_LANES = 4;
#else
constexpr int TILE_LANES = 2;
#endif

// Some columns of some rows: out += in times a matrix, whose rows are ``stride`` long.
template <typename T, int ROWS, int COLUMNS, bool ALL>
void multiply(const T* const* in, T* const* out, int64_t column, const T* matrix, int64_t fan_in, int64_t stride,
              int64_t count) {
  constexpr int W = WIDTH<Lanes<T>, T>;
  Lanes<T> sums[ROWS][COLUMNS];
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < COLUMNS; ++c) load<ALL>(sums[r][c], out[r] + column + c * W, count);
  const T* own = matrix + column;
  for (int64_t k = 0; k < fan_in; ++k, own += stride) {
    Lanes<T> w[COLUMNS];
    for (int c = 0; c < COLUMNS; ++c) load<ALL>(w[c], own + c * W, count);
    for (int r = 0; r < ROWS; ++r)
      for (int c = 0; c < COLUMNS; ++c) sums[r][c] = multiply_add(in[r][k], w[c], sums[r][c]);
  }
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < COLUMNS; ++c) store<ALL>(sums[r][c], out[r] + column + c * W, count);
}

template <typename T, int COLUMNS, bool ALL>
void multiply_rows(const std::vector<const T*>& in, const std::vector<T*>& out, int64_t column, const T* matrix,
                   int64_t fan_in, int64_t stride, int64_t count) {
  const size_t whole = in.size() / TILE_ROWS * TILE_ROWS;
  for (size_t n = 0; n < whole; n += TILE_ROWS)
    multiply<T, TILE_ROWS, COLUMNS, ALL>(&in[n], &out[n], column, matrix, fan_in, stride, count);
  const T* const* first = in.data() + whole;
  T* const* to = out.data() + whole;
  switch (in.size() - whole) {
    case 1: return multiply<T, 1, COLUMNS, ALL>(first, to, column, matrix, fan_in, stride, count);
    case 2: return multiply<T, 2, COLUMNS, ALL>(first, to, column, matrix, fan_in, stride, count);
    case 3: return multiply<T, 3, COLUMNS, ALL>(first, to, column, matrix, fan_in, stride, count);
    case 4: return multiply<T, 4, COLUMNS, ALL>(first, to, column, matrix, fan_in, stride, count);
    case 5: return multiply<T, 5, COLUMNS, ALL>(first, to, column, matrix, fan_in, stride, count);
    default: return;
  }
}

// All columns of some rows.
template <typename T>
void multiply_rows(const std::vector<const T*>& in, const std::vector<T*>& out, const T* matrix, int64_t fan_in,
                   int64_t fan_out) {
  constexpr int W = WIDTH<Lanes<T>, T>;
  int64_t column = 0;
  for (; column + TILE_LANES * W <= fan_out; column += TILE_LANES * W)
    multiply_rows<T, TILE_LANES, true>(in, out, column, matrix, fan_in, fan_out, W);
  for (; column + W <= fan_out; column += W)
    multiply_rows<T, 1, true>(in, out, column, matrix, fan_in, fan_out, W);
  if (column < fan_out) multiply_rows<T, 1, false>(in, out, column, matrix, fan_in, fan_out, fan_out - column);
}

// A matrix per species: those of the atoms that have it; or one of all.
template <typename T, typename F>
void rows_of(const Map& map, const int64_t* species, int64_t begin, int64_t end, const F& add) {
  for (int64_t kind = 0; kind < map.n_species; ++kind)
    add(kind, [&](const auto& each) {
      for (int64_t i = begin; i < end; ++i)
        if (map.n_species == 1 || species[i] == kind)
          for (int64_t m = 0; m < map.rows; ++m) each(i, m);
    });
}

// Atoms whose rows stay in the cache while the maps go over them.
constexpr int64_t ATOMS_AT_ONCE = 48;

// out += the maps of what goes in, or (BACK) gradients of what went in += those of what came out.
template <typename T, bool BACK>
void mix(const Mixing& mixing, const T* matrices, const int64_t* species, int64_t n_atoms, const Rows<T>* operands,
         const Rows<T>& mixed) {
  at::parallel_for(0, n_atoms, 8, [&](int64_t begin, int64_t end) {
    std::vector<const T*> in;
    std::vector<T*> out;
    for (int64_t from = begin; from < end; from += ATOMS_AT_ONCE) {
      const int64_t to = std::min(end, from + ATOMS_AT_ONCE);
      for (const Map& map : mixing.maps()) {
        const Rows<T>& operand = operands[map.operand];
        if (operand.data == nullptr) continue;
        rows_of<T>(map, species, from, to, [&](int64_t kind, const auto& all) {
          in.clear();
          out.clear();
          all([&](int64_t i, int64_t m) {
            T* mine = operand.data + i * operand.width + map.source + m * map.source_stride;
            T* theirs = mixed.data + i * mixed.width + map.target + m * map.target_stride;
            in.push_back(BACK ? theirs : mine);
            out.push_back(BACK ? mine : theirs);
          });
          const T* matrix = matrices + map.first + kind * map.fan_in * map.fan_out;
          multiply_rows<T>(in, out, matrix, BACK ? map.fan_out : map.fan_in, BACK ? map.fan_in : map.fan_out);
        });
      }
    }
  });
}

// -- by torch --------------------------------------------------------------------------------------------------------

// Species whose matrices are applied to all atoms at once.
constexpr int64_t SPECIES_AT_ONCE = 8;

// Channels of a kind, (2 l + 1, N, channels), in place.
at::Tensor rows_in(const at::Tensor& features, int64_t first, int64_t rows, int64_t channels, int64_t stride) {
  return features.as_strided({rows, features.size(0), channels}, {stride, features.size(1), 1},
                             features.storage_offset() + first);
}

// (rows, N, fan_in) times matrices (S, fan_in, fan_out); of several species all, then what every atom's own says: more
// work, but nothing that a GPU must tell the host.
at::Tensor times(const at::Tensor& x, const at::Tensor& matrices, const at::Tensor& species) {
  const int64_t n_species = matrices.size(0), fan_out = matrices.size(2);
  if (n_species == 1) return at::matmul(x, matrices[0]);
  at::Tensor sum;
  for (int64_t first = 0; first < n_species; first += SPECIES_AT_ONCE) {
    const int64_t count = std::min(SPECIES_AT_ONCE, n_species - first);
    const at::Tensor wide = matrices.narrow(0, first, count).transpose(0, 1).reshape({x.size(2), count * fan_out});
    const at::Tensor all = at::matmul(x, wide).view({x.size(0), x.size(1), count, fan_out});
    const at::Tensor own = (species - first).clamp(0, count - 1).view({1, -1, 1, 1});
    at::Tensor found = all.gather(2, own.expand({x.size(0), x.size(1), 1, fan_out})).squeeze(2);
    if (count < n_species) {
      const at::Tensor inside = (species >= first).logical_and(species < first + count).view({1, -1, 1});
      found = at::where(inside, found, at::zeros_like(found));
    }
    sum = sum.defined() ? sum + found : found;
  }
  return sum;
}

template <bool BACK>
void mix_in_torch(const Mixing& mixing, const at::Tensor& matrices, const at::Tensor& species,
                  const at::Tensor* operands, const at::Tensor& mixed) {
  for (const Map& map : mixing.maps()) {
    if (!operands[map.operand].defined()) continue;
    const at::Tensor mine = rows_in(operands[map.operand], map.source, map.rows, map.fan_in, map.source_stride);
    const at::Tensor theirs = rows_in(mixed, map.target, map.rows, map.fan_out, map.target_stride);
    const int64_t size = map.n_species * map.fan_in * map.fan_out;
    const at::Tensor own = matrices.narrow(0, map.first, size)
                               .view({map.n_species, BACK ? map.fan_out : map.fan_in, BACK ? map.fan_in : map.fan_out});
    (BACK ? mine : theirs).add_(times(BACK ? theirs : mine, own, species));
  }
}

}  // namespace
