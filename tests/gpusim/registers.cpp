// Checks of registers: read before written, touched while a wgmma is in flight, written since the last wgmma.fence and then given to a wgmma.
// Policy: moving and computing with what nothing has written is legal (programs do it with the unset items of a partial tile), and so is storing it to shared
// memory and loading it again; the result is unwritten, too. It is reported where it matters: as an address, a guard or an operand of anything that
// synchronises, stores to global memory or is a tensor core's.
#include "tests/gpusim/machine.h"

namespace atoll::gpusim {
namespace {
std::string register_name(const Func& f, u32 index) {
  for (auto& scope : f.ast->regs)
    for (auto& [name, r] : scope)
      if ((u32)r.index == index) return std::string(name);
  for (auto& scope : f.ast->reg_ranges)
    for (auto& r : scope)
      if (index >= (u32)r.reg.index && index < (u32)r.reg.index + r.count) return std::string(r.prefix) + std::to_string(index - r.reg.index);
  return "a register";
}
[[noreturn]] void in_flight(Warp& w, const RegState& s, u32 index, const char* verb) {
  throw SimError(kIllegalInstruction, "register " + register_name(*w.cur.fr->fn, index) + " is " + verb + " while the wgmma of PTX line " +
                                          std::to_string(s.flight_line) + " is in flight: wgmma.wait_group is missing");
}
RegState* state_at(const Warp& w, u32 offset) {
  const auto& at = w.cur.fr->fn->reg_at;
  return offset / 4 < at.size() && at[offset / 4] >= 0 ? &w.cur.fr->regs[at[offset / 4]] : nullptr;
}
[[noreturn]] void unwritten(const Warp& w, u32 index, const char* who, u32 lanes) {
  const Func& f = *w.cur.fr->fn;
  const Origin& o = w.cur.fr->regs[index].origin;
  std::string s = who + register_name(f, index);
  if (!o.at)
    s += " is read, but nothing has written it";
  else if (o.reg >= 0)
    s += " is read, but its value was made of register " + register_name(f, o.reg) + ", which nothing has written (" + source_of(&f, o.at) + ")";
  else if (o.reg == -2)
    s += " is read, but its value was shuffled from a lane that does not take part (" + source_of(&f, o.at) + ")";
  else
    s += " is read, but its value was made of a read of shared memory that nobody has written: address " + hex(o.address) + " (offset " +
         std::to_string((s64)(o.address & 0xffffff) - kSmemBase) + "; " + source_of(&f, o.at) + ")";
  throw SimError(kIllegalInstruction, s, __builtin_ctz(lanes));
}
Origin origin_of(const RegState& s, const Inst& in, u32 index) { return s.origin.at ? s.origin : Origin{&in, (s32)index, 0}; }

// Lanes in which and, or of two sources do not depend on the unwritten one: the other is 0, or all ones.
u32 decided_lanes(Warp& w, const Inst& in, u32 m) {
  const u32 bytes = in.ast->parts.back() == "b64" ? 8 : in.ast->parts.back() == "b32" ? 4 : 2;
  const bool is_and = in.ast->parts[0] == "and";
  u32 decided = 0;
  for (int k = 1; k <= 2; k++) {
    const u32 known = m & written_lanes(w, in.o[k]);
    for (u32 left = known; left; left &= left - 1) {
      const int lane = __builtin_ctz(left);
      u64 v = is_and ? 0 : ~0ull;
      memcpy(&v, w.R + in.o[k] + lane * bytes, bytes);
      if (v == (is_and ? 0 : ~0ull)) decided |= 1u << lane;
    }
  }
  return decided;
}

// Lanes in which the result of a copy or a computation is made of written registers only.
u32 written_result(Warp& w, const Inst& in, const Func::RegUse& u, u32 m) {
  Frame& f = *w.cur.fr;
  if (u.kind == Func::kSelect) {
    const u32 p = *w.reg<u32>(in.o[3]) ^ (in.aux ? kFullMask : 0);
    return written_lanes(w, in.o[3]) & ((p & written_lanes(w, in.o[1])) | (~p & written_lanes(w, in.o[2])));
  }
  u32 defined = kFullMask;
  for (u32 k = u.strict; k < u.reads; k++) defined &= f.regs[f.fn->reg_list[u.first + k]].defined;
  if ((m & ~defined) && u.kind == Func::kLogic) defined |= decided_lanes(w, in, m & ~defined);
  return defined;
}
}  // namespace

u32 written_lanes(const Warp& w, u32 offset) {
  const RegState* s = state_at(w, offset);
  return s ? s->defined : kFullMask;
}
void note_written(Warp& w, const Inst& in, u32 offset, u32 m, u32 written, std::initializer_list<u32> sources) {
  RegState* d = state_at(w, offset);
  if (!d) return;
  if (m & ~written) {
    d->origin = {&in, -2, 0};
    for (u32 source : sources)
      if (const RegState* s = state_at(w, source); s && ~s->defined) {
        d->origin = origin_of(*s, in, (u32)(s - w.cur.fr->regs.data()));
        break;
      }
  }
  d->defined = (d->defined & ~m) | (m & written);
}
void note_unwritten_load(Warp& w, const Inst& in, u32 offset, u32 lanes, u64 address) {
  RegState* d = state_at(w, offset);
  if (!d) return;
  d->defined &= ~lanes;
  d->origin = {&in, -1, address};
}
void unwritten_register(const Warp& w, u32 offset, int lane) { unwritten(w, w.cur.fr->fn->reg_at[offset / 4], "register ", 1u << lane); }

// Checks the registers that an instruction is about to use and marks those that it writes.
void check_regs(Warp& w, const Inst& in, u32 m) {
  Frame& f = *w.cur.fr;
  const Func::RegUse& u = f.fn->uses[&in - f.fn->code.data()];
  if (u.kind == Func::kWgmma) return;  // wgmma_takes_regs
  const u32* r = f.fn->reg_list.data() + u.first;
  for (u32 k = 0; k < u.reads; k++) {
    RegState& s = f.regs[r[k]];
    if (s.in_flight) in_flight(w, s, r[k], "read");
    if (u.kind != Func::kCopy) s.read_in = w.fence_interval;
    if ((m & ~s.defined) && k < u.strict) unwritten(w, r[k], "register ", m & ~s.defined);
  }
  for (u32 k = u.reads; k < (u32)u.reads + u.writes; k++)
    if (f.regs[r[k]].in_flight) in_flight(w, f.regs[r[k]], r[k], "written");
  u32 defined = kFullMask, written_in = w.fence_interval;
  Origin origin;
  if (u.kind >= Func::kCopy && u.kind <= Func::kSelect) {
    defined = written_result(w, in, u, m);
    for (u32 k = u.strict; (m & ~defined) && k < u.reads; k++)
      if (m & ~f.regs[r[k]].defined) origin = origin_of(f.regs[r[k]], in, r[k]);
  }
  if (u.kind == Func::kCopy) {  // a copy that the compiler adds for an operand of inline PTX: the value is as old as its source
    written_in = 0;
    for (u32 k = u.strict; k < u.reads; k++) written_in = std::max(written_in, f.regs[r[k]].written_in);
  }
  for (u32 k = u.reads; k < (u32)u.reads + u.writes; k++) {
    RegState& s = f.regs[r[k]];
    s.written_in = written_in;
    if (u.kind == Func::kOwn) continue;
    s.defined = (s.defined & ~m) | (m & defined);
    if (origin.at) s.origin = origin;
  }
}

// A wgmma is issued: its registers (writes: accumulators; reads: A and the scalars) stay its own until its group was waited for.
void wgmma_takes_regs(Warp& w, const Inst& in, bool reads_accumulators) {
  if (w.fence_interval == 1) throw SimError(kIllegalInstruction, "the first wgmma of a warp comes before any wgmma.fence: wgmma.fence is missing");
  Frame& f = *w.cur.fr;
  const Func::RegUse& u = f.fn->uses[&in - f.fn->code.data()];
  const u32* r = f.fn->reg_list.data() + u.first;
  WgmmaFlight flight{w.wg_open, &f, {}};
  const u32 a_regs = (u32)in.x->v[1].size();
  for (u32 k = 0; k < (u32)u.reads + u.writes; k++) {
    RegState& s = f.regs[r[k]];
    const bool accumulator = k >= u.reads;
    const bool fragment = !accumulator && k < a_regs;  // A comes first among the reads
    if (!accumulator && !fragment) continue;
    if (fragment || reads_accumulators) {
      if (~s.defined) unwritten(w, r[k], "operand of wgmma: register ", ~s.defined);
      if (s.written_in == w.fence_interval && !s.in_flight)
        throw SimError(kIllegalInstruction,
                       "wgmma uses register " + register_name(*f.fn, r[k]) + ", which was written since the last wgmma.fence: wgmma.fence is missing");
    }
    if (accumulator && s.read_in == w.fence_interval && !s.in_flight)  // its own reads must be over before it is overwritten
      throw SimError(kIllegalInstruction,
                     "wgmma overwrites register " + register_name(*f.fn, r[k]) + ", which was read since the last wgmma.fence: wgmma.fence is missing");
    s.in_flight++;
    s.flight_line = in.ast->line;
    flight.regs.push_back(r[k]);
    if (accumulator) s.defined = kFullMask;
  }
  w.flights.push_back(std::move(flight));
}
void wgmma_frees_regs(Warp& w, int upto) {
  while (!w.flights.empty() && w.flights.front().group < upto) {
    for (u32 r : w.flights.front().regs) w.flights.front().frame->regs[r].in_flight--;
    w.flights.pop_front();
  }
}

}  // namespace atoll::gpusim
