// SentencePiece behind our own lossless rules. Policy: what the library would change (its space mark, bytes that are not UTF-8) is spelled in byte pieces before
// it sees the text; a model that is not lossless is left to the library as it is.
#include "data/tokenizer.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>

#include "data/hash.h"
#include "data/utf8.h"
#include "kernels/base/error.h"

namespace atoll {

namespace {

// SentencePiece takes memory and time beyond proportion for long texts, and its sizes are ints.
constexpr size_t kLongestLine = 64 << 10;  // of a tokenizer that works line by line
constexpr size_t kLongestText = 1 << 20;   // of any other

constexpr char kSpaceMark[] = "\xE2\x96\x81";  // U+2581, how SentencePiece spells a space

std::string with_spaces(std::string text) {
  for (size_t at = 0; (at = text.find(kSpaceMark, at)) != std::string::npos; ++at) text.replace(at, 3, " ");
  return text;
}

std::string reason(const sentencepiece::util::Status& status) { return status.error_message(); }

}  // namespace

struct Tokenizer::Model {
  sentencepiece::SentencePieceProcessor processor;
  std::string serialized, hash;
  std::vector<std::string> pieces, bytes;  // by id
  std::array<int32_t, 256> byte_id{};
  bool is_lossless = false;
  bool is_space_implied = false;  // a dummy prefix: a text's first word is spelled as if a space came before it
  bool is_split_by_line = false;  // no piece goes on after a newline: lines can be encoded one by one, which is faster

  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const {
    std::vector<int> part;
    const auto status = processor.Encode(std::string_view(text), &part);
    ATOLL_CHECK(status.ok(), "SentencePiece cannot encode: ", reason(status));
    ids.insert(ids.end(), part.begin(), part.end());
  }
  // Two things SentencePiece would change are spelled in byte pieces: U+2581 (it means a space) and bytes that are not UTF-8.
  void encode_lossless(std::string_view text, std::vector<int32_t>& ids) const {
    size_t begin = 0, i = 0;
    const auto spell = [&](size_t length) {
      if (i > begin) encode_plain(text.substr(begin, i - begin), ids);
      for (size_t k = 0; k < length; ++k) ids.push_back(byte_id[static_cast<unsigned char>(text[i + k])]);
      begin = i += length;
    };
    while (i < text.size()) {
      if (static_cast<unsigned char>(text[i]) < 0x80) { ++i; continue; }
      const int length = utf8_length(text.substr(i));
      if (length <= 0) spell(1);
      else if (text.substr(i, 3) == kSpaceMark) spell(3);
      else i += static_cast<size_t>(length);
    }
    if (i > begin) encode_plain(text.substr(begin), ids);
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Model> model) : model_(std::move(model)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw DataError("cannot open the tokenizer " + path + "; give a SentencePiece .model file, or train:4096 to train one");
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return from_serialized(bytes.str(), path);
}

Tokenizer Tokenizer::from_serialized(std::string bytes, const std::string& origin) {
  if (bytes.empty()) throw DataError(origin + " is empty, not a SentencePiece model");
  auto model = std::make_unique<Model>();
  const auto status = model->processor.LoadFromSerializedProto(bytes);
  if (!status.ok() || model->processor.GetPieceSize() <= 0) throw DataError(origin + " is not a SentencePiece model, or is cut off (" + reason(status) + ")");
  model->hash = xxh3_hex(bytes);
  model->serialized = std::move(bytes);

  const auto& processor = model->processor;
  model->byte_id.fill(-1);
  bool is_line_end_last = true;
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    const std::string piece = processor.IdToPiece(id);
    std::string text;
    if (processor.IsByte(id)) {
      const int byte = std::stoi(piece.substr(3, 2), nullptr, 16);  // "<0x0A>"
      model->byte_id[static_cast<size_t>(byte)] = id;
      text.assign(1, static_cast<char>(byte));
    } else if (processor.IsUnknown(id)) {
      text = " \xE2\x81\x87 ";  // what SentencePiece decodes it to
    } else if (!processor.IsControl(id)) {
      text = with_spaces(piece);
      const size_t newline = text.find('\n');
      is_line_end_last = is_line_end_last && (newline == std::string::npos || newline + 1 == text.size());
    }
    model->pieces.push_back(piece);
    model->bytes.push_back(std::move(text));
  }
  // Lossless is observed, not read from the settings: a probe with everything that a normaliser or a dummy prefix would touch.
  const bool has_bytes = std::find(model->byte_id.begin(), model->byte_id.end(), -1) == model->byte_id.end();
  const std::string probe = "x  \xEF\xBC\xA1\xEF\xAC\x81 \t\r\n  e\xCC\x81\n ";
  if (has_bytes) {
    std::vector<int32_t> ids;
    model->encode_lossless(probe, ids);
    std::string back;
    for (const int32_t id : ids) back += model->bytes[static_cast<size_t>(id)];
    model->is_lossless = back == probe;
  }
  model->is_split_by_line = model->is_lossless && is_line_end_last;
  if (!model->is_lossless) {
    std::vector<int32_t> whole, parts;
    model->encode_plain("a b", whole);
    model->encode_plain("a", parts);
    model->encode_plain("b", parts);
    model->is_space_implied = parts == whole;
  }
  return Tokenizer(std::move(model));
}

namespace {
// How much of `text` goes to SentencePiece at once: all of it, or up to `most` bytes, cut before a space if there is one in the second half, else between characters.
size_t part_length(std::string_view text, size_t most) {
  if (text.size() <= most) return text.size();
  const size_t space = text.rfind(' ', most);
  if (space != std::string_view::npos && space > most / 2) return space;
  size_t length = most;
  while (length > most - 3 && (static_cast<unsigned char>(text[length]) & 0xC0) == 0x80) --length;
  return length;
}
}  // namespace

void Tokenizer::encode_to(std::string_view text, std::vector<int32_t>& ids) const {
  while (!text.empty()) {
    std::string_view part = text;
    if (model_->is_split_by_line) {
      const size_t newline = text.find('\n');
      if (newline != std::string_view::npos) part = text.substr(0, newline + 1);
    }
    part = part.substr(0, part_length(part, model_->is_split_by_line ? kLongestLine : kLongestText));
    if (model_->is_lossless) model_->encode_lossless(part, ids);
    else model_->encode_plain(part, ids);
    text.remove_prefix(part.size());
    if (model_->is_space_implied && !text.empty() && text.front() == ' ') text.remove_prefix(1);
  }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 1);
  encode_to(text, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) ATOLL_CHECK(id >= 0 && id < vocab_size(), "token ", id, " is outside the vocabulary of ", vocab_size());
  if (model_->is_lossless) {
    for (const int32_t id : ids) text += model_->bytes[static_cast<size_t>(id)];
    return text;
  }
  const std::vector<int> as_int(ids.begin(), ids.end());
  const auto status = model_->processor.Decode(as_int, &text);
  ATOLL_CHECK(status.ok(), "SentencePiece cannot decode: ", reason(status));
  return text;
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  ATOLL_CHECK(id >= 0 && id < vocab_size(), "token ", id, " is outside the vocabulary of ", vocab_size());
  return model_->bytes[static_cast<size_t>(id)];
}
const std::string& Tokenizer::piece(int32_t id) const {
  ATOLL_CHECK(id >= 0 && id < vocab_size(), "token ", id, " is outside the vocabulary of ", vocab_size());
  return model_->pieces[static_cast<size_t>(id)];
}
int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(model_->pieces.size()); }
int32_t Tokenizer::bos_id() const { return model_->processor.bos_id(); }
int32_t Tokenizer::eos_id() const { return model_->processor.eos_id(); }
bool Tokenizer::is_lossless() const { return model_->is_lossless; }
const std::string& Tokenizer::serialized() const { return model_->serialized; }
const std::string& Tokenizer::hash() const { return model_->hash; }

}  // namespace atoll
