// What a launch counted, for people (GPUSIM_STATS) and as a line of JSON (GPUSIM_COUNTERS=FILE).
#include <sys/file.h>

#include "tests/gpusim/machine.h"

namespace atoll::gpusim {

const char* const kClsName[kClassCount] = {"integer", "float", "convert", "global", "shared", "local", "atomic", "control", "sync", "warp", "async", "tensor"};

namespace {
using ull = unsigned long long;
std::string json_text(const std::string& s) {
  std::string out = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}
}  // namespace

void print_counters(const Launch& L, double sec) {
  const Stats& s = L.st;
  fprintf(stderr, "[gpusim] %s  grid (%u,%u,%u) block (%u,%u,%u) cluster (%u,%u,%u) smem %u+%u\n", L.name.c_str(), L.grid[0], L.grid[1], L.grid[2], L.block[0],
          L.block[1], L.block[2], L.cl[0], L.cl[1], L.cl[2], L.fn->static_smem, L.dyn_smem);
  fprintf(stderr, "[gpusim]   %.3f s, %llu warp instructions, %llu thread instructions (%.1f M/s), lanes active %.1f\n", sec, (ull)s.warp_inst,
          (ull)s.thread_inst, s.thread_inst / sec / 1e6, s.warp_inst ? (double)s.thread_inst / s.warp_inst : 0.0);
  fprintf(stderr, "[gpusim]   by class:");
  for (int k = 0; k < kClassCount; k++)
    if (s.cls[k]) fprintf(stderr, " %s %llu;", kClsName[k], (ull)s.cls[k]);
  fprintf(stderr,
          "\n[gpusim]   global ld %llu B st %llu B, %llu sectors in %llu requests; TMA/bulk %llu B; shared ld %llu B st %llu B, %llu accesses, %llu bank "
          "conflicts; waits: %llu barrier, %llu mbarrier; tensor MACs %llu (%.2f G/s)\n",
          (ull)s.g_bytes_ld, (ull)s.g_bytes_st, (ull)s.g_sectors, (ull)s.g_requests, (ull)s.tma_bytes, (ull)s.s_bytes_ld, (ull)s.s_bytes_st, (ull)s.bank_access,
          (ull)s.bank_conflict, (ull)s.barrier_waits, (ull)s.mbarrier_waits, (ull)s.macs, s.macs / sec / 1e9);
}

void append_counters(const Launch& L, double sec) {
  const Stats& s = L.st;
  std::string line = "{\"kernel\": " + json_text(L.name) + ", \"seconds\": " + std::to_string(sec);
  auto put = [&](const char* name, u64 v) { line += std::string(", \"") + name + "\": " + std::to_string(v); };
  put("blocks", (u64)L.grid[0] * L.grid[1] * L.grid[2]);
  put("threads_per_block", (u64)L.block[0] * L.block[1] * L.block[2]);
  put("shared_bytes", L.fn->static_smem + L.dyn_smem);
  put("warp_instructions", s.warp_inst);
  put("thread_instructions", s.thread_inst);
  for (int k = 0; k < kClassCount; k++) put(kClsName[k], s.cls[k]);
  put("macs", s.macs);
  put("global_bytes_loaded", s.g_bytes_ld);
  put("global_bytes_stored", s.g_bytes_st);
  put("global_sectors", s.g_sectors);
  put("global_requests", s.g_requests);
  put("tma_bytes", s.tma_bytes);
  put("shared_bytes_loaded", s.s_bytes_ld);
  put("shared_bytes_stored", s.s_bytes_st);
  put("shared_accesses", s.bank_access);
  put("bank_conflicts", s.bank_conflict);
  put("barrier_waits", s.barrier_waits);
  put("mbarrier_waits", s.mbarrier_waits);
  line += "}\n";
  FILE* f = fopen(options().counters.c_str(), "a");
  if (!f) {
    fprintf(stderr, "[gpusim] cannot append to GPUSIM_COUNTERS=%s\n", options().counters.c_str());
    return;
  }
  flock(fileno(f), LOCK_EX);  // ranks of one job write to one file
  fwrite(line.data(), 1, line.size(), f);
  fclose(f);
}

}  // namespace atoll::gpusim
