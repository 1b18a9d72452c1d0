// The token store on disk: Megatron's bytes exactly, and one clear error for everything that is not a whole store.
#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/store.h"
#include "kernels/base/error.h"
#include "tests/unit/data/sample_text.h"

using namespace atoll;
namespace fs = std::filesystem;

namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer t = train_tokenizer(sample_texts(40), {.vocab_size = 400});
  return t;
}

void make_store(const std::string& folder, int documents = 12) {
  StoreWriter writer(folder, tokenizer());
  for (int i = 0; i < documents; ++i) {
    const std::string text = sample_text(static_cast<uint64_t>(i), 20 + i);
    writer.add_document(i % 5 == 4, tokenizer().encode(text), static_cast<int64_t>(text.size()));
  }
  writer.commit("every fifth", "request", "a test");
}

std::string hex(const std::string& bytes) {
  std::string out;
  for (const char c : bytes) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", static_cast<unsigned char>(c));
    out += two;
  }
  return out;
}

// The message of the DataError that opening (and verifying, if asked) gives; empty when all is well.
std::string complaint(const std::string& folder, bool is_verified = false) {
  try {
    TokenStore::open(folder);
    if (is_verified) verify_token_store(folder);
    return "";
  } catch (const DataError& e) {
    return e.what();
  }
}

void patch(const std::string& path, size_t at, const std::string& bytes) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(at));
  file << bytes;
}

}  // namespace

TEST_CASE("The index has Megatron's bytes") {
  const TestFolder folder;
  TokenFileWriter writer(folder / "x", TokenType::kU16);
  writer.add_document(std::vector<int32_t>{1, 2, 3});
  writer.add_document(std::vector<int32_t>{4, 5});
  writer.finish();
  CHECK(hex(read_bytes(folder / "x.bin")) == "01000200030004000500");
  CHECK(hex(read_bytes(folder / "x.idx")) ==
        "4d4d494449445800000100000000000000080200000000000000030000000000000003000000020000000000000000000000060000000000000000000000000000000100000000000000"
        "0200000000000000");
}

TEST_CASE("Files of Megatron's own builder are read, and written again bit for bit") {
  const std::string golden = std::string(ATOLL_SOURCE_DIR) + "/tests/golden/megatron_idx/";
  std::ifstream in(golden + "expected.json");
  const auto expected = nlohmann::json::parse(in);
  const TestFolder folder;
  int count = 0;
  for (const auto& [name, c] : expected.at("files").items()) {
    CAPTURE(name);
    const TokenFile file(golden + name, 300000);
    CHECK(static_cast<int>(file.type()) == c.at("dtype_code").get<int>());
    CHECK(file.num_sequences() == c.at("sequences").get<int64_t>());
    CHECK(file.num_documents() == c.at("documents").get<int64_t>());
    TokenFileWriter writer(folder / name, file.type());
    int64_t sequence = 0, document = 0, begin = 0;
    const auto index = c.at("document_indices").get<std::vector<int64_t>>();
    const auto lengths = c.at("sequence_lengths").get<std::vector<int32_t>>();
    for (const int32_t length : lengths) {
      CHECK(file.sequence_length(sequence) == length);
      if (index[static_cast<size_t>(document)] == sequence) CHECK(file.document_begin(document) == begin);
      std::vector<int32_t> tokens(static_cast<size_t>(length));
      file.read(begin, tokens);
      if (c.contains("documents_tokens"))
        CHECK(tokens == c.at("documents_tokens")[static_cast<size_t>(document)][static_cast<size_t>(sequence - index[static_cast<size_t>(document)])].get<std::vector<int32_t>>());
      writer.add_sequence(tokens);
      begin += length;
      if (++sequence == index[static_cast<size_t>(document) + 1]) writer.end_document(), ++document;
    }
    CHECK(begin == file.num_tokens());
    writer.finish();
    CHECK(read_bytes(folder / (name + ".bin")) == read_bytes(golden + name + ".bin"));
    CHECK(read_bytes(folder / (name + ".idx")) == read_bytes(golden + name + ".idx"));
    ++count;
  }
  CHECK(count == 4);
}

TEST_CASE("A store gives back the documents with EOS at their ends, and their bytes") {
  const TestFolder folder;
  make_store(folder / "store");
  const auto store = TokenStore::open(folder / "store/");
  CHECK(store.info().train.documents == 10);
  CHECK(store.info().heldout.documents == 2);
  CHECK(store.tokenizer().hash() == tokenizer().hash());
  int64_t train = 0;
  for (int i = 0; i < 12; ++i) {
    if (i % 5 == 4) continue;
    const std::string text = sample_text(static_cast<uint64_t>(i), 20 + i);
    std::vector<int32_t> tokens(static_cast<size_t>(store.train().document_begin(train + 1) - store.train().document_begin(train)));
    store.train().read(store.train().document_begin(train), tokens);
    CHECK(tokens.back() == store.info().eos_id);
    tokens.pop_back();
    CHECK(store.tokenizer().decode(tokens) == text);
    CHECK(store.document_bytes(false, train) == static_cast<int64_t>(text.size()));
    ++train;
  }
  CHECK_NOTHROW(verify_token_store(folder / "store"));
  CHECK(is_token_store(folder / "store"));
  CHECK_FALSE(fs::exists(folder / "store.partial"));
}

