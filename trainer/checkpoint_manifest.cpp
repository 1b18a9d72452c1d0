// manifest.json to and from values. The only source that knows its JSON layout.
#include "trainer/checkpoint_manifest.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "kernels/base/error.h"
#include "trainer/checkpoint_files.h"
#include "trainer/file_hash.h"

namespace atoll {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void bad(const std::string& why) { throw DataError("manifest.json: " + why); }

const Json& member(const Json& object, const char* key) {
  if (!object.is_object()) bad(std::string("expected an object that holds '") + key + "'");
  const auto it = object.find(key);
  if (it == object.end()) bad(std::string("'") + key + "' is missing");
  return *it;
}

int64_t integer(const Json& object, const char* key) {
  const Json& value = member(object, key);
  const bool fits = value.is_number_integer() && (!value.is_number_unsigned() || value.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()});
  if (!fits || value.get<int64_t>() < 0) bad(std::string("'") + key + "' is not a whole number >= 0");
  return value.get<int64_t>();
}

std::string text(const Json& object, const char* key) {
  const Json& value = member(object, key);
  if (!value.is_string()) bad(std::string("'") + key + "' is not a string");
  return value.get<std::string>();
}

const Json& array(const Json& object, const char* key) {
  const Json& value = member(object, key);
  if (!value.is_array()) bad(std::string("'") + key + "' is not an array");
  return value;
}

std::string hash_text(const Json& object, const char* key) {
  const std::string hash = text(object, key);
  if (hash.size() != 32 || hash.find_first_not_of("0123456789abcdef") != std::string::npos) bad(std::string("'") + key + "' is not an xxh3-128");
  return hash;
}

DType dtype_of(const std::string& name) {
  for (DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kI32, DType::kI64, DType::kU8})
    if (name == name_of(dtype)) return dtype;
  bad("unknown dtype '" + name + "'");
}

// Parses with a bound on nesting; our own files are four deep (extra_json: the caller's).
Json parse_bounded(const std::string& source, const char* what) {
  const auto guard = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > 32) throw DataError(std::string(what) + ": nested too deeply");
    return true;
  };
  try {
    return Json::parse(source, guard);
  } catch (const Json::exception& error) {
    throw DataError(std::string(what) + ": is not JSON: " + error.what());
  }
}

Json to_json(const ManifestFile& file) { return {{"name", file.name}, {"bytes", file.bytes}, {"xxh3_128", file.hash}}; }

Json to_json(const ManifestTensor& tensor) {
  Json shards = Json::array();
  for (const ManifestShard& s : tensor.shards)
    shards.push_back({{"file", s.file}, {"dataset", s.dataset}, {"row_begin", s.row_begin}, {"row_count", s.row_count}, {"xxh3_128", s.hash}});
  Json shape = tensor.is_vector ? Json::array({tensor.rows}) : Json::array({tensor.rows, tensor.cols});
  return {{"name", tensor.name}, {"kind", tensor.kind}, {"dtype", name_of(tensor.dtype)}, {"shape", std::move(shape)}, {"shards", std::move(shards)}};
}

ManifestFile file_of(const Json& json) { return {text(json, "name"), integer(json, "bytes"), hash_text(json, "xxh3_128")}; }

ManifestTensor tensor_of(const Json& json, int file_offset) {
  ManifestTensor tensor;
  tensor.name = text(json, "name");
  tensor.kind = text(json, "kind");
  tensor.dtype = dtype_of(text(json, "dtype"));
  const Json& shape = array(json, "shape");
  if (shape.size() != 1 && shape.size() != 2) bad("tensor " + tensor.name + ": shape has neither one nor two dims");
  for (const Json& dim : shape)
    if (!dim.is_number_integer() || dim.get<int64_t>() < 0) bad("tensor " + tensor.name + ": a dim is not a whole number >= 0");
  tensor.is_vector = shape.size() == 1;
  tensor.rows = shape[0].get<int64_t>();
  tensor.cols = tensor.is_vector ? 1 : shape[1].get<int64_t>();
  for (const Json& s : array(json, "shards")) {
    const int64_t file = integer(s, "file");
    if (file > 1 << 24) bad("tensor " + tensor.name + ": a shard's file index is out of range");
    tensor.shards.push_back({static_cast<int>(file) + file_offset, text(s, "dataset"), integer(s, "row_begin"), integer(s, "row_count"), hash_text(s, "xxh3_128")});
  }
  return tensor;
}

