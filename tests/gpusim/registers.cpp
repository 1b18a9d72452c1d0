// Checks of registers: read before written, touched while a wgmma is in flight, written since the last wgmma.fence and then given to a wgmma.
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
}  // namespace

// Checks the registers that an instruction is about to use and marks those that it writes.
void check_regs(Warp& w, const Inst& in, u32 m) {
  Frame& f = *w.cur.fr;
  const Func::RegUse& u = f.fn->uses[&in - f.fn->code.data()];
  if (u.kind == Func::kWgmma) return;  // wgmma_takes_regs
  const u32* r = f.fn->reg_list.data() + u.first;
  for (u32 k = 0; k < u.reads; k++) {
    RegState& s = f.regs[r[k]];
    if (s.in_flight) in_flight(w, s, r[k], "read");
    if (u.kind != Func::kMove) s.read_in = w.fence_interval;
    if ((m & ~s.defined) && u.kind == Func::kValue)
      throw SimError(kIllegalInstruction, "register " + register_name(*f.fn, r[k]) + " is read, but nothing has written it", __builtin_ctz(m & ~s.defined));
  }
  for (u32 k = u.reads; k < (u32)u.reads + u.writes; k++)
    if (f.regs[r[k]].in_flight) in_flight(w, f.regs[r[k]], r[k], "written");
  u32 defined = kFullMask, written_in = w.fence_interval;
  if (u.kind == Func::kMove) {  // a copy that the compiler adds for an operand of inline PTX: the value is as old as its source
    written_in = 0;
    for (u32 k = 0; k < u.reads; k++) {
      defined &= f.regs[r[k]].defined;
      written_in = std::max(written_in, f.regs[r[k]].written_in);
    }
  }
  for (u32 k = u.reads; k < (u32)u.reads + u.writes; k++) {
    RegState& s = f.regs[r[k]];
    s.defined = (s.defined & ~m) | (m & defined);
    s.written_in = written_in;
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
      if (~s.defined)
        throw SimError(kIllegalInstruction, "wgmma reads register " + register_name(*f.fn, r[k]) + ", but nothing has written it", __builtin_ctz(~s.defined));
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
