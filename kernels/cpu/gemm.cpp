// Cutting products into tiles and giving the tiles to threads, longest first. Policy: which operands are staged (widened, padded) and how a contraction is blocked
// follows from the problem's shape alone; threads only decide who computes a tile, never how.
#include "kernels/cpu/gemm.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "kernels/cpu/isa/elementwise.h"
#include "kernels/cpu/isa/gemm_fp64.h"
#include "kernels/cpu/onednn.h"
#include "kernels/cpu/state.h"
#include "kernels/cpu/threads.h"
#include "kernels/ops.h"

namespace atoll::cpu {
namespace {

constexpr int64_t kTileRows = 256;       // rows of x: few enough for an expert's share, many enough to pay for packing its weights
constexpr int64_t kRaggedStep = 8;       // a shorter tile is computed with its rows rounded up to this, so that few primitives exist
constexpr int64_t kWidenBlock = 1024;    // contraction widened at a time

int64_t rounded_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
// The same for a short block of summed rows (padded with zeros: exact): coarser where it is long, so that 64 lengths exist.
int64_t ragged_sum(int64_t rows) { return rounded_up(rows, rows <= 256 ? 8 : rows <= 512 ? 16 : 32); }

// One tile of one problem: rows [m0, m0+m) x columns [n0, n0+n) of c.
struct Tile {
  const Gemm* problem;
  int64_t m0, m, n0, n, k;
  int64_t order = 0;  // in which the tiles were cut
  // The primitives of its contraction blocks: the first, the later full ones, the last short one (each null if there is none).
  const Matmul *first = nullptr, *next = nullptr, *last = nullptr;
  double work() const { return static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k); }
};

// Where a tile's operands are staged, when they cannot be used where they lie. Bytes of each part of the thread's scratch.
struct Staging {
  int64_t a = 0, b = 0, c = 0, library = 0;
  int64_t total() const { return a + b + c + library; }
};

struct GemmState : BackendState {
  GemmState(int num_threads, bool is_sizing) : cache(num_threads, is_sizing), threads(num_threads) {}
  MatmulCache cache;
  int threads;
  std::vector<Tile> tiles;  // of the call under way; kept for its capacity
  std::vector<Gemm> noted;  // grouped products, one of each shape; tensors without data
  size_t num_settled = 0;   // of `noted`, for up to most_rows
  int64_t most_rows = 0;
};

GemmState& gemm_state(Context& ctx) {
  CpuState& state = state_of(ctx);
  GemmState* gemm = static_cast<GemmState*>(state.gemm.get());
  if (!gemm || gemm->threads < ctx.num_threads) {
    state.gemm = std::make_unique<GemmState>(ctx.num_threads, ctx.is_sizing);
    gemm = static_cast<GemmState*>(state.gemm.get());
  }
  return *gemm;
}

// How one problem is computed; the same for all its tiles.
struct Plan {
  DType compute;    // of the operands the library sees
  bool is_widened;  // BF16 operands are staged as FP32
  int64_t k, k_block;
  bool c_is_staged_always;  // widened with a BF16 result
};

Plan plan_of(const Context& ctx, const Gemm& p) {
  Plan plan;
  plan.is_widened = p.a.dtype == DType::kBF16 && ctx.bf16_gemm == Bf16Gemm::kWiden;
  plan.compute = plan.is_widened ? DType::kF32 : p.a.dtype;
  plan.k = p.transpose_a ? p.a.dim[0] : p.a.dim[1];
  plan.k_block = p.transpose_a ? kRowBlock : plan.is_widened ? kWidenBlock : std::max<int64_t>(1, plan.k);
  plan.c_is_staged_always = plan.is_widened && p.c.dtype == DType::kBF16;
  return plan;
}

// One contraction block of a tile: which operands are staged, and the leading dims the library sees.
struct Block {
  int64_t k, k_padded, m_padded;
  bool stage_a, stage_b, stage_c;
};
Block block_of(const Gemm& p, const Plan& plan, const Tile& tile, int64_t k0) {
  Block b;
  b.k = std::min(plan.k_block, plan.k - k0);
  b.k_padded = p.transpose_a ? ragged_sum(b.k) : b.k;
  b.m_padded = p.transpose_a ? tile.m : rounded_up(tile.m, kRaggedStep);
  const bool pads_k = b.k_padded != b.k || (p.transpose_a && p.is_grouped && b.k < plan.k_block);  // of many short sums all are staged: one layout, half the primitives
  const bool pads_m = b.m_padded != tile.m;
  b.stage_a = plan.is_widened || pads_k || pads_m;
  b.stage_b = plan.is_widened || pads_k;
  b.stage_c = plan.c_is_staged_always || pads_m;
  return b;
}

MatmulKey key_of(const Gemm& p, const Plan& plan, const Tile& tile, const Block& b, bool accumulate) {
  MatmulKey key;
  key.ab = plan.compute;
  key.c = b.stage_c && plan.is_widened ? DType::kF32 : p.c.dtype;
  key.transpose_a = p.transpose_a;
  key.transpose_b = p.transpose_b;
  key.accumulate = accumulate;
  key.m = static_cast<int32_t>(b.m_padded);
  key.n = static_cast<int32_t>(tile.n);
  key.k = static_cast<int32_t>(b.k_padded);
  key.lda = b.stage_a ? (p.transpose_a ? tile.m : b.k_padded) : p.a.stride[0];
  key.ldb = b.stage_b ? (p.transpose_b ? b.k_padded : tile.n) : p.b.stride[0];
  key.ldc = b.stage_c ? tile.n : p.c.stride[0];
  return key;
}

// Makes the tile's primitives and widens `staging` to what it needs.
void prepare(GemmState& state, const Plan& plan, Tile& tile, Staging& staging) {
  const Gemm& p = *tile.problem;
  const int64_t last_k0 = plan.k <= 0 ? 0 : (plan.k - 1) / plan.k_block * plan.k_block;
  for (int64_t k0 : {int64_t{0}, plan.k_block, last_k0}) {
    if (k0 > last_k0) continue;
    const Block b = block_of(p, plan, tile, k0);
    const Matmul& matmul = state.cache.lookup(key_of(p, plan, tile, b, p.accumulate || k0 > 0));
    (k0 == 0 ? tile.first : k0 == last_k0 ? tile.last : tile.next) = &matmul;
    const auto size = static_cast<int64_t>(size_of(plan.compute));
    if (b.stage_a) staging.a = std::max(staging.a, rounded_up(b.m_padded * b.k_padded * size, 128));
    if (b.stage_b) staging.b = std::max(staging.b, rounded_up(b.k_padded * tile.n * size, 128));
    if (b.stage_c)
      staging.c = std::max(staging.c, rounded_up(b.m_padded * tile.n * static_cast<int64_t>(std::max(size, static_cast<int64_t>(size_of(p.c.dtype)))), 128));
    staging.library = std::max(staging.library, rounded_up(scratch_bytes(matmul), 128));
  }
}

char* at(const Tensor& t, int64_t row, int64_t col) { return t.as<char>() + (row * t.stride[0] + col) * static_cast<int64_t>(size_of(t.dtype)); }

// Copies rows x cols of t from (row, col) to dst [padded_rows, padded_cols] of `type`, zeros beyond.
void stage(Isa isa, const Tensor& t, int64_t row, int64_t col, int64_t rows, int64_t cols, DType type, int64_t padded_rows, int64_t padded_cols, char* dst) {
  const auto size = static_cast<int64_t>(size_of(type));
  for (int64_t r = 0; r < rows; ++r, dst += padded_cols * size) {
    if (t.dtype == type)
      std::memcpy(dst, at(t, row + r, col), static_cast<size_t>(cols * size));
    else
      ATOLL_CALL_ISA(isa, convert_row(at(t, row + r, col), t.dtype, dst, type, cols, 1.0));
    if (padded_cols > cols) std::memset(dst + cols * size, 0, static_cast<size_t>((padded_cols - cols) * size));
  }
  if (padded_rows > rows) std::memset(dst, 0, static_cast<size_t>((padded_rows - rows) * padded_cols * size));
}
void unstage(Isa isa, const char* src, DType type, const Tensor& t, int64_t row, int64_t col, int64_t rows, int64_t cols) {
  const auto size = static_cast<int64_t>(size_of(type));
  for (int64_t r = 0; r < rows; ++r, src += cols * size) {
    if (t.dtype == type)
      std::memcpy(at(t, row + r, col), src, static_cast<size_t>(cols * size));
    else
      ATOLL_CALL_ISA(isa, convert_row(src, type, at(t, row + r, col), t.dtype, cols, 1.0));
  }
}

void run_tile(Isa isa, const Plan& plan, const Tile& tile, const Staging& staging, char* scratch, int thread) {
  const Gemm& p = *tile.problem;
  char* staged_a = scratch;
  char* staged_b = staged_a + staging.a;
  char* staged_c = staged_b + staging.b;
  char* library = staged_c + staging.c;
  const DType c_type = plan.is_widened ? DType::kF32 : p.c.dtype;
  const Block whole = block_of(p, plan, tile, 0);
  if (whole.stage_c && p.accumulate) stage(isa, p.c, tile.m0, tile.n0, tile.m, tile.n, c_type, whole.m_padded, tile.n, staged_c);
  for (int64_t k0 = 0; k0 < plan.k; k0 += plan.k_block) {
    const Block b = block_of(p, plan, tile, k0);
    const void* a = p.transpose_a ? at(p.a, k0, tile.m0) : at(p.a, tile.m0, k0);
    const void* bb = p.transpose_b ? at(p.b, tile.n0, k0) : at(p.b, k0, tile.n0);
    if (b.stage_a) {
      if (p.transpose_a)
        stage(isa, p.a, k0, tile.m0, b.k, tile.m, plan.compute, b.k_padded, tile.m, staged_a);
      else
        stage(isa, p.a, tile.m0, k0, tile.m, b.k, plan.compute, b.m_padded, b.k_padded, staged_a);
      a = staged_a;
    }
    if (b.stage_b) {
      if (p.transpose_b)
        stage(isa, p.b, tile.n0, k0, tile.n, b.k, plan.compute, tile.n, b.k_padded, staged_b);
      else
        stage(isa, p.b, k0, tile.n0, b.k, tile.n, plan.compute, b.k_padded, tile.n, staged_b);
      bb = staged_b;
    }
    const bool is_last = k0 + plan.k_block >= plan.k;
    const Matmul* matmul = k0 == 0 ? tile.first : is_last ? tile.last : tile.next;
    run(*matmul, thread, a, bb, b.stage_c ? staged_c : at(p.c, tile.m0, tile.n0), library);
  }
  if (whole.stage_c) unstage(isa, staged_c, c_type, p.c, tile.m0, tile.n0, tile.m, tile.n);
}

void run_fp64_tile(Isa isa, const Tile& tile, char* scratch) {
  const Gemm& p = *tile.problem;
  const GemmFp64 g{.a = reinterpret_cast<const double*>(p.transpose_a ? at(p.a, 0, tile.m0) : at(p.a, tile.m0, 0)),
                   .b = reinterpret_cast<const double*>(p.transpose_b ? at(p.b, tile.n0, 0) : at(p.b, 0, tile.n0)),
                   .c = reinterpret_cast<double*>(at(p.c, tile.m0, tile.n0)),
                   .scratch = reinterpret_cast<double*>(scratch),
                   .m = tile.m,
                   .n = tile.n,
                   .k = tile.k,
                   .lda = p.a.stride[0],
                   .ldb = p.b.stride[0],
                   .ldc = p.c.stride[0],
                   .transpose_a = p.transpose_a,
                   .transpose_b = p.transpose_b,
                   .accumulate = p.accumulate};
  ATOLL_CALL_ISA(isa, gemm_fp64(g));
}

// Tile sizes by the problem alone. Weight gradients: large tiles, because each packs all its rows of both operands.
void cut(const Gemm& p, std::vector<Tile>& tiles) {
  const int64_t m = p.c.dim[0], n = p.c.dim[1], k = p.transpose_a ? p.a.dim[0] : p.a.dim[1];
  const bool is_small = m * n < 4 * kTileRows * 768;
  const int64_t tile_m = p.transpose_a ? (is_small && !p.is_grouped ? 384 : 768) : kTileRows;
  const int64_t most_n = p.is_grouped && !p.transpose_a ? 1536 : is_small && !p.is_grouped ? 384 : 768;
  const int64_t parts = (n + most_n - 1) / most_n;
  const int64_t tile_n = rounded_up((n + parts - 1) / parts, 64);
  for (int64_t m0 = 0; m0 < m; m0 += tile_m)
    for (int64_t n0 = 0; n0 < n; n0 += tile_n)
      tiles.push_back({&p, m0, std::min(tile_m, m - m0), n0, std::min(tile_n, n - n0), k, static_cast<int64_t>(tiles.size())});
}

void zero(const Tensor& c) {
  for (int64_t r = 0; r < c.dim[0]; ++r) std::memset(at(c, r, 0), 0, static_cast<size_t>(c.dim[1]) * size_of(c.dtype));
}

Tensor shape_of(const Tensor& t, bool any_rows) {
  Tensor shape = t;
  shape.data = nullptr;
  if (any_rows) shape.dim[0] = 0;
  return shape;
}
bool same_shape(const Tensor& a, const Tensor& b) { return a.dtype == b.dtype && a.dim == b.dim && a.stride == b.stride; }

// Rows of an operand or result whose number varies.
Tensor with_rows(Tensor t, int64_t rows) {
  t.dim[0] = rows;
  return t;
}

void compile(GemmState& state, const Context& ctx, const Gemm& noted, int64_t rows, Staging& staging) {
  Gemm p = noted;
  p.a = with_rows(p.a, rows);
  (p.transpose_a ? p.b : p.c) = with_rows(p.transpose_a ? p.b : p.c, rows);
  state.tiles.clear();
  cut(p, state.tiles);
  for (Tile& tile : state.tiles) prepare(state, plan_of(ctx, p), tile, staging);
}

}  // namespace