TEST_CASE("Every file of a store cut off at any place is refused on opening") {
  const TestFolder folder;
  make_store(folder / "store");
  for (const char* name : {"train.bin", "train.idx", "heldout.bin", "heldout.idx", "train.doc_bytes", "heldout.doc_bytes", "tokenizer.model", "store.json"}) {
    const std::string path = folder / "store/" + name;
    const std::string whole = read_bytes(path);
    std::vector<size_t> sizes = {0, 1, 8, whole.size() / 2, whole.size() - 2, whole.size() - 3};
    if (std::string(name).find(".idx") != std::string::npos) sizes.insert(sizes.end(), {9, 17, 33, 34, 35});
    for (const size_t size : sizes) {
      if (size >= whole.size()) continue;
      CAPTURE(name, size);
      folder.write(std::string("store/") + name, whole.substr(0, size));
      const std::string message = complaint(folder / "store");
      CHECK(message.find(std::string("store/") + (std::string(name).substr(0, 7) == "heldout" ? "heldout" : std::string(name).substr(0, 5))) != std::string::npos);
    }
    fs::remove(path);
    CHECK_FALSE(complaint(folder / "store").empty());
    folder.write(std::string("store/") + name, whole);
    REQUIRE(complaint(folder / "store", true).empty());
    folder.write(std::string("store/") + name, whole + "x");  // longer
    CAPTURE(name);
    CHECK_FALSE(complaint(folder / "store").empty());
    folder.write(std::string("store/") + name, whole);
  }
}

TEST_CASE("A flipped byte anywhere is found by verify") {
  const TestFolder folder;
  make_store(folder / "store");
  for (const char* name : {"train.bin", "train.idx", "heldout.bin", "heldout.idx", "train.doc_bytes", "heldout.doc_bytes", "tokenizer.model"}) {
    const std::string path = folder / "store/" + name;
    const std::string whole = read_bytes(path);
    const Rng rng(11, name);
    for (uint64_t i = 0; i < 12; ++i) {
      std::string bad = whole;
      const size_t at = rng.below(i, whole.size());
      bad[at] = static_cast<char>(bad[at] ^ (1 << rng.below(i + 100, 8)));
      CAPTURE(name, at);
      folder.write(std::string("store/") + name, bad);
      CHECK_FALSE(complaint(folder / "store", true).empty());
    }
    folder.write(std::string("store/") + name, whole);
  }
  CHECK(complaint(folder / "store", true).empty());
}

TEST_CASE("Foreign and damaged indexes name what is wrong") {
  const TestFolder folder;
  make_store(folder / "store");
  const std::string idx = folder / "store/train.idx", bin = folder / "store/train.bin", whole = read_bytes(idx), tokens = read_bytes(bin);
  const auto with = [&](size_t at, const std::string& bytes) {
    patch(idx, at, bytes);
    const std::string message = complaint(folder / "store");
    folder.write("store/train.idx", whole);
    return message;
  };
  CHECK(with(0, "PK").find("not a Megatron index") != std::string::npos);
  CHECK(with(9, "\x02").find("version 2") != std::string::npos);
  CHECK(with(17, "\x07").find("token type 7") != std::string::npos);
  CHECK(with(18, std::string(8, '\xff')).find("promises") != std::string::npos);
  CHECK(with(26, std::string(8, '\0')).find("promises") != std::string::npos);
  CHECK(with(34, std::string(4, '\xff')).find("-1 tokens") != std::string::npos);
  CHECK(with(34 + 4 * 10 + 8, "\x01").find("does not begin where") != std::string::npos);
  CHECK(with(34 + 12 * 10, "\x01").find("document 0") != std::string::npos);
  CHECK(with(34 + 12 * 10 + 8 * 5, "\x01").find("document") != std::string::npos);
  folder.write("store/train.bin", tokens.substr(0, 10) + "\xff\xff" + tokens.substr(12));
  CHECK(complaint(folder / "store").find("token 65535, outside the vocabulary of 400") != std::string::npos);
  folder.write("store/train.bin", tokens);
  folder.write("store/store.json", "{\"format\": \"something\"}");
  CHECK(complaint(folder / "store").find("something else") != std::string::npos);
  CHECK(complaint(folder / "nowhere").find("no such folder") != std::string::npos);
  CHECK(complaint("").find("set data.store") != std::string::npos);
  fs::create_directory(folder / "plain");
  CHECK(complaint(folder / "plain").find("not a token store") != std::string::npos);
}

