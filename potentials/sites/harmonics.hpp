// Real spherical harmonics, for the compiled operators and for CUDA kernels, which are compiled at run time.

#ifndef HALBERD_HARMONICS
#define HALBERD_HARMONICS

#ifndef __CUDACC_RTC__
#include <cmath>
#define HALBERD_EVERYWHERE
#else
#define HALBERD_EVERYWHERE __host__ __device__
#endif

// Kernels set it to the degree that they need.
#ifndef HALBERD_MAX_L
#define HALBERD_MAX_L 20
#endif

namespace {

// What is computed with: a number, or several at once (see lanes.hpp).
template <typename T>
struct Number {
  using Scalar = T;
  HALBERD_EVERYWHERE static T all(Scalar x) { return x; }
};

constexpr int MAX_L = HALBERD_MAX_L;
constexpr int MAX_LM = (MAX_L + 1) * (MAX_L + 1);

// Real spherical harmonics of a unit vector with mean square 1, order m = -l ... l, and their gradient with respect to
// the unnormalised vector.
struct Harmonics {
  int l_max;
  double norm[MAX_L + 1][MAX_L + 1];

  HALBERD_EVERYWHERE explicit Harmonics(int l) : l_max(l) {
    for (int n = 0; n <= l; ++n) {
      for (int m = 0; m <= n; ++m) {
        double ratio = 1.0;
        for (int k = n - m + 1; k <= n + m; ++k) ratio /= k;
        norm[n][m] = ::sqrt((2.0 * n + 1.0) * ratio * (m == 0 ? 1.0 : 2.0));
      }
    }
  }

  // The degree is L, or that of the object where L is negative; loops over what is known beforehand are unrolled.
  template <bool GRADIENT, typename T, int L = -1>
  HALBERD_EVERYWHERE void evaluate(const T u[3], T inverse_r, T* y, T* dx, T* dy, T* dz) const {
    using S = typename Number<T>::Scalar;
    const int degree = L < 0 ? l_max : L;
    // Solid harmonics at |u| = 1: Q_l^m(z) with d/dz Q_l^m = (l + m) Q_(l-1)^m and d/dx Q_l^m = -x Q_(l-1)^(m+1).
    constexpr int MOST = L < 0 ? MAX_L : L;
    T q[MOST + 2][MOST + 3];
    T c[MOST + 1], s[MOST + 1];
    const T none = Number<T>::all(0);
    c[0] = Number<T>::all(1);
    s[0] = none;
    for (int m = 1; m <= degree; ++m) {
      c[m] = u[0] * c[m - 1] - u[1] * s[m - 1];
      s[m] = u[1] * c[m - 1] + u[0] * s[m - 1];
    }
    q[0][0] = Number<T>::all(1);
    for (int l = 0; l <= degree; ++l) {
      if (l > 0) {
        q[l][l] = S(2 * l - 1) * q[l - 1][l - 1];
        q[l][l - 1] = S(2 * l - 1) * u[2] * q[l - 1][l - 1];
        for (int m = 0; m < l - 1; ++m)
          q[l][m] = (S(2 * l - 1) * u[2] * q[l - 1][m] - S(l + m - 1) * q[l - 2][m]) * (S(1) / S(l - m));
      }
      q[l][l + 1] = none;
      q[l][l + 2] = none;
    }
    for (int l = 0; l <= degree; ++l) {
      const int centre = l * l + l;
      for (int m = 0; m <= l; ++m) {
        const S f = S(norm[l][m]);
        const T value = f * q[l][m];
        y[centre + m] = value * c[m];
        if (m > 0) y[centre - m] = value * s[m];
        if (GRADIENT) {
          const T along = l > 0 ? -f * q[l - 1][m + 1] : none;
          const T rise = l > 0 ? f * S(l + m) * q[l - 1][m] : none;
          const T cm = m > 0 ? S(m) * c[m - 1] : none, sm = m > 0 ? S(m) * s[m - 1] : none;
          T g[3] = {u[0] * along * c[m] + value * cm, u[1] * along * c[m] - value * sm, rise * c[m]};
          T lost = S(l) * value * c[m];
          dx[centre + m] = (g[0] - lost * u[0]) * inverse_r;
          dy[centre + m] = (g[1] - lost * u[1]) * inverse_r;
          dz[centre + m] = (g[2] - lost * u[2]) * inverse_r;
          if (m > 0) {
            g[0] = u[0] * along * s[m] + value * sm;
            g[1] = u[1] * along * s[m] + value * cm;
            g[2] = rise * s[m];
            lost = S(l) * value * s[m];
            dx[centre - m] = (g[0] - lost * u[0]) * inverse_r;
            dy[centre - m] = (g[1] - lost * u[1]) * inverse_r;
            dz[centre - m] = (g[2] - lost * u[2]) * inverse_r;
          }
        }
      }
    }
  }
};

}  // namespace

#endif
