// Edges out of a Verlet list on the CPU: the torch class halberd._VerletPairs.
//
// The list is made elsewhere, of all pairs within cutoff + skin, sorted. As long as it holds, edges and their vectors are
// what is left of it within the cutoff, in the same order: nothing is sorted, and the result does not depend on when the
// list was made nor on the number of threads.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

namespace {

using at::Tensor;

// Atoms that one task looks at.
constexpr int64_t GRAIN = 256;

// A list, and what it was made of; never changed.
struct Pairs {
  std::vector<double> points, box;
  std::vector<bool> periodic;
  std::vector<int64_t> first, neighbour;  // those of atom i are neighbour[first[i]] and on
  std::vector<double> shifts;

  Pairs(const Tensor& positions, const Tensor& box_, const Tensor& periodic_, const Tensor& pairs, const Tensor& images)
      : points(numbers(positions)), box(numbers(box_)), periodic(flags(periodic_)) {
    const int64_t count = pairs.size(0);
    const Tensor sorted = pairs.to(at::kLong).contiguous();
    const int64_t* pair = sorted.data_ptr<int64_t>();
    first.assign(positions.size(0) + 1, 0);
    neighbour.resize(count);
    for (int64_t p = 0; p < count; ++p) {
      ++first[pair[2 * p] + 1];
      neighbour[p] = pair[2 * p + 1];
    }
    for (size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
    shifts = numbers(images);
  }

  static std::vector<double> numbers(const Tensor& values) {
    const Tensor own = values.detach().to(at::kDouble).contiguous();
    return std::vector<double>(own.data_ptr<double>(), own.data_ptr<double>() + own.numel());
  }

  static std::vector<bool> flags(const Tensor& values) {
    const Tensor own = values.to(at::kBool).contiguous();
    TORCH_CHECK(own.numel() == 3, "halberd: periodic must be three truths");
    return {own.data_ptr<bool>()[0], own.data_ptr<bool>()[1], own.data_ptr<bool>()[2]};
  }

  // Whether no atom has moved by half the skin, and nothing else has changed.
  template <typename T>
  bool hold(const T* x, int64_t n_atoms, const T* vectors, const std::vector<bool>& now, double skin) const {
    if (static_cast<size_t>(3 * n_atoms) != points.size() || now != periodic) return false;
    for (int k = 0; k < 9; ++k)
      if (now[k / 3] && double(vectors[k]) != box[k]) return false;
    const double limit = 0.25 * skin * skin;
    for (int64_t i = 0; i < n_atoms; ++i) {
      const double a = x[3 * i] - points[3 * i], b = x[3 * i + 1] - points[3 * i + 1];
      const double c = x[3 * i + 2] - points[3 * i + 2];
      if (!(a * a + b * b + c * c <= limit)) return false;  // true of NaN
    }
    return true;
  }
};

// From the first atom of a pair to the second.
template <typename T>
void vector_of(const Pairs& pairs, bool images, const T* x, const T* box, int64_t i, int64_t p, T* d) {
  const T* other = x + 3 * pairs.neighbour[p];
  for (int k = 0; k < 3; ++k) d[k] = other[k] - x[3 * i + k];
  if (!images) return;
  const double* s = pairs.shifts.data() + 3 * p;
  for (int k = 0; k < 3; ++k) d[k] += T(s[0]) * box[k] + T(s[1]) * box[3 + k] + T(s[2]) * box[6 + k];
}

struct Found {
  Tensor edge_index, vectors, shifts;
};

template <typename T>
Found find(const Pairs& pairs, const Tensor& positions, const Tensor& box, double cutoff, bool with_shifts) {
  const T *x = positions.data_ptr<T>(), *rows = box.data_ptr<T>();
  const bool images = pairs.periodic[0] || pairs.periodic[1] || pairs.periodic[2];
  T cell[9];  // of open directions nothing, even where what was given is no number
  for (int k = 0; k < 9; ++k) cell[k] = pairs.periodic[k / 3] ? rows[k] : T(0);
  const int64_t n_atoms = positions.size(0), tasks = (n_atoms + GRAIN - 1) / GRAIN;
  const auto every = [&](const auto& work) {
    at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) work(t, t * GRAIN, std::min(n_atoms, (t + 1) * GRAIN));
    });
  };
  // Chosen once, and not by computing distances twice: compilers may round them differently at two places.
  const std::unique_ptr<int64_t[]> chosen(new int64_t[pairs.neighbour.size()]);
  std::vector<int64_t> offset(tasks + 1, 0);
  every([&](int64_t t, int64_t begin, int64_t end) {
    int64_t* into = chosen.get() + pairs.first[begin];
    for (int64_t i = begin; i < end; ++i)
      for (int64_t p = pairs.first[i]; p < pairs.first[i + 1]; ++p) {
        T d[3];
        vector_of(pairs, images, x, cell, i, p, d);
        if (d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < T(cutoff) * T(cutoff)) *into++ = p;
      }
    offset[t + 1] = into - (chosen.get() + pairs.first[begin]);
  });
  for (int64_t t = 0; t < tasks; ++t) offset[t + 1] += offset[t];
  const int64_t edges = offset[tasks];
  Found found{at::empty({2, edges}, positions.options().dtype(at::kLong)), at::empty({edges, 3}, positions.options()),
              with_shifts ? at::empty({edges, 3}, positions.options()) : Tensor()};
  int64_t* index = found.edge_index.data_ptr<int64_t>();
  T *vectors = found.vectors.data_ptr<T>(), *shifts = with_shifts ? found.shifts.data_ptr<T>() : nullptr;
  every([&](int64_t t, int64_t begin, int64_t) {
    const int64_t* from = chosen.get() + pairs.first[begin];
    int64_t i = begin;
    for (int64_t e = offset[t]; e < offset[t + 1]; ++e, ++from) {
      while (*from >= pairs.first[i + 1]) ++i;
      index[e] = i;
      index[edges + e] = pairs.neighbour[*from];
      vector_of(pairs, images, x, cell, i, *from, vectors + 3 * e);
      for (int k = 0; shifts && k < 3; ++k) shifts[3 * e + k] = T(pairs.shifts[3 * *from + k]);
    }
  });
  return found;
}

