// The simulated global memory: device pointers are host pointers inside registered allocations, each with a shadow
// (which bytes were ever written, who accessed them last). Freed ranges stay reserved, so that a use after free is named.
#pragma once
#include "tests/gpusim/machine.h"
#include "tests/gpusim/race_cells.h"

namespace atoll::gpusim {

struct Shadow {
  u64 base, size;
  bool race, uninit;    // host-visible memory (managed, pinned) is written without the simulator's knowledge: checked for neither
  Pages<Cell> cells;    // by word
  Pages<u8> written;    // by byte
  u32 born = 0;         // the operation of a stream that allocates it; 0: it was there for all
  std::set<u32> users;  // launches, copies and fills that touched it
  u32 last_user = 0;
};
struct Alloc {
  u64 base = 0, size = 0;
  std::string what;
  u64 id = 0;
  std::string where;  // the caller of the allocating function
  std::shared_ptr<Shadow> shadow;
};

u64 mem_alloc(u64 size, const std::string& what, u64 align = 512, const std::string& where = "");
bool mem_free(u64 p);
bool mem_find(u64 a, Alloc& out);        // allocation that contains a
bool mem_was_freed(u64 a);               // inside an allocation that is gone
std::string mem_describe(u64 a, u64 n);  // for error messages
std::string mem_name(u64 a);             // "allocation #3 (cudaMalloc, 1024 bytes) + 16"
void mem_register(u64 base, u64 size, const std::string& what);
bool mem_unregister(u64 base);
u64 mem_in_use();
u64 mem_generation();  // changes whenever an allocation is freed
int mem_report_leaks();  // prints what the program allocated and never freed; returns how many
Shadow* mem_shadow(Warp& w, u64 a, u32 n);
Shadow* mem_shadow_of(u64 a);
void mem_mark_written(u64 a, u64 n);
void copy_written(Cta& c, u32 offset, u64 from, u64 n);  // shared memory knows of a copy what its source knew
void check_written(Warp& w, u64 a, u32 n, int lane);     // throws on a read of global memory never written

}  // namespace atoll::gpusim