TEST_CASE("The tokenizer of another store is refused") {
  const TestFolder folder;
  make_store(folder / "store");
  folder.write("store/tokenizer.model", train_tokenizer(sample_texts(30), {.vocab_size = 400}).serialized());
  CHECK(complaint(folder / "store").find("not the tokenizer this store was made with") != std::string::npos);
}

TEST_CASE("A store whose end of text is not its tokenizer's is refused") {
  const TestFolder folder;
  make_store(folder / "store");
  std::string json = read_bytes(folder / "store/store.json");
  const std::string right = "\"eos_id\": " + std::to_string(tokenizer().eos_id());
  REQUIRE(json.find(right) != std::string::npos);
  folder.write("store/store.json", json.replace(json.find(right), right.size(), "\"eos_id\": 7"));
  CHECK(complaint(folder / "store").find("documents end with token 7") != std::string::npos);
}

TEST_CASE("An unfinished store is never taken for one, and the next run clears it") {
  const TestFolder folder;
  {
    StoreWriter writer(folder / "store", tokenizer());
    writer.add_document(false, {5, 6}, 2);
    CHECK_FALSE(is_token_store(folder / "store"));
    CHECK_THROWS_AS(StoreWriter(folder / "store", tokenizer()), DataError);  // someone else is at it
    CHECK(fs::exists(folder / "store.partial/train.bin"));                   // and that one's files were left alone
  }
  CHECK_FALSE(fs::exists(folder / "store.partial"));  // left without commit: nothing stays
  folder.write("store.partial/unfinished", "");       // what kill -9 leaves
  folder.write("store.partial/train.bin", "half");
  folder.write("store.partial/junk", "half");
  make_store(folder / "store");
  CHECK(complaint(folder / "store", true).empty());
  CHECK_FALSE(fs::exists(folder / "store/junk"));
  CHECK_FALSE(fs::exists(folder / "store/unfinished"));
}

TEST_CASE("The marker outlives the rename: a kill inside commit leaves an unfinished store or a whole one") {
  const TestFolder folder;
  {
    StoreWriter writer(folder / "store", tokenizer());
    writer.add_document(false, {5, 6}, 2);
    folder.write("store/in_the_way", "x");  // commit() stops at the rename, where a kill might
    CHECK_THROWS_AS(writer.commit("none", "request", "a test"), DataError);
    CHECK(is_token_store(folder / "store.partial"));
    CHECK(fs::exists(folder / "store.partial/unfinished"));
  }
  fs::remove_all(folder / "store");
  make_store(folder / "kept");
  fs::rename(folder / "kept", folder / "store.partial");  // killed before the rename: everything is there, and the marker
  folder.write("store.partial/unfinished", "");
  make_store(folder / "store");
  CHECK(complaint(folder / "store", true).empty());
  CHECK_FALSE(fs::exists(folder / "store.partial"));
  folder.write("store/unfinished", "");  // killed after it
  CHECK(complaint(folder / "store", true).empty());
  clear_marker(folder / "store/");
  CHECK_FALSE(fs::exists(folder / "store/unfinished"));
  CHECK(complaint(folder / "store", true).empty());
}

TEST_CASE("Folders that are not ours are left alone") {
  const TestFolder folder;
  folder.write("mine/letter.txt", "dear");
  CHECK_THROWS_AS(StoreWriter(folder / "mine", tokenizer()), DataError);
  folder.write("other.partial/letter.txt", "dear");
  CHECK_THROWS_AS(StoreWriter(folder / "other", tokenizer()), DataError);
  CHECK(read_bytes(folder / "mine/letter.txt") == "dear");
  CHECK(read_bytes(folder / "other.partial/letter.txt") == "dear");
}

TEST_CASE("Vocabularies beyond u16 are stored as i32") {
  CHECK(token_type_for(65499) == TokenType::kU16);
  CHECK(token_type_for(65500) == TokenType::kI32);
  const TestFolder folder;
  TokenFileWriter writer(folder / "x", TokenType::kI32);
  writer.add_document(std::vector<int32_t>{70000, 1});
  writer.finish();
  const TokenFile file(folder / "x", 70001);
  std::vector<int32_t> tokens(2);
  file.read(0, tokens);
  CHECK(tokens == std::vector<int32_t>{70000, 1});
  CHECK_THROWS_AS(TokenFile(folder / "x", 70000), DataError);
  TokenFileWriter narrow(folder / "y", TokenType::kU16);
  CHECK_THROWS_AS(narrow.add_sequence(std::vector<int32_t>{70000}), Error);
}
