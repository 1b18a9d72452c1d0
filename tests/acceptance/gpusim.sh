# shellcheck shell=bash disable=SC2034,SC2154
# How the acceptance scripts run a program on the simulator (source it after lib.sh). Policy: the names of the simulator's variables are here and in tests/CMakeLists.txt only.

gpusim_prefix=GPUSIM

# Builds the GPU test program ($test_program) and finds the simulator ($gpusim_library); skipped where there is no nvcc or no simulator.
need_gpusim() {
  [[ -f build/dev/build.ninja ]] || cmake --preset dev >"$work/configure.log" 2>&1 || { tail -n 20 "$work/configure.log"; broken "cmake failed"; }
  gpusim_library=$(sed -n 's/^ATOLL_GPUSIM_LIB:PATH=//p' build/dev/CMakeCache.txt)
  has_target test_kernels_cuda || skip "no nvcc was found when build/dev was configured"
  if has_target gpusim_cudart; then
    cmake --build build/dev --target gpusim_cudart gpusim_cuda >"$work/gpusim.log" 2>&1 || { tail -n 20 "$work/gpusim.log"; broken "building the simulator failed"; }
  fi
  [[ -e "$gpusim_library/libcudart.so.13" ]] || skip "no simulator in $gpusim_library"
  need_test test_kernels_cuda
}
# gpusim NAME=VALUE... -- PROGRAM ARGUMENT...: NAME without the simulator's prefix.
gpusim() {
  local -a settings=()
  while [[ "$1" != -- ]]; do settings+=("${gpusim_prefix}_$1"); shift; done
  shift
  env LD_LIBRARY_PATH="$gpusim_library" "${settings[@]}" "$@"
}
