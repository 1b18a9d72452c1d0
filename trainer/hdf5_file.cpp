// The chunk cache is off, so that a chunk reaches the file inside the H5Dwrite that made it and a full disk is seen there.
#include "trainer/hdf5_file.h"

#include <hdf5.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "kernels/base/error.h"

namespace atoll {
namespace {

// Why the last call failed: the system's message where a system call did (its frame buries it among addresses), else what HDF5's frames say, innermost first.
std::string hdf5_reason() {
  std::string reason;
  const auto add = [](unsigned, const H5E_error2_t* frame, void* out) -> herr_t {
    auto& text = *static_cast<std::string*>(out);
    if (frame->desc) text = text.empty() ? frame->desc : std::string(frame->desc) + "; " + text;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, add, &reason);
  constexpr std::string_view kMark = "error message = '";
  if (const size_t begin = reason.find(kMark); begin != std::string::npos) return reason.substr(begin + kMark.size(), reason.find('\'', begin + kMark.size()) - begin - kMark.size());
  if (reason.size() > 500) reason.resize(500);
  return reason.empty() ? "no reason given" : reason;
}

int64_t checked(int64_t id_or_status, const std::string& path, const char* call) {
  if (id_or_status < 0) throw Error(path + ": " + call + " failed: " + hdf5_reason());
  return id_or_status;
}

// Owns one hid_t. close() is checked; the destructor is for unwinding.
class Id {
 public:
  using Close = herr_t (*)(hid_t);
  Id(hid_t id, Close close) : id_(id), close_(close) {}
  Id(Id&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Id(const Id&) = delete;
  ~Id() { if (id_ >= 0) close_(id_); }
  operator hid_t() const { return id_; }
  void close(const std::string& path, const char* call) { checked(close_(std::exchange(id_, -1)), path, call); }

 private:
  hid_t id_;
  Close close_;
};

Id bf16_type(const std::string& path) {
  Id type(checked(H5Tcopy(H5T_IEEE_F32LE), path, "H5Tcopy"), H5Tclose);
  checked(H5Tset_fields(type, 15, 7, 8, 0, 7), path, "H5Tset_fields");  // sign, exponent position and size, mantissa position and size
  checked(H5Tset_precision(type, 16), path, "H5Tset_precision");
  checked(H5Tset_size(type, 2), path, "H5Tset_size");
  checked(H5Tset_ebias(type, 127), path, "H5Tset_ebias");
  return type;
}

Id type_of(DType dtype, const std::string& path) {
  switch (dtype) {
    case DType::kF64: return Id(checked(H5Tcopy(H5T_IEEE_F64LE), path, "H5Tcopy"), H5Tclose);
    case DType::kF32: return Id(checked(H5Tcopy(H5T_IEEE_F32LE), path, "H5Tcopy"), H5Tclose);
    case DType::kBF16: return bf16_type(path);
    case DType::kI32: return Id(checked(H5Tcopy(H5T_STD_I32LE), path, "H5Tcopy"), H5Tclose);
    case DType::kI64: return Id(checked(H5Tcopy(H5T_STD_I64LE), path, "H5Tcopy"), H5Tclose);
    case DType::kU8: return Id(checked(H5Tcopy(H5T_STD_U8LE), path, "H5Tcopy"), H5Tclose);
  }
  throw Error(path + ": unknown dtype");
}

Id space_of(const DatasetShape& shape, const std::string& path) {
  const hsize_t dims[2] = {static_cast<hsize_t>(shape.rows), static_cast<hsize_t>(shape.cols)};
  return Id(checked(H5Screate_simple(shape.is_vector ? 1 : 2, dims, nullptr), path, "H5Screate_simple"), H5Sclose);
}

// Whole rows to about 1 MiB a chunk; a wider row is cut. Chunks of equal height, so that the last one is hardly padded.
void set_chunks(hid_t properties, const DatasetShape& shape, const std::string& path) {
  constexpr int64_t kTarget = 1 << 20;
  const int64_t element = static_cast<int64_t>(size_of(shape.dtype));
  const int64_t cols = std::min(shape.cols, kTarget / element);
  const int64_t target_rows = std::max<int64_t>(1, kTarget / (cols * element));
  const int64_t chunks = (shape.rows + target_rows - 1) / target_rows;
  const hsize_t dims[2] = {static_cast<hsize_t>((shape.rows + chunks - 1) / chunks), static_cast<hsize_t>(cols)};
  checked(H5Pset_chunk(properties, shape.is_vector ? 1 : 2, dims), path, "H5Pset_chunk");
  checked(H5Pset_fletcher32(properties), path, "H5Pset_fletcher32");
}

// First call of every user. A file whose writing failed (full disk) stays half open inside the library, and its clean-up at exit then crashes the process; we close
// every file ourselves and need none.
Id access_properties(const std::string& path) {
  static const herr_t no_cleanup = H5dont_atexit();
  static_cast<void>(no_cleanup);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // per thread; reasons travel in our errors instead of being printed
  Id access(checked(H5Pcreate(H5P_FILE_ACCESS), path, "H5Pcreate"), H5Pclose);
  checked(H5Pset_libver_bounds(access, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST), path, "H5Pset_libver_bounds");
  checked(H5Pset_cache(access, 0, 0, 0, 0.75), path, "H5Pset_cache");
  checked(H5Pset_file_locking(access, false, true), path, "H5Pset_file_locking");  // many readers on file systems without locks
  return access;
}

}  // namespace

Hdf5Writer::Hdf5Writer(const std::string& path) : path_(path) {
  Id access = access_properties(path);
  file_ = checked(H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, access), path, "H5Fcreate");
}

Hdf5Writer::~Hdf5Writer() {
  if (file_ >= 0) H5Fclose(file_);
}

void Hdf5Writer::write(const std::string& dataset, const DatasetShape& shape, const void* data) {
  Id type = type_of(shape.dtype, path_);
  Id space = space_of(shape, path_);
  Id links(checked(H5Pcreate(H5P_LINK_CREATE), path_, "H5Pcreate"), H5Pclose);
  checked(H5Pset_create_intermediate_group(links, 1), path_, "H5Pset_create_intermediate_group");
  Id create(checked(H5Pcreate(H5P_DATASET_CREATE), path_, "H5Pcreate"), H5Pclose);
  checked(H5Pset_obj_track_times(create, false), path_, "H5Pset_obj_track_times");  // equal state, equal file
  const bool is_empty = shape.rows == 0 || shape.cols == 0;
  if (!is_empty) set_chunks(create, shape, path_);
  Id set(checked(H5Dcreate2(file_, dataset.c_str(), type, space, links, create, H5P_DEFAULT), path_, "H5Dcreate2"), H5Dclose);
  if (!is_empty) checked(H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), path_, "H5Dwrite");
  set.close(path_, "H5Dclose");
}