auto key_of(const ManifestTensor& tensor) { return std::tie(tensor.kind, tensor.name); }

// Appends the shards of `from` to `into`: the same tensor as another rank describes it.
void merge(ManifestTensor& into, ManifestTensor& from) {
  if (into.shape() != from.shape()) bad("tensor " + into.kind + "/" + into.name + " is " + into.shape() + " in one place and " + from.shape() + " in another");
  into.shards.insert(into.shards.end(), std::make_move_iterator(from.shards.begin()), std::make_move_iterator(from.shards.end()));
}

void check_coverage(ManifestTensor& tensor, size_t num_files) {
  const std::string name = tensor.kind + "/" + tensor.name;
  if (tensor.kind.empty() || tensor.name.empty()) bad("a tensor without name or kind");
  int64_t elements = 0, bytes = 0;
  if (tensor.cols < 1 || __builtin_mul_overflow(tensor.rows, tensor.cols, &elements) || __builtin_mul_overflow(elements, int64_t(size_of(tensor.dtype)), &bytes))
    bad("tensor " + name + ": impossible shape " + tensor.shape());
  std::sort(tensor.shards.begin(), tensor.shards.end(), [](const ManifestShard& a, const ManifestShard& b) { return a.row_begin < b.row_begin; });
  int64_t next = 0;
  for (const ManifestShard& shard : tensor.shards) {
    if (shard.file < 0 || static_cast<size_t>(shard.file) >= num_files) bad("tensor " + name + ": a shard names a file that is not listed");
    if (shard.row_count < 1 || shard.row_begin > tensor.rows - shard.row_count) bad("tensor " + name + ": a shard lies outside of " + tensor.shape());
    if (shard.row_begin < next) bad("tensor " + name + ": rows " + std::to_string(shard.row_begin) + ".. are covered twice");
    if (shard.row_begin > next) bad("tensor " + name + ": rows " + std::to_string(next) + ".." + std::to_string(shard.row_begin - 1) + " are in no shard");
    next = shard.row_begin + shard.row_count;
  }
  if (next != tensor.rows) bad("tensor " + name + ": rows " + std::to_string(next) + ".." + std::to_string(tensor.rows - 1) + " are in no shard");
}

}  // namespace

std::string ManifestTensor::shape() const {
  return std::string(name_of(dtype)) + "[" + std::to_string(rows) + (is_vector ? "" : ", " + std::to_string(cols)) + "]";
}

int64_t Manifest::total_bytes() const {
  int64_t bytes = 0;
  for (const ManifestFile& file : files) bytes += file.bytes;
  return bytes;
}

const ManifestTensor* Manifest::find(const std::string& kind, const std::string& name) const {
  const auto it = std::lower_bound(tensors.begin(), tensors.end(), std::tie(kind, name), [](const ManifestTensor& t, const auto& key) { return key_of(t) < key; });
  return it != tensors.end() && it->kind == kind && it->name == name ? &*it : nullptr;
}

void Manifest::normalize() {
  std::set<std::string> names = {kManifestName, kChecksumsName};
  for (const ManifestFile& file : files) {
    if (!is_plain_basename(file.name)) bad("file name '" + file.name + "' is not a plain basename");
    if (!names.insert(file.name).second) bad("file " + file.name + " is listed twice");
  }
  std::stable_sort(tensors.begin(), tensors.end(), [](const ManifestTensor& a, const ManifestTensor& b) { return key_of(a) < key_of(b); });
  std::vector<ManifestTensor> merged;
  for (ManifestTensor& tensor : tensors) {
    if (!merged.empty() && key_of(merged.back()) == key_of(tensor)) merge(merged.back(), tensor);
    else merged.push_back(std::move(tensor));
  }
  tensors = std::move(merged);
  for (ManifestTensor& tensor : tensors) check_coverage(tensor, files.size());
}

