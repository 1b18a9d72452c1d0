// Token store: a folder with two splits in the Megatron indexed layout (train.bin/.idx, heldout.bin/.idx; one sequence a document, EOS at its
// end), the bytes of each document's text (.doc_bytes, i64), tokenizer.model and store.json. Policy: written beside its place and renamed as a
// whole, store.json last, so that a half-written store is never opened; every file is checked on opening, every token when it is read.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/hash.h"
#include "data/tokenizer.h"

namespace atoll {

enum class TokenType : uint8_t { kI32 = 4, kU16 = 8 };  // Megatron's codes; others are refused by name
TokenType token_type_for(int64_t vocab_size);           // Megatron's rule: u16 below 65,500

// A whole file mapped read-only. An empty file is legal.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::string& path);  // DataError
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::string_view bytes() const { return {data_, size_}; }

 private:
  const char* data_ = nullptr;
  size_t size_ = 0;
};

// One .bin/.idx pair, ours or Megatron's own. A document may be several sequences.
class TokenFile {
 public:
  // prefix + ".bin", prefix + ".idx". Index checked in full, sizes too; tokens up to 256 MB at once, the rest as they are read.
  TokenFile(const std::string& prefix, int64_t vocab_size);
  int64_t num_tokens() const { return num_tokens_; }
  int64_t num_documents() const { return num_documents_; }
  int64_t num_sequences() const { return num_sequences_; }
  TokenType type() const { return type_; }
  int64_t sequence_length(int64_t sequence) const;
  int64_t document_begin(int64_t document) const;  // in tokens; document_begin(num_documents()) == num_tokens()
  void read(int64_t begin, std::span<int32_t> tokens) const;  // DataError for a token outside the vocabulary
  const std::string& prefix() const { return prefix_; }
  Hash128 idx_hash() const { return xxh3_128(idx_.bytes()); }
  Hash128 bin_hash() const { return xxh3_128(bin_.bytes()); }

 private:
  void check_index();
  std::string prefix_;
  int64_t vocab_size_ = 0, num_tokens_ = 0, num_documents_ = 0, num_sequences_ = 0;
  TokenType type_ = TokenType::kU16;
  MappedFile idx_, bin_;
};

// Streams documents out; finish() writes the index, syncs and closes. Names are final at once: the folder is what is renamed.
class TokenFileWriter {
 public:
  TokenFileWriter(const std::string& prefix, TokenType type);
  ~TokenFileWriter();
  TokenFileWriter(const TokenFileWriter&) = delete;
  void add_sequence(std::span<const int32_t> tokens);
  void end_document();
  void add_document(std::span<const int32_t> tokens) { add_sequence(tokens), end_document(); }
  void finish();
  int64_t num_tokens() const { return num_tokens_; }

 private:
  struct File;
  std::string prefix_;
  TokenType type_;
  std::unique_ptr<File> bin_;
  std::vector<int32_t> lengths_;
  std::vector<int64_t> document_index_{0};
  int64_t num_tokens_ = 0;
};

struct SplitInfo {
  int64_t tokens = 0, documents = 0, bytes = 0;  // bytes of the text as UTF-8
  std::string idx_hash, bin_hash, doc_bytes_hash;
};

struct StoreInfo {  // store.json
  std::string tokenizer_hash;
  int64_t vocab_size = 0;
  int32_t eos_id = -1;
  SplitInfo train, heldout;
  std::string held_out_rule;  // in words
  std::string request_hash;   // of the options it was made with
  std::string made_from;      // in words: the collection's report
};

class TokenStore {
 public:
  static TokenStore open(const std::string& folder);  // DataError: the path, what is wrong, what to do
  const std::string& folder() const { return folder_; }
  const StoreInfo& info() const { return info_; }
  const TokenFile& train() const { return *train_; }
  const TokenFile& heldout() const { return *heldout_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  std::string fingerprint() const;  // of the index, the tokens' hash as recorded, and the tokenizer: what the data order depends on
  int64_t document_bytes(bool is_heldout, int64_t document) const;
  // Bytes of text each token stands for (control tokens 0). For a lossless tokenizer they add up to the document's bytes exactly.
  const std::vector<int32_t>& token_byte_lengths() const { return token_byte_lengths_; }

 private:
  std::string folder_;
  StoreInfo info_;
  std::shared_ptr<const TokenFile> train_, heldout_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<const MappedFile> train_doc_bytes_, heldout_doc_bytes_;
  std::vector<int32_t> token_byte_lengths_;
};

bool is_token_store(const std::string& folder);     // has a store.json of ours; says nothing about its health
void verify_token_store(const std::string& folder);  // opens it and compares every hash, every document's bytes; DataError

// What an interruption right after the rename leaves in a whole store: the lock file "unfinished".
void clear_marker(const std::string& folder);

// Makes `folder` appear at once: files go to `<folder>.partial` (locked; one left by an interrupted run is cleared), commit() renames. At every moment
// there is either a partial folder with its marker, which the next writer clears, or a whole store: a kill anywhere leaves nothing to move by hand.
class StoreWriter {
 public:
  StoreWriter(const std::string& folder, const Tokenizer& tokenizer);
  ~StoreWriter();  // without commit(): removes the partial folder
  StoreWriter(const StoreWriter&) = delete;
  void add_document(bool is_heldout, std::vector<int32_t> tokens, int64_t bytes);  // EOS is added here
  StoreInfo commit(const std::string& held_out_rule, const std::string& request_hash, const std::string& made_from);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace atoll
