// The inner product that mma.sync and wgmma share; accumulators are updated in register layout (tensor_product.cpp).
#pragma once
#include "tests/gpusim/decode.h"
#include "tests/gpusim/halfs.h"

namespace atoll::gpusim {

struct Frag {
  alignas(64) float ae[2][32][32];  // A expanded: [h][k][lane]
};

inline __attribute__((always_inline)) float elem(Ty t, const u8* p, int k) {  // k-th element of packed data
  switch (t) {
    case Ty::BF16: {
      u16 v;
      memcpy(&v, p + 2 * k, 2);
      return bf16f(v);
    }
    case Ty::F16: {
      u16 v;
      memcpy(&v, p + 2 * k, 2);
      return f16f(v);
    }
    case Ty::E4M3: return kE4M3[p[k]];
    case Ty::E5M2: return kE5M2[p[k]];
    case Ty::TF32: {
      u32 v;
      memcpy(&v, p + 4 * k, 4);
      return tf32f(v);
    }
    case Ty::S8: return (s8)p[k];
    case Ty::U8: return p[k];
    default: return 0;
  }
}
constexpr int e_bytes(Ty t) { return t == Ty::TF32 ? 4 : (t == Ty::BF16 || t == Ty::F16) ? 2 : 1; }
void expand_a(Frag& f, const float (*a)[32], int K);
// acc += A B in the selected accumulation mode; acc: N/2 registers of 32 lanes. b4 is packed as in tensor_product.cpp.
void product(const Frag& f, const float* b4, float* const* acc, int N, int K, Ty ta, Ty tb, bool wgmma);
void load_a_regs(Warp& w, const std::vector<u32>& regs, Ty t, float (*a)[32]);  // A fragment from registers -> a[16][K]

}  // namespace atoll::gpusim
