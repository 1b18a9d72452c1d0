// The tensors of one safetensors file of tests/golden, for tests below the layer that has the real reader. Policy: a missing tensor or type is a failure at once.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

struct GoldenFile {
  std::string header;
  std::vector<char> data;

  explicit GoldenFile(const std::string& name) {
    const std::string path = std::string(ATOLL_SOURCE_DIR) + "/tests/golden/fp8/" + name + ".safetensors";
    std::ifstream in(path, std::ios::binary);
    uint64_t bytes = 0;
    if (!in.read(reinterpret_cast<char*>(&bytes), 8)) throw std::runtime_error(path + " cannot be read");
    header.resize(bytes);
    in.read(header.data(), static_cast<std::streamsize>(bytes));
    data.assign(std::istreambuf_iterator<char>(in), {});
  }
  template <class T>
  std::vector<T> get(const std::string& name) const {
    const size_t at = header.find("\"" + name + "\":{"), range = header.find("\"data_offsets\":[", at);
    if (at == std::string::npos || range == std::string::npos) throw std::runtime_error("no tensor " + name);
    char* comma = nullptr;
    const size_t begin = std::strtoull(header.c_str() + range + 16, &comma, 10), end = std::strtoull(comma + 1, nullptr, 10);
    std::vector<T> values((end - begin) / sizeof(T));
    std::memcpy(values.data(), data.data() + begin, end - begin);
    return values;
  }
};
