// Where an error happened, in words: kernel, source line, block, thread; and who waits for whom in a deadlock.
#include "tests/gpusim/handlers.h"

namespace atoll::gpusim {
std::string inst_text(const Inst* in) {
  if (!in || !in->ast || in->ast->op.empty()) return "ret";
  const char* s = in->ast->op.data();
  const char* e = s;
  while (*e && *e != ';' && e - s < 160) e++;
  std::string t(s, e - s);
  for (auto& ch : t)
    if (ch == '\n' || ch == '\t') ch = ' ';
  std::string pre = in->ast->pred.empty() ? "" : std::string("@") + (in->ast->pred_neg ? "!" : "") + std::string(in->ast->pred) + " ";
  return pre + t;
}
namespace {
std::string place(const Module& m, int file, int line) {
  auto it = m.files.find(file);
  return (it == m.files.end() ? "file " + std::to_string(file) : it->second) + ":" + std::to_string(line);
}
bool is_cuda_header(const Module& m, int file) {  // of the toolkit or of NVIDIA's wheels
  auto it = m.files.find(file);
  if (it == m.files.end()) return false;
  const std::string& s = it->second;
  return s.find("/include/") != s.npos && (s.find("/cuda") != s.npos || s.find("/nvidia/") != s.npos);
}
}  // namespace
// With the nearest caller that is not the toolkit's, when the code was inlined: an atomicAdd is a line of CUDA's headers.
std::string source_of(const Func* f, const Inst* in) {
  if (!in->ast) return "PTX line 0";
  const AstInst& a = *in->ast;
  const Module& m = *f->mod;
  std::string s = "PTX line " + std::to_string(a.line);
  if (a.loc_line) s += ", " + place(m, a.loc_file, a.loc_line);
  int at = a.inlined;
  while (at && is_cuda_header(m, m.inlined[at].file) && m.inlined[at].outer) at = m.inlined[at].outer;
  if (at) s += ", inlined at " + place(m, m.inlined[at].file, m.inlined[at].line);
  return s;
}
std::string cta_name(const Cta& c) {
  std::string s("(");
  s += std::to_string(c.ctaid[0]) + "," + std::to_string(c.ctaid[1]) + "," + std::to_string(c.ctaid[2]) + ")";
  if (c.cluster->ctas.size() > 1) s += " rank " + std::to_string(c.rank);
  return s;
}
std::string where(Warp& w, const Inst* in) {
  return "  kernel " + w.L->name + "\n  at     " + source_of(w.cur.fr ? w.cur.fr->fn : w.L->fn, in) + ": " + inst_text(in) + "\n  block  " + cta_name(*w.cta) +
         ", warp " + std::to_string(w.id);
}

std::string deadlock_report(Cluster& c, const std::string& title) {
  std::string s = title + "\n  kernel " + c.L->name + "\n";
  int shown = 0;
  for (auto& ct : c.ctas) {
    if (ct->done) {
      s += "  block " + cta_name(*ct) + ": finished\n";
      continue;
    }
    for (auto& wp : ct->warps) {
      if (!wp->live) continue;
      for (auto& g : wp->groups) {
        if (shown++ > 64) {
          s += "  ...\n";
          return s;
        }
        char b[256];
        const Inst& in = g.fr->fn->code[g.pc];
        snprintf(b, sizeof b, "  block %s warp %d lanes 0x%08x: ", cta_name(*ct).c_str(), wp->id, g.mask);
        s += b;
        switch (g.st) {
          case St::Bar: {
            Barrier& br = ct->bar[g.bar];
            s += "waits on barrier " + std::to_string(g.bar) + " (" + std::to_string(br.arrived) + " of " +
                 std::to_string(br.expected ? br.expected : ct->live) + " threads arrived)";
            break;
          }
          case St::Mbar: {
            Cta* o = c.ctas[(u32)g.wait_addr >> kRankShift].get();
            u64 v;
            memcpy(&v, o->smem.data() + ((u32)g.wait_addr & 0xffffff), 8);
            MBar mb = MBar::load(v);
            snprintf(b, sizeof b,
                     "waits on mbarrier at shared offset %u for the phase of parity %u (current phase %u: %u of %u arrivals pending, tx-count %d bytes)",
                     ((u32)g.wait_addr & 0xffffff) - kSmemBase, g.wait_phase, mb.phase, mb.pending, mb.expected, mb.tx);
            s += b;
            break;
          }
          case St::Cluster:
            s += "waits in barrier.cluster (" + std::to_string(c.cb_arrived) + " of " + std::to_string(c.live_threads()) + " threads arrived)";
            break;
          case St::Converge:
            snprintf(b, sizeof b, "waits for lanes 0x%08x of its warp", g.need & wp->live & ~g.mask);
            s += b;
            break;
          case St::Wgmma: s += "waits in wgmma.wait_group for the other warps of its warpgroup"; break;
          case St::Run: s += "runs (spins)"; break;
        }
        s += "\n      at " + source_of(g.fr->fn, &in) + ": " + inst_text(&in) + "\n";
      }
    }
  }
  return s;
}

}  // namespace atoll::gpusim
