// Tensor maps: cuTensorMapEncodeTiled with its rules, tensormap.replace, tensormap.cp_fenceproxy.
#include "tests/gpusim/halfs.h"
#include "tests/gpusim/handlers.h"
#include "tests/gpusim/tma.h"

namespace atoll::gpusim {

// tensormap.replace.tile.field.space.b1024.type [addr], {ord,} value;  tensormap.cp_fenceproxy [dst], [src], 128
static void dec_tensormap(Decoder& d, Inst& i) {
  i.cls = kClassAsync;
  auto& x = d.ext(i);
  if (d.has("cp_fenceproxy")) {
    put_addr(x, 0, addr_op(d, d.op(0), Space::Global));
    put_addr(x, 3, addr_op(d, d.op(1), Space::Shared));
    i.flags |= kFlagCtrl;
    i.fn = [](Warp& w, const Inst& i, u32 m) {
      if (!converge(w, i, m, w.live)) return;
      int l = __builtin_ctz(m);
      memcpy(w.global_at(addr_val(w, i, 0, l), 128, l), w.shared_at(sh_addr(addr_val(w, i, 3, l), l), 128, l, false), 128);
      w.cur.pc++;
    };
    return;
  }
  if (d.part(1) != "replace") d.bad("unsupported form");
  Space sp = d.space_of();
  put_addr(x, 0, addr_op(d, d.op(0), sp));
  i.space = sp;
  Ty t = d.last_ty();
  const char* f[] = {"global_address", "rank",     "box_dim",           "global_dim",   "global_stride",
                     "element_stride", "elemtype", "interleave_layout", "swizzle_mode", "fill_mode"};
  i.aux = 99;
  for (u32 k = 0; k < 10; k++)
    if (d.has(f[k])) i.aux = k;
  if (i.aux == 99) d.bad("unsupported field");
  size_t k = 1;
  if (i.aux >= 2 && i.aux <= 5) i.aux2 = d.op(k++).imm;
  i.rw = ty_bits(t) / 8;
  if (i.rw == 0) i.rw = 4;
  i.o[2] = d.src(d.op(k), i.rw * 8);
  i.fn = [](Warp& w, const Inst& i, u32 m) {
    lanes(m, [&](int l) {
      TensorMap& t = *(TensorMap*)w.resolve(i.space, addr_val(w, i, 0, l), 128, l, false);
      u64 v = i.rw == 8 ? w.reg<u64>(i.o[2])[l] : w.reg<u32>(i.o[2])[l];
      u32 o = i.aux2;
      t.magic = kTmapMagic;  // programs build maps from 128 zero bytes
      switch (i.aux) {
        case 0: t.addr = v; break;
        case 1: t.rank = v + 1; break;
        case 2: t.box[o] = v; break;
        case 3: t.dim[o] = v - 1; break;
        case 4: t.stride[o] = v; break;
        case 5: t.estride[o] = v; break;
        case 6: {  // PTX numbers its element types otherwise than the driver's CUtensorMapDataType
          static const u8 map[13] = {0, 1, 2, 3, 4, 5, 6, 7, 10, 8, 9, 11, 12};
          t.dtype = v < 13 ? map[v] : 0;
          t.elem = elem_bytes(t.dtype);
          break;
        }
        case 7: t.interleave = v; break;
        case 8: t.swizzle = v; break;
        case 9: t.oob = v; break;
      }
    });
  };
}

int elem_bytes(int dt) {
  static const int e[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
  return dt >= 0 && dt < 13 ? e[dt] : 0;
}
std::string encode_tiled(TensorMap& t, int dtype, u32 rank, u64 addr, const u64* dims, const u64* strides, const u32* box, const u32* estr, int interleave,
                         int swizzle, int, int oob) {
  memset((void*)&t, 0, sizeof t);
  int es = elem_bytes(dtype);
  if (!es) return "unknown or unsupported data type " + std::to_string(dtype);
  if (rank < 1 || rank > 5) return "rank must be 1..5";
  if (addr & 15) return "globalAddress must be a multiple of 16";
  if (interleave) return "interleaved layouts are not simulated";
  if (swizzle < 0 || swizzle > 3) return "swizzle mode is not simulated";
  t.addr = addr;
  t.rank = rank;
  t.dtype = dtype;
  t.interleave = interleave;
  t.swizzle = swizzle;
  t.oob = oob;
  t.elem = es;
  t.magic = kTmapMagic;
  for (u32 k = 0; k < rank; k++) {
    if (dims[k] == 0 || dims[k] > (1ull << 32)) return "globalDim[" + std::to_string(k) + "] must be 1..2^32";
    if (box[k] == 0 || box[k] > 256) return "boxDim[" + std::to_string(k) + "] must be 1..256";
    if (estr[k] == 0 || estr[k] > 8) return "elementStrides[" + std::to_string(k) + "] must be 1..8";
    t.dim[k] = (u32)(dims[k] - 1);
    t.box[k] = box[k];
    t.estride[k] = estr[k];
    if (k) {
      u64 s = strides[k - 1];
      if (s & 15 || s >= (1ull << 40)) return "globalStrides[" + std::to_string(k - 1) + "] must be a multiple of 16 below 2^40";
      t.stride[k - 1] = s;
    }
  }
  u32 inner = box[0] * es;
  if (inner & 15) return "inner box extent must be a multiple of 16 bytes";
  static const u32 lim[] = {0, 32, 64, 128};
  if (swizzle && inner > lim[swizzle]) return "inner box extent " + std::to_string(inner) + " exceeds the swizzle span " + std::to_string(lim[swizzle]);
  return "";
}

void register_tensor_map(DecodeTable& t) { t["tensormap"] = dec_tensormap; }

}  // namespace atoll::gpusim