std::string Manifest::to_json() const {
  Json json = {{"format", "atoll checkpoint"}, {"format_version", kFormatVersion}, {"step", meta.step}, {"tokens", meta.tokens}, {"sequences", meta.sequences}};
  json["saved_at"] = saved_at;
  json["previous"] = previous;
  json["previous_hash"] = previous_hash;
  json["mesh"] = meta.mesh;
  json["data_fingerprint"] = meta.data_fingerprint;
  json["config_hash"] = config_hash;
  json["resolved_config"] = meta.resolved_config_yaml;
  json["extra"] = parse_bounded(meta.extra_json.empty() ? "{}" : meta.extra_json, "extra_json of a checkpoint");
  json["files"] = Json::array();
  for (const ManifestFile& file : files) json["files"].push_back(atoll::to_json(file));
  json["tensors"] = Json::array();
  for (const ManifestTensor& tensor : tensors) json["tensors"].push_back(atoll::to_json(tensor));
  try {
    return json.dump(1) + "\n";
  } catch (const Json::exception& error) {  // text that is not UTF-8
    throw DataError(std::string("the checkpoint's manifest cannot be written: ") + error.what());
  }
}

Manifest Manifest::parse(const std::string& source) {
  const Json json = parse_bounded(source, "manifest.json");
  Manifest manifest;
  const int64_t version = integer(json, "format_version");
  if (version != kFormatVersion) bad("format_version is " + std::to_string(version) + "; this program reads " + std::to_string(kFormatVersion));
  manifest.meta.step = integer(json, "step");
  manifest.meta.tokens = integer(json, "tokens");
  manifest.meta.sequences = integer(json, "sequences");
  manifest.meta.resolved_config_yaml = text(json, "resolved_config");
  manifest.meta.data_fingerprint = text(json, "data_fingerprint");
  manifest.meta.mesh = text(json, "mesh");
  if (!member(json, "extra").is_object()) bad("'extra' is not an object");
  manifest.meta.extra_json = member(json, "extra").dump();
  manifest.config_hash = hash_text(json, "config_hash");
  manifest.previous = text(json, "previous");
  if (json.contains("previous_hash")) manifest.previous_hash = text(json, "previous_hash");  // the first checkpoints had none
  manifest.saved_at = text(json, "saved_at");
  for (const Json& file : array(json, "files")) manifest.files.push_back(file_of(file));
  for (const Json& tensor : array(json, "tensors")) manifest.tensors.push_back(tensor_of(tensor, 0));
  manifest.normalize();
  if (manifest.config_hash != hash_of(manifest.meta.resolved_config_yaml)) bad("the config does not have the hash it should have");
  return manifest;
}

std::string Manifest::checksums(const std::string& manifest_hash) const {
  std::string lines;
  for (const ManifestFile& file : files) lines += file.hash + "  " + file.name + "\n";
  return lines + manifest_hash + "  " + kManifestName + "\n";
}

std::string rank_record(const ManifestFile& file, const std::vector<ManifestTensor>& tensors) {
  Json json = {{"file", atoll::to_json(file)}, {"tensors", Json::array()}};
  for (const ManifestTensor& tensor : tensors) json["tensors"].push_back(atoll::to_json(tensor));
  return json.dump();
}

void add_rank_record(Manifest& manifest, const std::string& record) {
  const Json json = parse_bounded(record, "a rank's record");
  const int index = static_cast<int>(manifest.files.size());
  manifest.files.push_back(file_of(member(json, "file")));
  for (const Json& tensor : array(json, "tensors")) manifest.tensors.push_back(tensor_of(tensor, index));
}

}  // namespace atoll
