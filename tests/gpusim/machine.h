// Execution model: decoded instructions, warps, CTAs, clusters, launches. Nothing here is shared between launches but the Func itself.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <utility>
#include "tests/gpusim/options.h"
#include "tests/gpusim/ptx.h"
#include "tests/gpusim/race.h"

namespace atoll::gpusim {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;

constexpr u32 kFullMask = 0xffffffffu;
constexpr u64 kSharedTag = 0x10000;  // generic address >> 32 of shared memory
constexpr u64 kLocalTag = 0x10001;   // ... of local memory
constexpr u64 kFuncTag = 0x10002;    // "address" of a device function
constexpr u32 kSmemBase = 1024;      // as on sm_90: the first KiB belongs to the system
constexpr int kRankShift = 24;       // CTA rank inside a 32-bit shared::cluster address
constexpr u32 kSmemMax = 227 * 1024;
constexpr u32 kFrameGap = 64;  // bytes between stack frames that belong to none, so that an overrun does not reach the next

constexpr u32 align_up(u32 v, u32 a) { return (v + a - 1) / a * a; }

struct Warp;
struct Cta;
struct Cluster;
struct Inst;
struct Func;
struct Launch;
struct Race;
struct Shadow;
using Handler = void (*)(Warp&, const Inst&, u32 mask);

enum Err : int {  // numbers of cudaError_t
  kInvalidValue = 1,
  kIllegalAddress = 700,
  kLaunchTimeout = 702,
  kAssert = 710,
  kIllegalInstruction = 715,
  kMisaligned = 716,
  kLaunchFailure = 719,
  kInvalidPtx = 218,
  kHardwareStack = 714,
};
struct SimError : std::runtime_error {
  int code;
  int lane;
  SimError(int c, const std::string& s, int l = -1) : std::runtime_error(s), code(c), lane(l) {}
};

enum Cls : u8 {
  kClassInt,
  kClassFloat,
  kClassCvt,
  kClassLdstG,
  kClassLdstS,
  kClassLdstO,
  kClassAtom,
  kClassCtrl,
  kClassSync,
  kClassWarp,
  kClassAsync,
  kClassTensor,
  kClassCount
};
extern const char* const kClsName[kClassCount];

enum InstFlag : u8 { kFlagCtrl = 1, kFlagShcluster = 2, kFlagVolatile = 4, kFlagAcquire = 8, kFlagRelease = 16, kFlagTracked = 32, kFlagNarrow = 64 };  // volatile: any strong access; narrow: of .cta or .cluster scope; tracked: see note_written

struct InstExt {                              // operands that do not fit
  std::vector<u32> v[4];                      // register offsets of vector operands
  std::vector<u8> w[4];                       // register widths in bytes
  std::vector<std::pair<int, int>> arg_copy;  // call: (caller offset, callee offset) handled in ops_ctl
  const AstFunc* callee = nullptr;
  std::string text;
  int p[16] = {};
};

struct Inst {
  Handler fn = nullptr;
  u32 o[6] = {};  // register file offsets
  s64 imm = 0;
  u32 pred = 0;
  u8 pred_kind = 0;  // 0 none, 1 @p, 2 @!p
  u8 flags = 0, cls = kClassInt;
  Space space = Space::None;
  u8 aw = 8;        // address register width in bytes
  u8 n = 1, w = 4;  // vector elements, bytes per element
  u8 rw = 4;        // register width of the data operand in bytes
  u32 target = 0;
  u32 aux = 0, aux2 = 0;
  InstExt* x = nullptr;
  const AstInst* ast = nullptr;
};

// A decoded function.
struct Func {
  const AstFunc* ast = nullptr;
  Module* mod = nullptr;
  std::vector<Inst> code;
  std::deque<InstExt> ext;
  u32 reg_bytes = 0, const_bytes = 0;  // register file = [constants][registers]
  std::vector<u8> const_image;
  struct Special {
    u32 off;
    int id;
  };
  std::vector<Special> specials;
  std::vector<std::pair<u32, int>> shared_relocs;  // slot, width: + rank << 24
  std::vector<std::pair<u32, int>> local_relocs;   // slot, width: + frame's local base
  u32 local_size = 0;
  std::unordered_map<std::string, u32> local_off;  // .local and .param variables by name@scope
  u32 static_smem = 0, dyn_align = 16;
  std::vector<u32> param_off;  // kernel parameters
  u32 param_bytes = 0;
  std::vector<u8> param_buf;
  u64 param_addr = 0;
  u32 params_of = 0;  // the launch whose parameters are in the buffer now
  int index = 0;
  // What an instruction makes of registers that nothing has written (registers.cpp): reports them; its result is unwritten, too (a copy, computed, logic,
  // a selection); its handler says what of its result is written; stores them; wgmma.
  enum RegUseKind : u8 { kUse, kCopy, kCompute, kLogic, kSelect, kOwn, kLoad, kStore, kWgmma };
  struct RegUse {  // registers read and written by an instruction; filled only when registers are checked
    u32 first = 0;  // into reg_list: reads, then writes
    u16 reads = 0, writes = 0, strict = 0;  // the first `strict` reads must have been written
    u8 kind = 0;                            // of RegUseKind
  };
  std::vector<RegUse> uses;   // by instruction
  std::vector<u32> reg_list;  // indices of registers
  std::vector<s32> reg_at;    // index of the register at 4 * k in the register file, or -1; beyond its end are the constants
};

struct Origin {  // of an unwritten value: the instruction that read it first, from a register, (-1) from a shared address or (-2) by a shuffle from a lane that is not there
  const Inst* at = nullptr;
  s32 reg = -1;
  u64 address = 0;
};
struct RegState {
  u32 defined = 0;     // lanes
  Origin origin;       // of the value in the other lanes, when it was copied or computed from one
  u32 written_in = 0;  // the warp's wgmma.fence interval of the last write
  u32 read_in = 0;     // ... and of the last read, copies not counted
  u16 in_flight = 0;   // wgmma that read or write it and were not waited for
  int flight_line = 0;
};
struct Frame {
  Func* fn = nullptr;
  char* R = nullptr;
  Frame* parent = nullptr;
  u32 ret_pc = 0;
  int depth = 0;
  u32 local_base = 0;
  u32 live = 0;  // lanes that still run in this frame
  const Inst* call_inst = nullptr;
  std::vector<RegState> regs;  // by index
};

enum class St : u8 { Run, Converge, Bar, Mbar, Cluster, Wgmma };
struct Group {
  u32 mask = 0, pc = 0;
  Frame* fr = nullptr;
  St st = St::Run;
  u32 need = 0;  // lanes awaited (Converge)
  int bar = -1;  // named barrier (Bar)
  u64 wait_addr = 0;
  u32 wait_phase = 0;  // Mbar: shared::cluster address and parity awaited
  u32 bar_dst = 0;
  int bar_op = 0;
  bool bar_val = false;
  u64 last_run = 0;
};

struct WgmmaOp {
  std::function<void()> run;
  int group;
};
struct WgmmaHeld {  // an accumulator between the issue of a wgmma and its wait: the register itself is NaN meanwhile
  alignas(64) float value[32];
  int group = 0;  // of the last wgmma that uses it
};
struct WgmmaFlight {  // registers that a wgmma occupies until its group was waited for
  int group;
  Frame* frame;
  std::vector<u32> regs;
};

struct Stats {
  u64 warp_inst = 0, thread_inst = 0, cls[kClassCount] = {}, g_bytes_ld = 0, g_bytes_st = 0, s_bytes_ld = 0, s_bytes_st = 0, macs = 0, bank_access = 0,
      bank_conflict = 0, tma_bytes = 0, g_sectors = 0, g_requests = 0, barrier_waits = 0, mbarrier_waits = 0;
  void add(const Stats& o) {
    u64* a = (u64*)this;
    const u64* b = (const u64*)&o;
    for (size_t i = 0; i < sizeof(*this) / 8; i++) a[i] += b[i];
  }
};

struct CpCopy {  // a cp.async that its lane has not waited for (race checker)
  u32 bytes, lane, number;
  int group;
};

struct Warp {
  Cta* cta = nullptr;
  Cluster* cluster = nullptr;
  Launch* L = nullptr;
  int id = 0;
  Group cur;                  // the group that runs now
  std::vector<Group> groups;  // the others
  char* R = nullptr;          // cur.fr->R
  bool stop = false;          // set by a control handler: end this turn
  bool running = false;
  u32 live = 0;  // lanes not exited
  std::vector<u8> local;
  u32 local_cap = 0;
  u64 g_lo = 1, g_hi = 0;  // last global allocation hit
  u32 cc = 0;              // carry flag per lane
  Stats st;
  u64 turn = 0;
  // asynchronous groups (only filled in lazy mode)
  std::deque<WgmmaOp> wg;
  std::deque<std::function<void()>> wg_unchecked;  // issued by this warp, not yet by all four: its reads of shared memory are not noted yet
  std::unordered_map<char*, WgmmaHeld> wg_held;    // by register, in lazy mode
  int wg_open = 0, wg_issued = 0, wg_done = 0;  // wgmma: queue, groups committed, operations issued and executed
  int bulk_open[32] = {}, cp_open[32] = {};     // current group number per lane
  std::deque<WgmmaFlight> flights;
  std::vector<u32> wg_group_ops, bulk_group_ops[32];  // number of the last operation of each committed group
  u32 wg_ops = 0, cp_ops = 0, bulk_ops = 0;
  std::unordered_map<u32, CpCopy> cp_copies;  // by shared address
  u32 fence_interval = 1;  // counts wgmma.fence
  // race checker
  u32 agent = 0;
  Clock clock, released, released_near, pending, pending_near;  // released: at the last fence; pending: read by relaxed loads, acquired by the next fence
  u32 full_sync = 0;                                            // own clock at the last __syncwarp of all lanes
  std::vector<u32> pair_sync;                                   // [a][b]: own clock at the last __syncwarp of lanes a and b
  u64 shadow_lo = 1, shadow_hi = 0;
  Shadow* shadow = nullptr;  // of the last global allocation hit
  u64 wg_seen = 0;

