// ATOLL_HD marks what one source gives to host and device. Policy: such code uses no library and no state; nvcc and g++ see the same text.
#pragma once
#ifdef __CUDACC__
#define ATOLL_HD __host__ __device__
#else
#define ATOLL_HD
#endif