void note_grouped(Context& ctx, const Gemm& example) {
  if (example.a.dtype == DType::kF64) return;
  Gemm p = example;
  p.a = shape_of(p.a, true);
  p.b = shape_of(p.b, p.transpose_a);
  p.c = shape_of(p.c, !p.transpose_a);
  std::vector<Gemm>& noted = gemm_state(ctx).noted;
  const bool is_known = std::any_of(noted.begin(), noted.end(), [&](const Gemm& n) {
    return n.transpose_a == p.transpose_a && n.transpose_b == p.transpose_b && n.accumulate == p.accumulate && same_shape(n.a, p.a) && same_shape(n.b, p.b) && same_shape(n.c, p.c);
  });
  if (!is_known) noted.push_back(p);
}

void settle_grouped(Context& ctx, int64_t most_rows) {
  GemmState& state = gemm_state(ctx);
  if (most_rows <= state.most_rows && state.num_settled == state.noted.size()) return;
  state.most_rows = std::max(state.most_rows, most_rows);
  state.num_settled = state.noted.size();
  for (const Gemm& p : state.noted) {
    const int64_t block = p.transpose_a ? kRowBlock : kTileRows, most = std::min(ragged_sum(state.most_rows), block);
    Staging staging;
    for (int64_t rows = ragged_sum(1); rows <= most; rows = ragged_sum(rows + 1))
      for (const int64_t count : {rows, rows - 1}) {  // one fewer is padded, so staged
        compile(state, ctx, p, count, staging);
        if (p.transpose_a && state.most_rows > block) compile(state, ctx, p, block + count, staging);  // a later block, which adds
      }
    ctx.memory.workspace.take({ctx.num_threads, staging.total()}, DType::kU8);
  }
  state.tiles.clear();
}