  template <class T>
  T* reg(u32 off) {
    return reinterpret_cast<T*>(R + off);
  }
  u8* local_at(u64 off, u32 n, int lane);
  u8* global_at(u64 a, u32 n, int lane) {
    if (__builtin_expect(a >= g_lo && a + n <= g_hi, 1)) return (u8*)a;
    return global_slow(a, n, lane);
  }
  u8* global_slow(u64 a, u32 n, int lane);
  u8* shared_at(u32 a, u32 n, int lane, bool cluster_space);
  u8* resolve(Space sp, u64 a, u32 n, int lane, bool cluster_space);
};

struct Barrier {
  u32 arrived = 0, expected = 0;
  bool has_count = false;
  u32 popc = 0;
  bool andv = true, orv = false;
  std::vector<std::pair<int, u32>> waiting;  // warp, mask
  Clock clock, released, pending;            // the last two as in Warp
  int gen = 0;
};

struct Cta {
  Cluster* cluster = nullptr;
  u32 rank = 0, ctaid[3] = {}, nthreads = 0, live = 0;
  u32 smem_size = 0;
  std::vector<u8> smem;        // kSmemBase bytes of system area in front
  std::vector<u8> async_smem;  // lazy mode: the same as the async proxy sees it, without generic writes since the last fence.proxy.async
  u8* async_view() { return async_smem.empty() ? smem.data() : async_smem.data(); }
  void async_wrote(u32 offset, u32 bytes) {  // the async proxy wrote into smem
    if (!async_smem.empty()) memcpy(async_smem.data() + offset, smem.data() + offset, bytes);
  }
  std::vector<std::unique_ptr<Warp>> warps;
  Barrier bar[16];
  std::unordered_map<u64, Clock> wgmma_clocks;  // by warpgroup and operation: what its four warps had seen when they issued it
  bool done = false;
  std::vector<u8> written;  // uninitialised-read check
};

struct AsyncOp {
  std::function<void()> run, read;  // read: a store's source is read, its destination is not written yet
  Warp* w;
  int lane;
  int kind;  // 0 bulk load, 1 bulk store, 2 cp.async
  int group;
  u64 due;
};

struct Cluster {
  Launch* L = nullptr;
  u32 id = 0;
  std::vector<std::unique_ptr<Cta>> ctas;
  std::deque<AsyncOp> async;
  std::mt19937_64 rng;
  u64 tick = 0, progress = 0;
  // barrier.cluster
  u32 cb_arrived = 0, cb_gen = 0;
  Clock cb_clock;
  std::vector<std::pair<Warp*, u32>> cb_waiting;
  std::unordered_map<Warp*, std::vector<u32>> cb_phase;  // per warp, per lane: generation it arrived in
  std::shared_ptr<Race> race;
  u32 live_threads();
  bool finished();
  bool run_pass();  // one scheduling pass; false when nothing could run
  void run_async(bool all);
  void run_late();  // nothing else can run: one outstanding operation completes
  ~Cluster();
};

struct FlagClock {
  Clock wide;                           // released at device scope
  std::unordered_map<u64, Clock> near;  // by launch and cluster: released at block scope
  u32 op = 0;                           // the launch that used it last
};

struct Launch {
  Func* fn = nullptr;
  u32 grid[3] = {1, 1, 1}, block[3] = {1, 1, 1}, cl[3] = {1, 1, 1};
  u32 dyn_smem = 0;
  bool cooperative = false;
  u64 grid_ws = 0;  // cooperative launches: workspace of grid.sync, in %envreg1:%envreg2
  Stats st;
  std::vector<u64> exec_count;
  std::mutex mu;
  std::string name;
  std::vector<u8> params;  // copied into the function's parameter buffer when the launch runs
  // order among launches and copies, and what the race checker said
  u32 op = 1;
  std::vector<u32> before;  // by stream: operations that this one comes after
  std::set<std::pair<int, int>> reported;
  int num_races = 0;
};

// ---- decode.cpp -------------------------------------------------------------
struct LoadedModule {
  std::unique_ptr<Module> mod;
  std::unordered_map<std::string, u64> sym_addr;  // .global/.const
  std::unordered_map<std::string, u64> sym_size;
  std::unordered_map<std::string, std::unique_ptr<Func>> funcs;
};
LoadedModule* load_module(std::string text, const std::string& name);
Func* get_func(LoadedModule* m, const std::string& name);  // decodes on first use; throws PtxError
Func* func_by_index(u32 idx);
std::vector<std::string> unsupported_instructions(LoadedModule* m);
enum SpecialId {
  kSrTidx,
  kSrTidy,
  kSrTidz,
  kSrNtidx,
  kSrNtidy,
  kSrNtidz,
  kSrCtax,
  kSrCtay,
  kSrCtaz,
  kSrNctax,
  kSrNctay,
  kSrNctaz,
  kSrLane,
  kSrWarp,
  kSrNwarp,
  kSrSm,
  kSrNsm,
  kSrGridid,
  kSrClx,
  kSrCly,
  kSrClz,
  kSrNclx,
  kSrNcly,
  kSrNclz,
  kSrCctax,
  kSrCctay,
  kSrCctaz,
  kSrCnctax,
  kSrCnctay,
  kSrCnctaz,
  kSrCrank,
  kSrCnrank,
  kSrExplicit,
  kSrLmeq,
  kSrLmle,
  kSrLmlt,
  kSrLmge,
  kSrLmgt,
  kSrDynsmem,
  kSrTotsmem,
  kSrZero,
  kSrEnv1,
  kSrEnv2,
  kSrCount
};

// ---- sched.cpp ----------------------------------------------------------------
void init_frame(Warp& w, Frame& f);
std::string where(Warp& w, const Inst* in);
std::string source_of(const Func* f, const Inst* in);
std::string inst_text(const Inst* in);
std::string cta_name(const Cta& c);
std::string deadlock_report(Cluster& c, const std::string& title);
std::string hex(u64 v);

// counters.cpp
void print_counters(const Launch& L, double seconds);
void append_counters(const Launch& L, double seconds);

// registers.cpp
void check_regs(Warp& w, const Inst& in, u32 m);
u32 written_lanes(const Warp& w, u32 offset);  // lanes in which an operand was written; all for a constant
// For handlers with kFlagTracked: in lanes m, `written` of the result at an offset are written; where not, it comes from one of the sources.
void note_written(Warp& w, const Inst& in, u32 offset, u32 m, u32 written, std::initializer_list<u32> sources);
void note_unwritten_load(Warp& w, const Inst& in, u32 offset, u32 lanes, u64 address);
[[noreturn]] void unwritten_register(const Warp& w, u32 offset, int lane);
void wgmma_takes_regs(Warp& w, const Inst& in, bool reads_accumulators);
void wgmma_frees_regs(Warp& w, int upto);
u32 special_value(const Warp& w, int lane, int id);

// control helpers used by handlers (ops_ctl.cpp)
bool converge(Warp& w, const Inst& in, u32 mask, u32 need);  // true: go on with w.cur
void barrier_check(Cta& c, int id);
void threads_exit(Warp& w, u32 mask);
// mbarrier state transitions (ops_mbarrier.cpp)
void mbar_complete(Cluster& c, u32 addr, s64 tx_bytes, u32 arrivals);
bool cpu_wait_done(Warp& w, const Group& g);
bool wgmma_ready(Warp& w, int upto);  // all warps of the warpgroup have committed `upto` groups

template <class F>
inline __attribute__((always_inline)) void lanes(u32 m, F f) {
  if (m == kFullMask) {
#pragma GCC ivdep
    for (int l = 0; l < 32; l++) f(l);
  } else {
    for (u32 k = m; k; k &= k - 1) f(__builtin_ctz(k));
  }
}

}  // namespace atoll::gpusim
