// Tokenizers: what goes in comes out, byte for byte; and the ids SentencePiece itself gives for a foreign model.
#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/hash.h"
#include "data/tokenizer.h"
#include "data/utf8.h"
#include "kernels/base/error.h"
#include "kernels/base/rng.h"
#include "tests/unit/data/sample_text.h"

using namespace atoll;

namespace {

const Tokenizer& small_tokenizer() {
  static const Tokenizer tokenizer = train_tokenizer(sample_texts(60), {.vocab_size = 600});
  return tokenizer;
}

std::string utf8(uint32_t c) {
  std::string s;
  if (c < 0x80) s = {static_cast<char>(c)};
  else if (c < 0x800) s = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
  else if (c < 0x10000) s = {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
  else s = {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)), static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
  return s;
}

}  // namespace

TEST_CASE("Decoding an encoding gives the text back, byte for byte") {
  const auto& t = small_tokenizer();
  REQUIRE(t.is_lossless());
  const std::vector<std::string> texts = {"", " ", "  ", "\n", "\r\n", "\t\ta\t", "a  b   c    ", "   leading", "trailing   \n\n\n", "if (x) {\r\n\treturn 1;\r\n}\r\n", "日本語と한국어, العربية, हिन्दी, Ελληνικά",
                                          "e\u0301 vs \u00e9, \uFB01 \uFF21 \u00A0 \u2003 \u200B \uFEFF", "\u2581 lower one eighth block\u2581\u2581", "\u2585 \u2047 <unk> <s> </s> <0x0A>", "emoji 👩‍👩‍👧‍👦 🏳️‍🌈",
                                          std::string("nul \0 inside", 12), "\x01\x02\x1b[0m\x7f", "bad \xff\xfe bytes \xc3", "\xed\xa0\x80 surrogate, \xc0\xaf overlong", "\uFFFD itself"};
  for (const auto& text : texts) {
    CAPTURE(text);
    const auto ids = t.encode(text);
    CHECK(t.decode(ids) == text);
    std::string pieces;
    for (const int32_t id : ids) pieces += t.token_bytes(id);
    CHECK(pieces == text);
  }
}

TEST_CASE("Random strings of characters, spaces and broken bytes survive the tokenizer") {
  const auto& t = small_tokenizer();
  const Rng rng(7, "test strings");
  uint64_t k = 0;
  const std::vector<std::string> common = {" ", "  ", "\n", "\t", "\r\n", "the", "\u2581", "_", "0", "12"};
  for (int n = 0; n < 400; ++n) {
    std::string text;
    const uint64_t length = rng.below(k++, 60);
    for (uint64_t i = 0; i < length; ++i) {
      switch (rng.below(k++, 5)) {
        case 0: text += common[rng.below(k++, common.size())]; break;
        case 1: text += static_cast<char>(rng.below(k++, 256)); break;
        case 2: {
          const auto c = static_cast<uint32_t>(rng.below(k++, 0x110000));
          if (c < 0xD800 || c > 0xDFFF) text += utf8(c);
          break;
        }
        default: text += static_cast<char>(32 + rng.below(k++, 95));
      }
    }
    REQUIRE(t.decode(t.encode(text)) == text);
  }
}

TEST_CASE("Encoding line by line equals encoding the whole") {  // the shortcut that makes it fast; the foreign path is the plain one
  const auto& t = small_tokenizer();
  const std::string text = sample_texts(3)[2] + "\n\n  x\n" + sample_texts(2)[1];
  std::vector<int32_t> joined;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
    t.encode_to(std::string_view(text).substr(at, end - at), joined);
    at = end;
  }
  CHECK(joined == t.encode(text));
  for (int32_t id = 0; id < t.vocab_size(); ++id) {
    const auto bytes = t.token_bytes(id);
    const size_t newline = bytes.find('\n');
    CHECK((newline == std::string_view::npos || newline + 1 == bytes.size()));
  }
}

TEST_CASE("Lines of any length are taken in parts, and come back byte for byte") {
  const auto& t = small_tokenizer();
  for (const std::string word : {"zebra quux ", "x", "\u65E5\u672C", "\u2581", "a\xff", "\xBF", "1234567"}) {
    std::string line;
    while (line.size() < (200 << 10)) line += word;
    for (const std::string before : {"", "a", "ab", "abc"}) {  // a cut meets every place in a character
      const std::string text = before + line + "\n" + line;
      REQUIRE(t.decode(t.encode(text)) == text);
    }
  }
  // Cut before a space, nothing changes: the tokens are those of the words on lines of their own length.
  std::string line = sample_text(3, 200);
  std::erase_if(line, [](char c) { return c == '\n' || c == '\r' || c == '\t'; });
  std::string longer;
  while (longer.size() < (150 << 10)) longer += line;
  std::vector<int32_t> in_pieces;
  for (size_t at = 0; at < longer.size();) {
    size_t end = std::min(longer.find(' ', at + 20000), longer.size());
    t.encode_to(std::string_view(longer).substr(at, end - at), in_pieces);
    at = end;
  }
  CHECK(t.encode(longer) == in_pieces);
}

TEST_CASE("A foreign model takes long texts in parts") {
  const Tokenizer t = Tokenizer::load(std::string(ATOLL_SOURCE_DIR) + "/tests/golden/tokenizer/sentencepiece/spm.model");
  std::string text = "one";
  while (text.size() < (3 << 20)) text += " two three";
  std::vector<int32_t> all = t.encode(text), some = t.encode(std::string_view(text).substr(0, 103));
  CHECK(std::equal(some.begin(), some.end(), all.begin()));
  CHECK((t.decode(all) == text));
}

