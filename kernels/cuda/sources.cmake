# kernels/cuda/*.cu, built by nvcc where it is found (each a translation unit of its own), else kernels/cuda/stub: same symbols, no #ifdef in callers.
# The PTX is embedded, so that the simulator of tests/gpusim runs the very objects a card runs. What ptxas says of each kernel (registers, spills) is kept beside
# the object: build/PRESET/cuda/NAME.ptxas, which tests/acceptance/sass reads. nvcc is called as a tool, not as a CMake language: nothing is probed at configure time.
option(ATOLL_CUDA "build the CUDA kernels where nvcc is found" ON)
set(ATOLL_GPUSIM_LIB "${PROJECT_BINARY_DIR}/gpusim/lib" CACHE PATH "folder of the simulator's libcudart.so.13")
set(ATOLL_CUDA_ROOT "" CACHE PATH "a CUDA toolkit; empty: the one of PATH, of CUDA_HOME or in /usr/local/cuda")
find_program(ATOLL_NVCC nvcc HINTS ${ATOLL_CUDA_ROOT}/bin ENV CUDA_HOME /usr/local/cuda PATH_SUFFIXES bin)
set(ATOLL_HAS_CUDA OFF)
if(ATOLL_CUDA AND ATOLL_NVCC AND NOT ATOLL_SANITIZE)
  cmake_path(GET ATOLL_NVCC PARENT_PATH cuda_root)
  cmake_path(GET cuda_root PARENT_PATH cuda_root)
  find_library(ATOLL_CUDART NAMES libcudart.so.13 cudart HINTS ${cuda_root}/lib64 ${cuda_root}/lib)
  if(ATOLL_CUDART)
    set(ATOLL_HAS_CUDA ON)
  endif()
endif()

# Compiles .cu files and adds the objects to a target.
function(atoll_cuda_sources target)
  # No contraction: a kernel's arithmetic is the CPU's bit by bit where it can be; GEMMs say fmaf themselves. No compression: gpu_mutations edits the PTX in place.
  set(flags -std=c++20 -O2 -lineinfo -fmad=false -cudart shared "-gencode=arch=compute_90a,code=[compute_90a,sm_90a]" -Xptxas=-v -compress-mode=none
      -Xcompiler=-ffp-contract=off,-fPIC,-g1 -include kernels/base/name.h -I${PROJECT_SOURCE_DIR})
  file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/cuda)
  foreach(source ${ARGN})
    cmake_path(GET source STEM name)
    set(object ${PROJECT_BINARY_DIR}/cuda/${name}.o)
    add_custom_command(OUTPUT ${object}
      COMMAND sh -c "\"$@\" 2> \"$0\" || { cat \"$0\"; exit 1; }" ${PROJECT_BINARY_DIR}/cuda/${name}.ptxas ${CMAKE_CXX_COMPILER_LAUNCHER} ${ATOLL_NVCC} ${flags}
              -MD -MF ${object}.d -MT ${object} -c ${source} -o ${object}
      DEPENDS ${source} DEPFILE ${object}.d WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} VERBATIM COMMENT "Building CUDA object cuda/${name}.o")
    set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
    target_sources(${target} PRIVATE ${object})
  endforeach()
endfunction()

if(ATOLL_HAS_CUDA)
  file(GLOB cuda_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/cuda/*.cu)
  atoll_cuda_sources(atoll_kernels ${cuda_sources})
  target_link_libraries(atoll_kernels PRIVATE ${ATOLL_CUDART})
  target_link_options(atoll_kernels INTERFACE -Wl,--enable-new-dtags)  # the library path, which may name the simulator, comes before the build's own
else()
  target_sources(atoll_kernels PRIVATE ${PROJECT_SOURCE_DIR}/kernels/cuda/stub/stub.cpp)
endif()
