// Loads and stores, the mapping of addresses to simulated memory, coalescing and bank statistics.
#include "tests/gpusim/handlers.h"
#include "tests/gpusim/memory.h"

namespace atoll::gpusim {
std::string hex(u64 v) {
  char b[32];
  snprintf(b, sizeof b, "0x%llx", (unsigned long long)v);
  return b;
}
u8* Warp::global_slow(u64 a, u32 n, int lane) {
  Alloc al;
  if (mem_find(a, al) && a + n <= al.base + al.size) {
    g_lo = al.base;
    g_hi = al.base + al.size;
    return (u8*)a;
  }
  if (a >> 32 >= kSharedTag && a >> 32 <= kFuncTag)
    throw SimError(kIllegalAddress, "global access with the generic address of shared or local memory " + hex(a), lane);
  const char* what = mem_was_freed(a) ? "use after free" : "global memory access out of bounds";
  throw SimError(kIllegalAddress, what + (": address " + hex(a)) + ", " + std::to_string(n) + " bytes; " + mem_describe(a, n), lane);
}
u8* Warp::shared_at(u32 a, u32 n, int lane, bool cluster_space) {
  u32 rank = a >> kRankShift, off = a & ((1u << kRankShift) - 1);
  Cta* c = cta;
  if (rank != cta->rank) {
    if (rank >= cluster->ctas.size())
      throw SimError(kIllegalAddress, "shared address " + hex(a) + " names CTA rank " + std::to_string(rank) + " outside the cluster", lane);
    if (!cluster_space)
      throw SimError(kIllegalAddress,
                     "shared::cta access to address " + hex(a) + " of CTA rank " + std::to_string(rank) + " (own rank " + std::to_string(cta->rank) +
                         "); use shared::cluster",
                     lane);
    c = cluster->ctas[rank].get();
    if (c->done) throw SimError(kIllegalAddress, "distributed shared memory access to CTA rank " + std::to_string(rank) + " which has exited", lane);
  }
  if (off < kSmemBase || off + n > kSmemBase + c->smem_size)
    throw SimError(kIllegalAddress,
                   "shared memory access out of bounds: address " + hex(a) + " (offset " + std::to_string((s64)off - kSmemBase) + "), " + std::to_string(n) +
                       " bytes; the CTA has " + std::to_string(c->smem_size) + " bytes",
                   lane);
  return c->smem.data() + off;
}
u8* Warp::local_at(u64 off, u32 n, int lane) {
  for (const Frame* f = cur.fr; f; f = f->parent)  // a callee is handed addresses of its callers' frames
    if (off >= f->local_base && off + n <= f->local_base + f->fn->local_size) return local.data() + (size_t)lane * local_cap + off;
  const Frame* f = cur.fr;  // the nearest frame below, or the kernel's
  while (f->parent && off < f->local_base) f = f->parent;
  throw SimError(kIllegalAddress,
                 "local memory access out of bounds: offset " + std::to_string((s64)off - f->local_base) + ", " + std::to_string(n) +
                     " bytes; the stack frame of " + f->fn->ast->name + " has " + std::to_string(f->fn->local_size) + " bytes",
                 lane);
}
u8* Warp::resolve(Space sp, u64 a, u32 n, int lane, bool cluster_space) {
  switch (sp) {
    case Space::Global:
    case Space::Const: return global_at(a, n, lane);
    case Space::Shared:
      if (a >> 32) throw SimError(kIllegalAddress, "64-bit address " + hex(a) + " used in the shared space without cvta.to.shared", lane);
      return shared_at((u32)a, n, lane, cluster_space);
    case Space::Local: return local_at(a & 0xffffffff, n, lane);
    default:
      if (a >> 32 == kSharedTag) return shared_at((u32)a, n, lane, true);
      if (a >> 32 == kLocalTag) return local_at((u32)a, n, lane);
      return global_at(a, n, lane);
  }
}

void stat_mem(Warp& w, const Inst& i, const u64* addr, u32 m, u32 sz, bool store) {
  bool sh = false;
  int first = __builtin_ctz(m);
  sh = is_shared(i, addr[first]);
  u64 bytes = (u64)__builtin_popcount(m) * sz;
  if (i.space == Space::Local || i.space == Space::Const) return;
  if (sh) {
    (store ? w.st.s_bytes_st : w.st.s_bytes_ld) += bytes;
    int per = sz <= 4 ? 32 : sz == 8 ? 16 : 8;  // lanes per phase
    for (int p = 0; p < 32; p += per) {
      u64 words[32][8];
      int cnt[32] = {};
      int worst = 0;
      for (int l = p; l < p + per; l++)
        if ((m >> l) & 1)
          for (u32 b = 0; b < std::max(4u, sz); b += 4) {
            u64 wd = (addr[l] + b) >> 2;
            int bk = wd & 31;
            bool dup = false;
            for (int k = 0; k < std::min(cnt[bk], 8); k++)
              if (words[bk][k] == wd) dup = true;
            if (!dup) {
              if (cnt[bk] < 8) words[bk][cnt[bk]] = wd;
              cnt[bk]++;
              worst = std::max(worst, cnt[bk]);
            }
          }
      if (worst) {
        w.st.bank_access++;
        w.st.bank_conflict += worst - 1;
      }
    }
  } else {
    (store ? w.st.g_bytes_st : w.st.g_bytes_ld) += bytes;
    u64 sec[128];
    int ns = 0;
    for (int l = 0; l < 32; l++)
      if ((m >> l) & 1)
        for (u64 s = addr[l] >> 5; s <= (addr[l] + sz - 1) >> 5; s++) {
          bool dup = false;
          for (int k = ns - 1; k >= 0 && k >= ns - 8; k--)
            if (sec[k] == s) dup = true;
          if (!dup && ns < 128) sec[ns++] = s;
        }
    w.st.g_sectors += ns;
    w.st.g_requests++;
  }
}
[[noreturn]] void misaligned(u64 a, u32 sz, int l) {
  throw SimError(kMisaligned, "misaligned access: address " + hex(a) + " is not a multiple of " + std::to_string(sz), l);
}

namespace {
void check_shared(Warp& w, u64 a, u32 n, const u8* p, const Access& acc, const Inst& i) {
  Cta& c = *w.cluster->ctas[(u32)a >> kRankShift];
  const u32 off = (u32)(p - c.smem.data());
  if (options().uninit) {
    if (i.cls == kClassAtom ? i.aux != kAtomExch : !acc.write && !(i.flags & kFlagTracked))  // a load marks its result, see unwritten_loads
      for (u32 k = 0; k < n; k++)
        if (!c.written[off + k])
          throw SimError(kIllegalAddress,
                         "read of shared memory that nobody has written: address " + hex(a + k) + " (offset " + std::to_string(off + k - kSmemBase) + ")",
                         acc.lane);
    if (acc.write) memset(&c.written[off], 1, n);
  }
  if (!w.cluster->race) return;
  if (i.flags & kFlagVolatile) {  // strong accesses of one block order one another
    Clock& v = race_sync_var(*w.cluster, (u32)a);
    race_acquire(w, v);
    if (acc.write) race_release(w, v);
  }
  race_shared(w, (u32)a, n, acc);
}
}  // namespace

void check_access(Warp& w, const Inst& i, u64 a, u32 n, const u8* p, bool write, int lane, bool same_value) {
  Access acc;
  acc.write = write, acc.lane = lane, acc.line = i.ast->line, acc.same_value = same_value, acc.strong = i.flags & kFlagVolatile, acc.narrow = i.flags & kFlagNarrow;
  if (is_shared(i, a)) return check_shared(w, a, n, p, acc, i);
  if (i.space == Space::Local || i.space == Space::Const || (i.space == Space::Generic && a >> 32 == kLocalTag)) return;
  if (options().uninit) {
    if (!write || i.cls == kClassAtom) check_written(w, a, n, lane);
    if (write)
      if (Shadow* s = mem_shadow(w, a, n); s && s->uninit) memset(&s->written[a - s->base], 1, n);
  }
  if (!w.cluster->race) return;
  if (acc.strong) race_strong_global(w, a, write, i.flags & kFlagAcquire, i.flags & kFlagRelease, i.flags & kFlagNarrow);
  race_global(w, a, n, acc);
}

namespace {

template <int W, int RW, bool SGN>
inline void ext(char* d, const u8* s) {
  if constexpr (W == RW)
    memcpy(d, s, W);
  else {
    u64 v = 0;
    memcpy(&v, s, W);
    if (SGN) v = (u64)((s64)(v << (64 - 8 * W)) >> (64 - 8 * W));
    memcpy(d, &v, RW);
  }
}
// Addresses of an access of `size` bytes a lane, all of them aligned.
void aligned_addresses(Warp& w, const Inst& i, u32 m, u32 size, u64* a) {
  addresses(w, i, 1, a);
  const u32 alignment = pow2(size);
  u64 any = 0;
  for (int l = 0; l < 32; l++) any |= (m >> l) & 1 ? a[l] : 0;
  if (any & (alignment - 1))
    lanes(m, [&](int l) {
      if (a[l] & (alignment - 1)) misaligned(a[l], alignment, l);
    });
}
u8* written_flags(Warp& w, u64 a) { return &w.cluster->ctas[(u32)a >> kRankShift]->written[(u32)a & ((1u << kRankShift) - 1)]; }
// A load of shared memory that nobody has written makes a register unwritten.
void unwritten_loads(Warp& w, const Inst& i, const u64* a, const u32* regs, u32 m) {
  lanes(m, [&](int l) {
    if (!is_shared(i, a[l])) return;
    const u8* flags = written_flags(w, a[l]);
    for (u32 k = i.n * i.w; k-- > 0;)  // the first one is named
      if (!flags[k]) note_unwritten_load(w, i, regs[k / i.w], 1u << l, a[l] + k);
  });
}
// A store has marked its destination as written: what comes from unwritten registers is not, and global memory must not be made of it.
void unwritten_stores(Warp& w, const Inst& i, const u64* a, const u32* regs, u32 m) {
  for (u32 k = 0; k < i.n; k++) {
    const u32 unset = m & ~written_lanes(w, regs[k]);
    if (unset)
      lanes(unset, [&](int l) {
        if (is_shared(i, a[l])) {
          if (options().uninit) memset(written_flags(w, a[l]) + k * i.w, 0, i.w);
        } else if (i.space != Space::Local && !(i.space == Space::Generic && a[l] >> 32 == kLocalTag))
          unwritten_register(w, regs[k], l);
      });
  }
}
template <int W, int RW, bool SGN>
void ld_h(Warp& w, const Inst& i, u32 m) {
  u64 a[32];
  const u32 sz = i.n * W;
  aligned_addresses(w, i, m, sz, a);
  if (options().count) stat_mem(w, i, a, m, sz, false);
  const u32* regs = i.n > 1 ? i.x->v[0].data() : &i.o[0];
  const bool checks = options().race || options().uninit, cl = i.flags & kFlagShcluster;
  u32 n = i.n;
  auto one = [&](int l) {
    const u8* p = w.resolve(i.space, a[l], sz, l, cl);
    if (checks) check_access(w, i, a[l], sz, p, false, l, false);
    for (u32 k = 0; k < n; k++) ext<W, RW, SGN>(w.R + regs[k] + l * RW, p + k * W);
  };
  lanes(m, one);
  if ((i.flags & kFlagTracked) && options().uninit) unwritten_loads(w, i, a, regs, m);
}
template <int W, int RW>
void st_h(Warp& w, const Inst& i, u32 m) {
  u64 a[32];
  const u32 sz = i.n * W;
  aligned_addresses(w, i, m, sz, a);
  if (options().count) stat_mem(w, i, a, m, sz, true);
  const u32* regs = i.n > 1 ? i.x->v[0].data() : &i.o[0];
  const bool checks = options().race || options().uninit, cl = i.flags & kFlagShcluster;
  u32 n = i.n;
  lanes(m, [&](int l) {
    u8* p = w.resolve(i.space, a[l], sz, l, cl);
    if (checks) {
      bool same = true;
      for (u32 k = 0; k < n; k++) same &= !memcmp(p + k * W, w.R + regs[k] + l * RW, W);
      check_access(w, i, a[l], sz, p, true, l, same);
    }
    for (u32 k = 0; k < n; k++) memcpy(p + k * W, w.R + regs[k] + l * RW, W);
  });
  if (i.flags & kFlagTracked) unwritten_stores(w, i, a, regs, m);
  w.cluster->progress++;
}
// ld.param of a kernel parameter with a symbolic address: the same value for all lanes
template <int W, int RW>
void ld_uniform(Warp& w, const Inst& i, u32 m) {
  const u32* regs = i.n > 1 ? i.x->v[0].data() : &i.o[0];
  for (u32 k = 0; k < i.n; k++) {
    u64 v[2] = {0, 0};
    memcpy(v, (u8*)i.imm + k * W, W);
    char* d = w.R + regs[k];
    lanes(m, [&](int l) { memcpy(d + l * RW, v, RW); });
  }
}

template <int W, int RW>
Handler ld_or_st(bool st, bool is_signed) {
  if constexpr (W > RW || (W == 16) != (RW == 16))
    return nullptr;
  else
    return st ? &st_h<W, RW> : is_signed ? &ld_h<W, RW, W <= 8> : &ld_h<W, RW, false>;
}
template <int W>
Handler pick_width(int register_bytes, bool st, bool is_signed) {
  switch (register_bytes) {
    case 2: return ld_or_st<W, 2>(st, is_signed);
    case 4: return ld_or_st<W, 4>(st, is_signed);
    case 8: return ld_or_st<W, 8>(st, is_signed);
    case 16: return ld_or_st<W, 16>(st, is_signed);
    default: return nullptr;
  }
}
void mem_class(Inst& i) {
  i.cls = i.space == Space::Shared ? kClassLdstS : (i.space == Space::Global || i.space == Space::Generic) ? kClassLdstG : kClassLdstO;
}

// The data operand of a load or store: one register or a vector of equally wide ones.
void dec_data(Decoder& d, Inst& i, const AstOp& data, bool st, Ty t) {
  const int bits = std::max(16, ty_bits(t));
  u8 rw = 0;
  auto one = [&](const AstOp& o) {
    u8 width;
    const u32 r = st ? d.any_src(o, bits, width, ty_float(t)) : d.any_dst(o, bits, width);
    if (o.kind == AstOp::Sink && rw) width = rw;
    if (rw && width != rw) d.bad("mixed register widths");
    rw = width;
    return r;
  };
  if (data.kind == AstOp::Vec) {
    auto& x = d.ext(i);
    for (auto& s : data.sub) x.v[0].push_back(one(s));
    i.n = data.sub.size();
    if (i.n == 1) i.o[0] = x.v[0][0];
  } else
    i.o[0] = one(data);
  i.rw = rw;
}
// A load of the kernel's parameter of this index: a constant address, the same for all lanes.
void dec_ld_param(Decoder& d, Inst& i, size_t parameter, bool is_signed) {
  i.imm += d.f.param_addr + d.f.param_off[parameter];
  if (i.w == 1 && i.rw == 2)
    i.fn = is_signed ? nullptr : &ld_uniform<1, 2>;
  else if (i.w == i.rw)
    i.fn = i.rw == 2 ? &ld_uniform<2, 2> : i.rw == 4 ? &ld_uniform<4, 4> : &ld_uniform<8, 8>;
  if (i.fn) return;
  i.o[1] = d.const_slot(0, 64);  // a widening load: the general path with an absolute address
  i.aw = 8;
  i.space = Space::Const;
}
int kernel_parameter(Decoder& d, const AstOp& address) {  // its index, or -1
  AstReg r;
  if (!d.af.is_entry || address.name.empty() || d.lookup_reg(address.name, d.a->scope, r)) return -1;
  for (size_t k = 0; k < d.af.params.size(); k++)
    if (d.af.params[k].name == address.name) return (int)k;
  return -1;
}
void dec_ld(Decoder& d, Inst& i) {
  const bool st = d.part(0) == "st";
  if (st && d.has("async")) return dec_st_async(d, i);
  if (d.has("acquire") || d.has("release") || d.has("volatile") || d.has("relaxed") || d.has("mmio")) i.flags |= kFlagVolatile;
  if (d.has("acquire")) i.flags |= kFlagAcquire;
  if (d.has("release")) i.flags |= kFlagRelease;
  if (d.has("cta") || d.has("cluster")) i.flags |= kFlagNarrow;
  const Ty t = d.last_ty();
  if (ty_bits(t) < 8) d.bad("unsupported type");
  Space sp = d.space_of();
  const AstOp &data = d.op(st ? 1 : 0), &address = d.op(st ? 0 : 1);
  const int parameter = sp == Space::Param && !st ? kernel_parameter(d, address) : -1;
  d.addr(address, i, 1, sp);
  i.space = sp;
  if (d.has("shared::cluster")) i.flags |= kFlagShcluster;
  mem_class(i);
  i.w = ty_bits(t) / 8;
  dec_data(d, i, data, st, t);
  if (parameter >= 0) dec_ld_param(d, i, parameter, ty_signed(t));
  if (i.fn) return;
  switch (i.w) {
    case 1: i.fn = pick_width<1>(i.rw, st, ty_signed(t)); break;
    case 2: i.fn = pick_width<2>(i.rw, st, ty_signed(t)); break;
    case 4: i.fn = pick_width<4>(i.rw, st, ty_signed(t)); break;
    case 8: i.fn = pick_width<8>(i.rw, st, ty_signed(t)); break;
    case 16: i.fn = pick_width<16>(i.rw, st, false); break;
  }
}

}  // namespace

void register_mem(DecodeTable& t) { t["ld"] = t["st"] = t["ldu"] = dec_ld; }

}  // namespace atoll::gpusim