// What reaches every atom: from the edges that end at it, less those that begin there.
template <typename T>
Tensor gathered(const Tensor& edge_index, const Tensor& incoming, int64_t n_atoms) {
  Tensor total = at::zeros({n_atoms, 3}, incoming.options());
  T* out = total.data_ptr<T>();
  const T* g = incoming.data_ptr<T>();
  const int64_t edges = edge_index.size(1);
  const int64_t* index = edge_index.data_ptr<int64_t>();
  for (int64_t e = 0; e < edges; ++e) {
    T *from = out + 3 * index[e], *to = out + 3 * index[edges + e];
    for (int k = 0; k < 3; ++k) {
      to[k] += g[3 * e + k];
      from[k] -= g[3 * e + k];
    }
  }
  return total;
}

class EdgeVectors : public torch::autograd::Function<EdgeVectors> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx, const Tensor& positions,
                                                const Tensor& box, const std::shared_ptr<const Pairs>& pairs,
                                                double cutoff) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const bool with_shifts = box.requires_grad();
    const auto run = positions.scalar_type() == at::kDouble ? find<double> : find<float>;
    const Found found = run(*pairs, positions.contiguous(), box.contiguous(), cutoff, with_shifts);
    ctx->mark_non_differentiable({found.edge_index});
    ctx->save_for_backward({found.edge_index, found.shifts});
    ctx->saved_data["n_atoms"] = positions.size(0);
    return {found.edge_index, found.vectors};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list outgoing) {
    const auto saved = ctx->get_saved_variables();
    const Tensor edge_index = saved[0], shifts = saved[1];
    if (!outgoing[1].defined()) return {Tensor(), Tensor(), Tensor(), Tensor()};
    const Tensor incoming = outgoing[1].contiguous();
    const int64_t n_atoms = ctx->saved_data["n_atoms"].toInt();
    Tensor total;
    if (at::GradMode::is_enabled() && incoming.requires_grad()) {
      total = at::zeros({n_atoms, 3}, incoming.options())
                  .index_add(0, edge_index[1], incoming)
                  .index_add(0, edge_index[0], incoming.neg());
    } else {
      total = incoming.scalar_type() == at::kDouble ? gathered<double>(edge_index, incoming, n_atoms)
                                                    : gathered<float>(edge_index, incoming, n_atoms);
    }
    return {total, shifts.defined() ? shifts.t().matmul(incoming) : Tensor(), Tensor(), Tensor()};
  }
};

