// Stands between a program and the driver's tensor maps: changes one field of every map of rank 3 (the operands of a product), as MUTATE_MAP says: "swizzle N", "box K N", "dim K N" (added)
// or "stride K N" (added). Preloaded by gpu_mutations.py; what the tests and the simulator make of such a map is that script's business.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int (*Encode)(void*, int, uint32_t, void*, const uint64_t*, const uint64_t*, const uint32_t*, const uint32_t*, int, int, int, int);
static Encode real_encode;

static int encode(void* map, int type, uint32_t rank, void* address, const uint64_t* dims, const uint64_t* strides, const uint32_t* box, const uint32_t* steps, int interleave, int swizzle,
                  int promotion, int fill) {
  char field[16] = "";
  int k = 0, n = 0;
  uint64_t new_dims[5], new_strides[4];
  uint32_t new_box[5];
  memcpy(new_dims, dims, rank * sizeof *dims);
  memcpy(new_strides, strides, (rank - 1) * sizeof *strides);
  memcpy(new_box, box, rank * sizeof *box);
  if (rank == 3 && sscanf(getenv("MUTATE_MAP"), "%15s %d %d", field, &k, &n) >= 2) {
    if (!strcmp(field, "swizzle")) swizzle = k;
    if (!strcmp(field, "box")) new_box[k] = (uint32_t)n;
    if (!strcmp(field, "dim")) new_dims[k] += (uint64_t)n;
    if (!strcmp(field, "stride")) new_strides[k] += (uint64_t)n;
  }
  return real_encode(map, type, rank, address, new_dims, new_strides, new_box, steps, interleave, swizzle, promotion, fill);
}

int cudaGetDriverEntryPointByVersion(const char* name, void** entry, unsigned version, unsigned long long flags, int* result) {
  typedef int (*Get)(const char*, void**, unsigned, unsigned long long, int*);
  const Get get = (Get)dlsym(RTLD_NEXT, "cudaGetDriverEntryPointByVersion");
  const int status = get(name, entry, version, flags, result);
  if (!strcmp(name, "cuTensorMapEncodeTiled")) {
    real_encode = (Encode)*entry;
    *entry = (void*)encode;
  }
  return status;
}
