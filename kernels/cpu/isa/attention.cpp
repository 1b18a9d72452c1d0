// One head of one document, causal, in tiles of 64 queries x 64 keys. Tiles of scores are kept transposed (keys down, queries across the lanes): maxima and sums
// are then vertical, and no key or value has to be transposed. All products are FP32 (FP64), whatever the storage. Of a diagonal tile only the lower
// half is computed, in steps of 16.
#include "kernels/cpu/attention.h"

#include "kernels/cpu/isa/tile.h"

namespace atoll::cpu::ATOLL_ISA {
namespace {

constexpr int64_t kB = kAttentionBlock;
constexpr int64_t kStep = 16;  // of a diagonal tile; a multiple of every vector width

int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// dst[d] = scale * src[d], then zeros up to `to`.
template <class S, class A>
void unpack_row(const S* src, int64_t n, A scale, A* dst, int64_t to) {
  ATOLL_FOR_VECTORS(A, d, n, store(dst + d, load(src + d) * scale), store_part(dst + d, load_part(src + d, n - d) * scale, n - d));
  for (int64_t d = n; d < to; ++d) dst[d] = 0;
}
template <class S, class A>
void pack_row(const A* src, int64_t n, A scale, S* dst) {
  ATOLL_FOR_VECTORS(A, d, n, store(dst + d, load(src + d) * scale), store_part(dst + d, load_part(src + d, n - d) * scale, n - d));
}
template <class S>
const S* row(const HeadRows& r, int64_t t) { return static_cast<const S*>(r.data) + t * r.stride; }
template <class S>
S* out_row(const HeadRows& r, int64_t t) { return static_cast<S*>(r.data) + t * r.stride; }

// [nope | rope] keys and values of the document as rows of acc.
template <class S, class A>
void unpack_keys(const AttentionHead& a, A* k, int64_t ldk, A* v, int64_t ldv) {
  for (int64_t t = 0; t < a.L; ++t) {
    unpack_row(row<S>(a.k_nope, t), a.N, A(1), k + t * ldk, a.N);
    if (a.R) unpack_row(row<S>(a.k_rope, t), a.R, A(1), k + t * ldk + a.N, a.R);
    for (int64_t d = a.N + a.R; d < ldk; ++d) k[t * ldk + d] = 0;
    unpack_row(row<S>(a.v, t), a.V, A(1), v + t * ldv, ldv);
  }
}

// s[j][i] = a row j . column i of `bt`, for the rows (keys) of a tile; on the diagonal only columns from the row's step on.
template <class A>
void score_tile(int64_t nk, bool is_diagonal, int64_t K, const A* rows, int64_t ld, const A* bt, A* s) {
  if (!is_diagonal) return multiply<A, false>(nk, kB, K, rows, ld, bt, kB, s, kB, false);
  for (int64_t j = 0; j < nk; j += kStep) multiply<A, false>(least(kStep, nk - j), kB - j, K, rows + j * ld, ld, bt + j, kB, s + j * kB + j, kB, false);
}

// c[j] += sum_i s[j][i] b[i] over queries i < nq: gradients of keys and values.
template <class A>
void add_key_tile(int64_t nk, int64_t nq, bool is_diagonal, const A* s, const A* b, int64_t ldb, A* c) {
  if (!is_diagonal) return multiply<A, false>(nk, ldb, nq, s, kB, b, ldb, c, ldb, true);
  for (int64_t j = 0; j < nk; j += kStep) multiply<A, false>(least(kStep, nk - j), ldb, nq - j, s + j * kB + j, kB, b + j * ldb, ldb, c + j * ldb, ldb, true);
}

// c[i] += sum_j s[j][i] b[j] over keys j < nk: outputs, and gradients of queries.
template <class A>
void add_query_tile(int64_t nk, int64_t nq, bool is_diagonal, const A* s, const A* b, int64_t ldb, A* c) {
  if (!is_diagonal) return multiply<A, true>(nq, ldb, nk, s, kB, b, ldb, c, ldb, true);
  for (int64_t i = 0; i < nq; i += kStep) multiply<A, true>(least(kStep, nq - i), ldb, least(nk, i + kStep), s + i, kB, b, ldb, c + i * ldb, ldb, true);
}

template <class A>
ATOLL_INLINE typename VecOf<A>::type lanes_from(int64_t c) {
  typename VecOf<A>::type v;
  for (int i = 0; i < kWidth<A>; ++i) v[i] = static_cast<A>(c + i);
  return v;
}

// Online softmax of one tile: s becomes exp(s - max), row_max and row_sum move on, correction[i] is what earlier sums must be multiplied by. Returns whether any is not 1.
template <class A>
bool softmax_tile(int64_t nk, bool is_diagonal, A* s, A* row_max, A* row_sum, A* correction) {
  typedef typename VecOf<A>::type V;
  constexpr int W = kWidth<A>;
  bool moved = false;
  for (int64_t c = 0; c < kB; c += W) {
    const V old = load(row_max + c), lane = lanes_from<A>(c);
    const int64_t keys = is_diagonal ? least(nk, c + W) : nk;
    const int64_t whole = is_diagonal ? least(keys, c + 1) : keys;  // of these no query of this vector is masked
    V m = old;
    for (int64_t j = 0; j < whole; ++j) m = max(m, load(s + j * kB + c));
    for (int64_t j = whole; j < keys; ++j) {
      const V masked = lane >= splat(static_cast<A>(j)) ? load(s + j * kB + c) : splat(-static_cast<A>(__builtin_inff()));
      store(s + j * kB + c, masked);
      m = max(m, masked);
    }
    V sum = {};
    for (int64_t j = 0; j < keys; ++j) {
      const V p = exp(load(s + j * kB + c) - m);
      store(s + j * kB + c, p);
      sum += p;
    }
    if (is_diagonal)  // steps of 16 queries read all keys of their step
      for (int64_t j = keys; j < least(nk, c / kStep * kStep + kStep); ++j) store(s + j * kB + c, V{});
    const V f = exp(old - m);
    store(correction + c, f);
    store(row_sum + c, load(row_sum + c) * f + sum);
    store(row_max + c, m);
    for (int i = 0; i < W; ++i) moved |= f[i] != 1;
  }
  return moved;
}

template <class S>
void forward(const AttentionHead& a, typename AccOf<S>::type* scratch) {
  typedef typename AccOf<S>::type A;
  typedef typename VecOf<A>::type V;
  const int64_t Q = a.N + a.R, ldq = padded(Q), ldv = padded(a.V);
  A* k = scratch;
  A* v = k + a.L * ldq;
  A* q = v + a.L * ldv;
  A* qt = q + kB * ldq;
  A* s = qt + Q * kB;
  A* o = s + kB * kB;
  A *row_max = o + kB * ldv, *row_sum = row_max + kB, *correction = row_sum + kB;
  unpack_keys<S, A>(a, k, ldq, v, ldv);
  for (int64_t q0 = 0; q0 < a.L; q0 += kB) {
    const int64_t nq = least(kB, a.L - q0);
    for (int64_t i = 0; i < nq; ++i) unpack_row(row<S>(a.q, q0 + i), Q, static_cast<A>(a.scale), q + i * ldq, Q);
    transpose_block(q, ldq, nq, Q, qt);
    for (int64_t i = 0; i < kB * ldv; i += kWidth<A>) store(o + i, V{});
    for (int64_t i = 0; i < kB; ++i) row_max[i] = -static_cast<A>(__builtin_inff()), row_sum[i] = 0;
    for (int64_t k0 = 0; k0 <= q0; k0 += kB) {
      const int64_t nk = least(kB, a.L - k0);
      const bool is_diagonal = k0 == q0;
      score_tile(nk, is_diagonal, Q, k + k0 * ldq, ldq, qt, s);
      if (softmax_tile(nk, is_diagonal, s, row_max, row_sum, correction) && k0 > 0)
        for (int64_t i = 0; i < nq; ++i)
          for (int64_t d = 0; d < ldv; d += kWidth<A>) store(o + i * ldv + d, load(o + i * ldv + d) * correction[i]);
      add_query_tile(nk, nq, is_diagonal, s, v + k0 * ldv, ldv, o);
    }
    for (int64_t i = 0; i < nq; ++i) {
      pack_row(o + i * ldv, a.V, 1 / row_sum[i], out_row<S>(a.o, q0 + i));
      if constexpr (sizeof(A) == 8) *out_row<A>(a.lse, q0 + i) = row_max[i] + __builtin_log(row_sum[i]);
      else *out_row<A>(a.lse, q0 + i) = row_max[i] + __builtin_logf(row_sum[i]);
    }
  }
}

// s: scores -> probabilities; dp: dP -> dS = P (dP - delta). Masked entries become 0.
template <class A>
void probability_tile(int64_t nk, bool is_diagonal, const A* lse, const A* delta, A* s, A* dp) {
  typedef typename VecOf<A>::type V;
  constexpr int W = kWidth<A>;
  for (int64_t c = 0; c < kB; c += W) {
    const V l = load(lse + c), dl = load(delta + c), lane = lanes_from<A>(c);
    const int64_t keys = is_diagonal ? least(nk, c / kStep * kStep + kStep) : nk;
    for (int64_t j = 0; j < keys; ++j) {
      V p = exp(load(s + j * kB + c) - l);
      V ds = p * (load(dp + j * kB + c) - dl);
      if (is_diagonal && j > c) {
        const V at = splat(static_cast<A>(j));
        p = lane >= at ? p : V{};
        ds = lane >= at ? ds : V{};
      }
      store(s + j * kB + c, p);
      store(dp + j * kB + c, ds);
    }
  }
}

template <class S>
void backward(const AttentionHead& a, typename AccOf<S>::type* scratch) {
  typedef typename AccOf<S>::type A;
  typedef typename VecOf<A>::type V;
  const int64_t Q = a.N + a.R, ldq = padded(Q), ldv = padded(a.V), L = a.L;
  const int64_t blocks = (L + kB - 1) / kB;
  A* k = scratch;
  A* v = k + L * ldq;
  A* q = v + L * ldv;
  A* dq = q + L * ldq;
  A* d_o = dq + L * ldq;
  A* qt = d_o + L * ldv;
  A* dot = qt + blocks * kB * Q;
  A* lse = dot + blocks * kB * a.V;
  A* delta = lse + blocks * kB;
  A* s = delta + blocks * kB;
  A* dp = s + kB * kB;
  A* dk = dp + kB * kB;
  A* dv = dk + kB * ldq;
  unpack_keys<S, A>(a, k, ldq, v, ldv);
  for (int64_t t = 0; t < blocks * kB; ++t) {
    lse[t] = t < L ? *row<A>(a.lse, t) : 0;
    delta[t] = 0;
  }
  for (int64_t t = 0; t < L; ++t) {
    unpack_row(row<S>(a.q, t), Q, static_cast<A>(a.scale), q + t * ldq, ldq);
    unpack_row(row<S>(a.d_o, t), a.V, A(1), d_o + t * ldv, ldv);
    const S* o = row<S>(a.o, t);
    V sum = {};
    ATOLL_FOR_VECTORS(A, d, a.V, sum = fma(load(d_o + t * ldv + d), load(o + d), sum), sum = fma(load(d_o + t * ldv + d), load_part(o + d, a.V - d), sum));
    delta[t] = sum_lanes<A>(sum);
  }
  for (int64_t i = 0; i < L * ldq; i += kWidth<A>) store(dq + i, V{});
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t n = least(kB, L - b * kB);
    transpose_block(q + b * kB * ldq, ldq, n, Q, qt + b * kB * Q);
    transpose_block(d_o + b * kB * ldv, ldv, n, a.V, dot + b * kB * a.V);
  }
  for (int64_t kb = 0; kb < blocks; ++kb) {
    const int64_t k0 = kb * kB, nk = least(kB, L - k0);
    for (int64_t i = 0; i < kB * ldq; i += kWidth<A>) store(dk + i, V{});
    for (int64_t i = 0; i < kB * ldv; i += kWidth<A>) store(dv + i, V{});
    for (int64_t qb = kb; qb < blocks; ++qb) {
      const int64_t q0 = qb * kB, nq = least(kB, L - q0);
      const bool is_diagonal = qb == kb;
      score_tile(nk, is_diagonal, Q, k + k0 * ldq, ldq, qt + q0 * Q, s);
      score_tile(nk, is_diagonal, a.V, v + k0 * ldv, ldv, dot + q0 * a.V, dp);
      probability_tile(nk, is_diagonal, lse + q0, delta + q0, s, dp);
      add_key_tile(nk, nq, is_diagonal, s, d_o + q0 * ldv, ldv, dv);
      add_key_tile(nk, nq, is_diagonal, dp, q + q0 * ldq, ldq, dk);
      add_query_tile(nk, nq, is_diagonal, dp, k + k0 * ldq, ldq, dq + q0 * ldq);
    }
    for (int64_t j = 0; j < nk; ++j) {
      pack_row(dk + j * ldq, a.N, A(1), out_row<S>(a.dk_nope, k0 + j));
      if (a.R) pack_row(dk + j * ldq + a.N, a.R, A(1), out_row<A>(a.dk_rope, k0 + j));
      pack_row(dv + j * ldv, a.V, A(1), out_row<S>(a.dv, k0 + j));
    }
  }
  for (int64_t t = 0; t < L; ++t) pack_row(dq + t * ldq, Q, static_cast<A>(a.scale), out_row<S>(a.dq, t));
}

template <class S>
void sum_rows(const typename AccOf<S>::type* partial, int64_t H, int64_t T, int64_t R, HeadRows out, int64_t begin, int64_t end) {
  typedef typename AccOf<S>::type A;
  typedef typename VecOf<A>::type V;
  for (int64_t t = begin; t < end; ++t)
    for (int64_t d = 0; d < R; d += kWidth<A>) {
      const int64_t n = least(kWidth<A>, R - d);
      V sum = {};
      for (int64_t h = 0; h < H; ++h) {
        const A* p = partial + (h * T + t) * R + d;
        sum += n == kWidth<A> ? load(p) : load_part(p, n);
      }
      S* y = out_row<S>(out, t) + d;
      if (n == kWidth<A>) store(y, sum);
      else store_part(y, sum, n);
    }
}

}  // namespace

void attention_head(const AttentionHead& a, void* scratch) {
  if (a.dtype == DType::kBF16) forward<Bf16>(a, static_cast<float*>(scratch));
  else if (a.dtype == DType::kF32) forward<float>(a, static_cast<float*>(scratch));
  else forward<double>(a, static_cast<double*>(scratch));
}

void attention_backward_head(const AttentionHead& a, void* scratch) {
  if (a.dtype == DType::kBF16) backward<Bf16>(a, static_cast<float*>(scratch));
  else if (a.dtype == DType::kF32) backward<float>(a, static_cast<float*>(scratch));
  else backward<double>(a, static_cast<double*>(scratch));
}

void sum_heads(DType dtype, const void* partial, int64_t H, int64_t T, int64_t R, HeadRows out, int64_t begin, int64_t end) {
  if (dtype == DType::kBF16) sum_rows<Bf16>(static_cast<const float*>(partial), H, T, R, out, begin, end);
  else if (dtype == DType::kF32) sum_rows<float>(static_cast<const float*>(partial), H, T, R, out, begin, end);
  else sum_rows<double>(static_cast<const double*>(partial), H, T, R, out, begin, end);
}

}  // namespace atoll::cpu::ATOLL_ISA