struct VerletPairs : torch::CustomClassHolder {
  const double cutoff, skin;

  VerletPairs(double cutoff_, double skin_) : cutoff(cutoff_), skin(skin_) {}

  // Edge index and edge vectors, or nothing where the list does not hold.
  std::vector<Tensor> edges(const Tensor& positions, const Tensor& box, const Tensor& periodic) {
    check(positions, box);
    std::shared_ptr<const Pairs> pairs;
    {
      const std::lock_guard<std::mutex> guard(lock);
      pairs = list;
    }
    const bool hold = positions.scalar_type() == at::kDouble ? holds<double>(pairs.get(), positions, box, periodic)
                                                             : holds<float>(pairs.get(), positions, box, periodic);
    return hold ? EdgeVectors::apply(positions, box, pairs, cutoff) : torch::autograd::variable_list{};
  }

  // Edge index and edge vectors by a new list: pairs (M, 2) within cutoff + skin, sorted by their first atom.
  std::vector<Tensor> renewed(const Tensor& positions, const Tensor& box, const Tensor& periodic, const Tensor& pairs,
                              const Tensor& shifts) {
    check(positions, box);
    const auto made = std::make_shared<const Pairs>(positions, box, periodic, pairs, shifts);
    {
      const std::lock_guard<std::mutex> guard(lock);
      list = made;
    }
    return EdgeVectors::apply(positions, box, made, cutoff);
  }

 private:
  std::mutex lock;
  std::shared_ptr<const Pairs> list;

  template <typename T>
  bool holds(const Pairs* pairs, const Tensor& positions, const Tensor& box, const Tensor& periodic) const {
    const Tensor x = positions.detach().contiguous(), cell = box.detach().contiguous();
    return pairs && pairs->hold(x.data_ptr<T>(), x.size(0), cell.data_ptr<T>(), Pairs::flags(periodic), skin);
  }

  static void check(const Tensor& positions, const Tensor& box) {
    TORCH_CHECK(positions.dim() == 2 && positions.size(1) == 3, "halberd: positions must have the shape (N, 3)");
    TORCH_CHECK(box.dim() == 2 && box.size(0) == 3 && box.size(1) == 3, "halberd: the box must have the shape (3, 3)");
    TORCH_CHECK(positions.scalar_type() == at::kDouble || positions.scalar_type() == at::kFloat,
                "halberd: positions must be of single or double precision");
    TORCH_CHECK(positions.scalar_type() == box.scalar_type(), "halberd: positions and box differ in precision");
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(halberd, m) {
  m.class_<VerletPairs>("_VerletPairs")
      .def(torch::init<double, double>())
      .def("edges", &VerletPairs::edges)
      .def("renewed", &VerletPairs::renewed)
      .def_pickle(
          [](const c10::intrusive_ptr<VerletPairs>& self) {
            return std::vector<double>{self->cutoff, self->skin};
          },
          [](const std::vector<double>& state) { return c10::make_intrusive<VerletPairs>(state.at(0), state.at(1)); });
}
