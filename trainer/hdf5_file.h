// Tensor rows in HDF5 files: the only door to the HDF5 library. Serial library, chunked, fletcher32, newest file format.
// Policy: every return code is an error when it says so (after a full disk H5Dclose and H5Fclose report success), and nothing here opens a file
// whose hash the caller has not verified: corrupt metadata crashes the library.
#pragma once
#include <cstdint>
#include <string>

#include "kernels/base/dtype.h"

namespace atoll {

// Rows x cols (is_vector: [rows]) of one dtype, C order, little endian. BF16 is a custom float type that h5dump and h5py read as numbers.
struct DatasetShape {
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 1;
  bool is_vector = false;
};

class Hdf5Writer {
 public:
  explicit Hdf5Writer(const std::string& path);  // the file must not exist yet
  ~Hdf5Writer();                                 // closes without a word if close() was not reached
  Hdf5Writer(const Hdf5Writer&) = delete;
  Hdf5Writer& operator=(const Hdf5Writer&) = delete;

  // `dataset` is "group/name"; groups are made as needed. Zero rows or columns make an empty dataset. Error on any failure, with HDF5's reason.
  void write(const std::string& dataset, const DatasetShape& shape, const void* data);
  void close();  // flush, close; the bytes are then the kernel's: fsync is the caller's

 private:
  std::string path_;
  int64_t file_ = -1;
};

class Hdf5Reader {
 public:
  explicit Hdf5Reader(const std::string& path);
  ~Hdf5Reader();
  Hdf5Reader(const Hdf5Reader&) = delete;
  Hdf5Reader& operator=(const Hdf5Reader&) = delete;

  // Rows [row_begin, row_begin + row_count) of the dataset straight into `data`. DataError if the dataset is missing, of another shape or dtype, or its checksum fails.
  void read(const std::string& dataset, const DatasetShape& shape, int64_t row_begin, int64_t row_count, void* data) const;

 private:
  std::string path_;
  int64_t file_ = -1;
};

}  // namespace atoll