void Hdf5Writer::close() {
  checked(H5Fflush(file_, H5F_SCOPE_GLOBAL), path_, "H5Fflush");
  checked(H5Fclose(std::exchange(file_, -1)), path_, "H5Fclose");
}

Hdf5Reader::Hdf5Reader(const std::string& path) : path_(path) {
  Id access = access_properties(path);
  file_ = checked(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), path, "H5Fopen");
}

Hdf5Reader::~Hdf5Reader() {
  if (file_ >= 0) H5Fclose(file_);
}

void Hdf5Reader::read(const std::string& dataset, const DatasetShape& shape, int64_t row_begin, int64_t row_count, void* data) const {
  const std::string where = path_ + ":" + dataset;
  Id set(checked(H5Dopen2(file_, dataset.c_str(), H5P_DEFAULT), where, "H5Dopen2"), H5Dclose);
  Id type = type_of(shape.dtype, where);
  Id file_type(checked(H5Dget_type(set), where, "H5Dget_type"), H5Tclose);
  if (checked(H5Tequal(type, file_type), where, "H5Tequal") == 0) throw DataError(where + ": is not " + name_of(shape.dtype) + " as the manifest says");
  Id space(checked(H5Dget_space(set), where, "H5Dget_space"), H5Sclose);
  hsize_t dims[H5S_MAX_RANK] = {};
  const int rank = static_cast<int>(checked(H5Sget_simple_extent_dims(space, dims, nullptr), where, "H5Sget_simple_extent_dims"));
  const int expected = shape.is_vector ? 1 : 2;
  if (rank != expected || dims[0] != static_cast<hsize_t>(shape.rows) || (rank == 2 && dims[1] != static_cast<hsize_t>(shape.cols)))
    throw DataError(where + ": has another shape than the manifest says");
  if (row_begin < 0 || row_count < 0 || row_begin + row_count > shape.rows) throw Error(where + ": rows out of range");
  if (row_count == 0 || shape.cols == 0) return;
  const hsize_t start[2] = {static_cast<hsize_t>(row_begin), 0}, count[2] = {static_cast<hsize_t>(row_count), static_cast<hsize_t>(shape.cols)};
  checked(H5Sselect_hyperslab(space, H5S_SELECT_SET, start, nullptr, count, nullptr), where, "H5Sselect_hyperslab");
  DatasetShape part = shape;
  part.rows = row_count;
  Id memory = space_of(part, where);
  checked(H5Dread(set, type, memory, space, H5P_DEFAULT, data), where, "H5Dread");
}

}  // namespace atoll
