// safetensors files: written and read back, bytes as the format's own writer lays them, and every broken header refused with a reason.
#include <catch2/catch.hpp>
#include <cstring>
#include <random>

#include "checkpoint_fixture.h"
#include "trainer/safetensors.h"

using namespace atoll;
using namespace atoll::test;
using Catch::Contains;

namespace {

std::string file_bytes(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

// Opens a file of these bytes.
SafetensorsFile opened(const TempDir& dir, const std::string& bytes) {
  write_text(dir.path() + "/x.safetensors", bytes);
  return SafetensorsFile(dir.path() + "/x.safetensors");
}

}  // namespace

TEST_CASE("Tensors of all dtypes are written and read back") {
  TempDir dir;
  const std::string path = dir.path() + "/model.safetensors";
  std::vector<float> f32 = {1, -2, 3.5f, 0, 5, 6};
  std::vector<double> f64 = {0.1, 0.2};
  std::vector<bf16> b16 = {bf16(1.0f), bf16(-3.0f), bf16(2.0f)};
  std::vector<int32_t> i32 = {-7};
  std::vector<int64_t> i64 = {int64_t{1} << 40, -1};
  const std::vector<SafetensorsItem> items = {{"b.weight", DType::kBF16, {3, 1}, b16.data()}, {"a.i32", DType::kI32, {}, i32.data()},  {"z", DType::kF32, {2, 3}, f32.data()},
                                              {"a.i64", DType::kI64, {2}, i64.data()},        {"a", DType::kF32, {0, 4}, nullptr},     {"q", DType::kF64, {1, 1, 2}, f64.data()}};
  write_safetensors(path, items);
  CHECK(names_in(dir.path()) == std::vector<std::string>{"model.safetensors"});
  const SafetensorsFile file(path);
  std::vector<std::string> order;
  for (const SafetensorsEntry& entry : file.entries()) order.push_back(entry.name);
  CHECK(order == std::vector<std::string>{"a.i64", "q", "a", "z", "a.i32", "b.weight"});
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  for (const SafetensorsItem& item : items) {
    const SafetensorsEntry& entry = file.at(item.name);
    CHECK(entry.shape == item.shape);
    CHECK(entry.dtype == item.dtype);
    CHECK((entry.bytes == 0 || std::memcmp(entry.data, item.data, static_cast<size_t>(entry.bytes)) == 0));
  }
  CHECK(file.tensor("z").shape() == "fp32[2, 3]");
  CHECK(file.tensor("z").as<float>()[2] == 3.5f);
  CHECK(file.tensor("a.i32").shape() == "i32[1]");
  CHECK(file.tensor("a").size() == 0);
  CHECK(file.find("nothing") == nullptr);
  CHECK_THROWS_WITH(file.at("nothing"), Contains("model.safetensors: holds no tensor 'nothing'"));
}

TEST_CASE("The bytes of a small safetensors file are those of the format's own writer") {
  TempDir dir;
  const float one[2] = {1.0f, -2.0f};
  const uint16_t half = 0x3f80;
  const std::vector<SafetensorsItem> items = {{"b", DType::kBF16, {1}, &half}, {"a", DType::kF32, {1, 2}, one}};
  write_safetensors(dir.path() + "/x", items);
  std::string header = R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[8,10]}})";
  header.append((8 - header.size() % 8) % 8, ' ');
  CHECK(text_of(dir.path() + "/x") == file_bytes(header, std::string("\0\0\x80\x3f\0\0\0\xc0\x80\x3f", 10)));
}

TEST_CASE("A file without tensors is legal") {
  TempDir dir;
  write_safetensors(dir.path() + "/x", {}, {});
  CHECK(SafetensorsFile(dir.path() + "/x").entries().empty());
  CHECK(text_of(dir.path() + "/x") == file_bytes("{}      ", ""));
}

TEST_CASE("Dtypes Atoll does not compute with are listed but not viewed") {
  TempDir dir;
  const auto file = opened(dir, file_bytes(R"({"h":{"dtype":"F16","shape":[2],"data_offsets":[0,4]},"n":{"dtype":"F4","shape":[2,3],"data_offsets":[4,7]}})", "abcdefg"));
  CHECK(file.at("h").bytes == 4);
  CHECK(file.at("n").bytes == 3);
  CHECK_FALSE(file.at("h").dtype);
  CHECK_THROWS_WITH(file.tensor("h"), Contains("'h' is F16, which is not supported"));
}

TEST_CASE("Tensors that the writer did not align are not viewed, their bytes are there") {
  TempDir dir;
  const auto file = opened(dir, file_bytes(R"({"u":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})", "abcde"));
  CHECK(file.at("f").bytes == 4);
  CHECK_THROWS_WITH(file.tensor("f"), Contains("not aligned"));
}