void gemm(Context& ctx, std::span<const Gemm> problems) {
  if (problems.empty()) return;
  const DType dtype = problems.front().a.dtype;
  if (dtype == DType::kBF16 && ctx.bf16_gemm == Bf16Gemm::kAuto) probe_gemm(ctx);  // multiplies too
  GemmState& state = gemm_state(ctx);
  state.tiles.clear();
  for (const Gemm& p : problems) {
    const int64_t k = p.transpose_a ? p.a.dim[0] : p.a.dim[1];
    if (k > 0)
      cut(p, state.tiles);
    else if (!p.accumulate && !ctx.is_sizing)
      zero(p.c);
  }
  if (state.tiles.empty()) return;
  Staging staging;
  staging.library = dtype == DType::kF64 ? kFp64Scratch * 8 : 0;
  if (dtype != DType::kF64)
    for (Tile& tile : state.tiles) prepare(state, plan_of(ctx, *tile.problem), tile, staging);
  // Largest first: threads take the next tile as they finish, so the last ones to finish are small.
  std::sort(state.tiles.begin(), state.tiles.end(),
            [](const Tile& a, const Tile& b) { return a.work() != b.work() ? a.work() > b.work() : a.order < b.order; });

  const auto num_tiles = static_cast<int64_t>(state.tiles.size());
  const int64_t threads = std::min<int64_t>(ctx.num_threads, num_tiles);
  // How many tiles a grouped product has depends on its routing; what it takes shall not.
  const Buffer scratch = ctx.memory.workspace.take({problems.front().is_grouped ? ctx.num_threads : threads, staging.total()}, DType::kU8);
  if (ctx.is_sizing) return;
  const Isa isa = isa_of(ctx);
  std::atomic<int64_t> next{0};
  const OneThread one;
  parallel_for(static_cast<int>(threads), threads, [&](int64_t thread) {
    char* mine = scratch.tensor().as<char>() + thread * staging.total();
    for (int64_t i = next++; i < num_tiles; i = next++) {
      const Tile& tile = state.tiles[static_cast<size_t>(i)];
      if (dtype == DType::kF64)
        run_fp64_tile(isa, tile, mine);
      else
        run_tile(isa, plan_of(ctx, *tile.problem), tile, staging, mine, static_cast<int>(thread));
    }
  });
}

}  // namespace atoll::cpu