TEST_CASE("Training a tokenizer twice gives the same bytes, and the size asked for") {
  const auto again = train_tokenizer(sample_texts(60), {.vocab_size = 600});
  CHECK(again.serialized() == small_tokenizer().serialized());
  CHECK(again.vocab_size() == 600);
  CHECK(again.hash() == xxh3_hex(again.serialized()));
  CHECK(again.bos_id() == 1);
  CHECK(again.eos_id() == 2);
  const auto other = train_tokenizer(sample_texts(60), {.vocab_size = 500});
  CHECK(other.hash() != again.hash());
}

TEST_CASE("A tokenizer's sample is bounded, and long lines are not dropped") {
  auto texts = sample_texts(200);
  const auto sampled = train_tokenizer(texts, {.vocab_size = 400, .max_sample_bytes = 40000});
  CHECK(sampled.vocab_size() == 400);
  CHECK(sampled.decode(sampled.encode(texts[9])) == texts[9]);
  std::string line;  // one line of 300 KB: all the text there is
  for (int i = 0; i < 20000; ++i) line += "zebra_quux ";
  const auto of_line = train_tokenizer(std::vector<std::string>{line + sample_texts(1)[0]}, {.vocab_size = 320});
  CHECK(of_line.encode("zebra_quux zebra_quux").size() < 10);
}

TEST_CASE("Digits are alone, so that numbers are spelled alike") {
  const auto& t = small_tokenizer();
  for (int32_t id = 0; id < t.vocab_size(); ++id) {
    const auto bytes = t.token_bytes(id);
    int digits = 0;
    for (const char c : bytes) digits += c >= '0' && c <= '9';
    CHECK((digits == 0 || bytes.size() <= 2));
  }
}

TEST_CASE("Too little text for the vocabulary, and bad models, are one clear error") {
  CHECK_THROWS_AS(train_tokenizer(std::vector<std::string>{"short"}, {.vocab_size = 4096}), DataError);
  CHECK_THROWS_AS(train_tokenizer(std::vector<std::string>{}, {.vocab_size = 4096}), DataError);
  CHECK_THROWS_AS(train_tokenizer(sample_texts(3), {.vocab_size = 100}), ConfigError);
  CHECK_THROWS_AS(Tokenizer::load("/nonexistent/x.model"), DataError);
  CHECK_THROWS_AS(Tokenizer::from_serialized(""), DataError);
  CHECK_THROWS_AS(Tokenizer::from_serialized("this is no model at all, just some text"), DataError);
  const auto& good = small_tokenizer().serialized();
  CHECK_THROWS_AS(Tokenizer::from_serialized(good.substr(0, good.size() / 2)), DataError);
  CHECK_THROWS_AS(small_tokenizer().decode(std::vector<int32_t>{600}), Error);
  CHECK_THROWS_AS(small_tokenizer().decode(std::vector<int32_t>{-1}), Error);
}

TEST_CASE("A foreign SentencePiece model gives SentencePiece's own ids") {
  const std::string folder = std::string(ATOLL_SOURCE_DIR) + "/tests/golden/tokenizer/sentencepiece/";
  const Tokenizer t = Tokenizer::load(folder + "spm.model");
  CHECK_FALSE(t.is_lossless());  // it has a dummy prefix
  std::ifstream file(folder + "cases.json");
  const auto json = nlohmann::json::parse(file);
  size_t count = 0;
  for (const auto& c : json.at("cases")) {
    const std::string text = c.at("text");
    CAPTURE(text);
    const std::vector<int32_t> ids = c.at("ids");
    CHECK(t.encode(text) == ids);
    CHECK(t.decode(ids) == (c.at("decoded").is_null() ? text : c.at("decoded").get<std::string>()));
    ++count;
  }
  CHECK(count > 100);
}

TEST_CASE("A stream of tokens comes out as valid UTF-8, whatever the tokens") {
  const std::string text = "a é 日 👩‍👧 z";
  for (size_t step = 1; step <= 5; ++step) {  // cut anywhere, the characters arrive whole
    Utf8Stream stream;
    std::string out;
    for (size_t i = 0; i < text.size(); i += step) {
      const std::string part = stream.push(std::string_view(text).substr(i, step));
      CHECK(is_valid_utf8(part));
      out += part;
    }
    CHECK(out + stream.finish() == text);
  }
  Utf8Stream stream;
  CHECK(stream.push("\xE6\x97") == "");
  CHECK(stream.push("x") == "\uFFFDx");
  CHECK(stream.push("\xFF\xC0\x80") == "\uFFFD\uFFFD\uFFFD");
  CHECK(stream.push("\xF0\x9F") == "");
  CHECK(stream.finish() == "\uFFFD");
  CHECK(stream.finish() == "");
  const Rng rng(3, "bytes");
  std::string all;
  for (uint64_t i = 0; i < 20000; ++i) all += stream.push(std::string(1, static_cast<char>(rng.below(i, 256))));
  CHECK(is_valid_utf8(all + stream.finish()));
}

TEST_CASE("UTF-8 validity follows the Unicode table") {
  for (const char* good : {"", "a", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "0123456789abcdef\xC3\xA9"}) CHECK(is_valid_utf8(good));
  for (const char* bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xC2", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xE1\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "12345678\xFF", "1234567\xC3"}) CHECK_FALSE(is_valid_utf8(bad));
  CHECK(latin1_to_utf8("caf\xE9") == "café");
}

TEST_CASE("The hash is XXH3-128, in pieces too") {
  CHECK(xxh3_hex("") == "99aa06d3014798d86001c324468d497f");  // published test value of the empty input
  Hasher hasher;
  const std::string text = sample_texts(1)[0];
  for (size_t i = 0; i < text.size(); i += 13) hasher.update(text.data() + i, std::min<size_t>(13, text.size() - i));
  CHECK(hasher.digest().hex() == xxh3_hex(text));
}
