// Products of entries of the atomic basis, for several sites of one species at once: sums of them, and their gradients.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "lanes.hpp"
#include "tables_and_sites.hpp"

namespace {

constexpr int TILE = 64;  // products that are kept in cache
// One number for each of LANES sites.
template <typename T>
using Block = typename Vector<T, LANES * sizeof(T)>::type;

template <int ORDER, typename T>
inline Block<T> product(const int32_t* index, const Block<T>* A) {
  Block<T> value = A[index[0]];
  for (int t = 1; t < ORDER; ++t) value *= A[index[t]];
  return value;
}

// Add weighted products to the energies of some members. A sum waits for the one before it: hence several at once.
template <int MEMBERS, typename T>
inline void add_weighted(const Block<T>* products, int n, const T* weights, int64_t stride, Block<T>* energy) {
  constexpr int CHAINS = 8 / MEMBERS;
  Block<T> sum[MEMBERS][CHAINS] = {};
  int t = 0;
  for (; t + CHAINS <= n; t += CHAINS)
    for (int c = 0; c < CHAINS; ++c)
      for (int k = 0; k < MEMBERS; ++k) sum[k][c] += weights[k * stride + t + c] * products[t + c];
  for (; t < n; ++t)
    for (int k = 0; k < MEMBERS; ++k) sum[k][0] += weights[k * stride + t] * products[t];
  for (int k = 0; k < MEMBERS; ++k)
    for (int c = 0; c < CHAINS; ++c) energy[k] += sum[k][c];
}

template <int ORDER, typename T>
void sum_products(const Model<T>& model, int64_t species, const Block<T>* A, Block<T>* energy) {
  const int64_t terms = model.terms[ORDER - 1];
  const int32_t* index = model.products[ORDER - 1];
  const T* weights = model.weights[ORDER - 1] + species * model.members * terms;
  Block<T> tile[TILE];
  for (int64_t t0 = 0; t0 < terms; t0 += TILE) {
    const int n = static_cast<int>(std::min<int64_t>(TILE, terms - t0));
    for (int t = 0; t < n; ++t) tile[t] = product<ORDER, T>(index + (t0 + t) * ORDER, A);
    int64_t k = 0;
    for (; k + 4 <= model.members; k += 4) add_weighted<4, T>(tile, n, weights + k * terms + t0, terms, energy + k);
    for (; k < model.members; ++k) add_weighted<1, T>(tile, n, weights + k * terms + t0, terms, energy + k);
  }
}

// G += d(sum of products) / dA; `folded` holds the weights of one linear combination of members, or else they are
// folded here for every lane with the incoming gradient.
template <int ORDER, typename T>
void spread_products(const Model<T>& model, int64_t species, const Block<T>* A, const Block<T>* incoming,
                     const T* folded, Block<T>* G) {
  const int64_t terms = model.terms[ORDER - 1];
  const int32_t* index = model.products[ORDER - 1];
  const T* weights = model.weights[ORDER - 1] + species * model.members * terms;
  Block<T> tile[TILE];
  for (int64_t t0 = 0; t0 < terms; t0 += TILE) {
    const int n = static_cast<int>(std::min<int64_t>(TILE, terms - t0));
    if (folded != nullptr) {
      for (int t = 0; t < n; ++t) tile[t] = Block<T>{} + folded[t0 + t];
    } else {
      for (int t = 0; t < n; ++t) tile[t] = Block<T>{};
      for (int64_t k = 0; k < model.members; ++k)
        for (int t = 0; t < n; ++t) tile[t] += weights[k * terms + t0 + t] * incoming[k];
    }
    for (int t = 0; t < n; ++t) {
      const int32_t* i = index + (t0 + t) * ORDER;
      // Products of the factors before and after each one.
      Block<T> before[ORDER], after;
      before[0] = tile[t];
      for (int f = 1; f < ORDER; ++f) before[f] = before[f - 1] * A[i[f - 1]];
      G[i[ORDER - 1]] += before[ORDER - 1];
      if (ORDER == 1) continue;
      after = A[i[ORDER - 1]];
      for (int f = ORDER - 2; f > 0; --f) {
        G[i[f]] += before[f] * after;
        after *= A[i[f]];
      }
      G[i[0]] += before[0] * after;
    }
  }
}

// Sums of products over the sites of a block (empty lanes hold zeros).
template <int ORDER, typename T>
T* add_products(const Model<T>& model, const Block<T>* A, T* totals) {
  const int64_t terms = model.terms[ORDER - 1];
  const int32_t* index = model.products[ORDER - 1];
  for (int64_t t = 0; t < terms; ++t) {
    const Block<T> value = product<ORDER, T>(index + t * ORDER, A);
    for (int w = 0; w < LANES; ++w) totals[t] += value[w];
  }
  return totals + terms;
}

// Call f with the order as a constant, for every order of a model.
template <int ORDER>
struct Order {
  static constexpr int value = ORDER;
};
template <typename T, typename F>
void for_orders(const Model<T>& model, const F& f) {
  const size_t orders = model.products.size();
  f(Order<1>());
  if (orders > 1) f(Order<2>());
  if (orders > 2) f(Order<3>());
  if (orders > 3) f(Order<4>());
  if (orders > 4) f(Order<5>());
  if (orders > 5) f(Order<6>());
}

}  // namespace