TEST_CASE("A safetensors file that breaks a rule is refused with the reason") {
  TempDir dir;
  const auto tensor = [](const std::string& name, const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
  };
  const auto refused = [&](const std::string& bytes, const std::string& reason) {
    INFO(reason);
    CHECK_THROWS_AS(opened(dir, bytes), DataError);
    CHECK_THROWS_WITH(opened(dir, bytes), Contains("x.safetensors") && Contains(reason));
  };
  const auto header_refused = [&](const std::string& inside, const std::string& data, const std::string& reason) { refused(file_bytes("{" + inside + "}", data), reason); };
  const std::string a = tensor("a", "F32", "[1]", "[0,4]"), two(8, 'x');
  CHECK(opened(dir, file_bytes("{" + a + "}", "abcd")).entries().size() == 1);
  CHECK(opened(dir, file_bytes("{" + a + "}   ", "abcd")).entries().size() == 1);

  refused("", "too few");
  refused("1234567", "too few");
  refused(std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8) + "{}", "at most 100000000");
  refused(std::string("\x01\xe1\xf5\x05\0\0\0\0", 8) + "{}", "at most 100000000");
  refused(std::string("\x09\0\0\0\0\0\0\0", 8) + "{}", "claims 9 bytes, the file has 10");
  refused(file_bytes("", ""), "does not begin with '{'");
  refused(file_bytes(" {}", ""), "does not begin with '{'");
  refused(file_bytes("[]", ""), "does not begin with '{'");
  refused(file_bytes("{\"a\"", ""), "parse error");
  refused(file_bytes("{} x", ""), "parse error");
  header_refused(R"("\)" "\xff\":1", "", "parse error");
  header_refused("\"\xc3\x28\":{}", "", "UTF-8");
  header_refused(a + "," + a, "abcd", "the key 'a' twice");
  header_refused(R"("a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})", "abcd", "the key 'dtype' twice");
  header_refused(R"("__metadata__":{"x":1})", "", "'x' is not a string");
  header_refused(R"("__metadata__":"x")", "", "__metadata__ is not an object");
  header_refused(R"("__metadata__":{"x":{"y":{"z":{}}}})", "", "nested too deeply");
  header_refused(R"("a":7)", "", "'a' is not an object");
  header_refused(R"("a":{"dtype":"F32","shape":[1]})", "abcd", "'a' has no data_offsets");
  header_refused(tensor("a", "F33", "[1]", "[0,4]"), "abcd", "unknown dtype");
  header_refused(tensor("a", "F32", "[-1]", "[0,4]"), "abcd", "not a whole number");
  header_refused(tensor("a", "F32", "[1.0]", "[0,4]"), "abcd", "not a whole number");
  header_refused(tensor("a", "F32", "[18446744073709551615]", "[0,4]"), "abcd", "not a whole number");
  header_refused(tensor("a", "F32", "7", "[0,4]"), "abcd", "shape is not an array");
  header_refused(tensor("a", "F32", "[4611686018427387904,4]", "[0,0]"), "", "overflows");
  header_refused(tensor("a", "F32", "[4611686018427387904,4,0]", "[0,0]"), "", "overflows");
  header_refused(tensor("a", "F4", "[3]", "[0,1]"), "a", "whole bytes");
  header_refused(tensor("a", "F32", "[1]", "[0,4,8]"), "abcd", "not [begin, end]");
  header_refused(tensor("a", "F32", "[1]", "[4,0]"), "abcd", "end before they begin");
  header_refused(tensor("a", "F32", "[2]", "[0,4]"), "abcd", "has 4 bytes of data, dtype and shape ask for 8");
  header_refused(a + "," + tensor("b", "F32", "[1]", "[0,4]"), "abcd", "inside another");
  header_refused(a + "," + tensor("b", "F32", "[1]", "[3,7]"), two, "inside another");
  header_refused(tensor("a", "F32", "[1]", "[4,8]"), two, "after a hole");
  header_refused(a + "," + tensor("b", "F32", "[1]", "[5,9]"), "abcdefghi", "after a hole");
  header_refused(a, "abc", "truncated");
  header_refused(a, "abcde", "1 bytes after the last tensor");
  CHECK_THROWS_WITH(SafetensorsFile(dir.path()), Contains("is not a file"));
  CHECK_THROWS_WITH(SafetensorsFile(dir.path() + "/none"), Contains("cannot be opened"));
}

TEST_CASE("Mutated safetensors files are refused or read, never a crash") {
  TempDir dir;
  std::vector<float> data(64, 1.5f);
  std::vector<SafetensorsItem> items;
  for (int i = 0; i < 8; ++i) items.push_back({"model.layers." + std::to_string(i) + ".weight", i % 2 ? DType::kF32 : DType::kBF16, {4, 4}, data.data()});
  write_safetensors(dir.path() + "/good", items);
  const std::string good = text_of(dir.path() + "/good");
  std::mt19937 random(7);
  int refused = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string bytes = good;
    const int changes = 1 + static_cast<int>(random() % 4);
    for (int c = 0; c < changes; ++c) {
      const size_t at = random() % std::min<size_t>(bytes.size(), 900);
      switch (random() % 4) {
        case 0: bytes[at] = static_cast<char>(random()); break;
        case 1: bytes.erase(at, 1 + random() % 8); break;
        case 2: bytes.insert(at, 1 + random() % 8, "0123456789[]{},:\"e-."[random() % 20]); break;
        default: bytes.resize(1 + random() % bytes.size());
      }
    }
    try {
      const SafetensorsFile file = opened(dir, bytes);
      unsigned sum = 0;
      for (const SafetensorsEntry& entry : file.entries())
        for (int64_t i = 0; i < entry.bytes; ++i) sum += static_cast<unsigned>(entry.data[i]);
      CHECK(sum < 1u << 30);
    } catch (const DataError&) {
      ++refused;
    }
  }
  CHECK(refused > 800);
}

TEST_CASE("A safetensors file that cannot be written leaves nothing behind") {
  TempDir dir;
  const float x = 1;
  const std::vector<SafetensorsItem> twice = {{"a", DType::kF32, {1}, &x}, {"a", DType::kF32, {1}, &x}}, foreign = {{"\xff", DType::kF32, {1}, &x}};
  CHECK_THROWS_WITH(write_safetensors(dir.path() + "/x", twice), Contains("twice"));
  CHECK_THROWS_AS(write_safetensors(dir.path() + "/x", foreign), DataError);
  CHECK_THROWS_WITH(write_safetensors(dir.path() + "/none/x", {}), Contains("cannot be created"));
  CHECK(names_in(dir.path()).empty());
}
