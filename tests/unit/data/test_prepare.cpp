// From files to a store: what is taken, what is left out, the split by content, duplicates planted and found.
#include <catch2/catch.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <set>

#include "data/prepare.h"
#include "data/shingles.h"
#include "data/utf8.h"
#include "kernels/base/error.h"
#include "tests/unit/data/sample_text.h"

using namespace atoll;
namespace fs = std::filesystem;

namespace {

std::set<std::string> names(const Collection& collection, bool is_held_out) {
  std::set<std::string> out;
  for (const auto& file : collection.files)
    if (file.is_held_out == is_held_out) out.insert(fs::path(file.path).filename());
  return out;
}

// A text whose hash puts it on the wanted side.
std::string text_on_side(bool is_wanted_held_out, double fraction, uint64_t from, int words = 300) {
  for (uint64_t n = from;; ++n) {
    const std::string text = sample_text(n, words) + std::to_string(n);
    if (is_held_out(xxh3_128(text), fraction) == is_wanted_held_out) return text;
  }
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

void write_corpus(const TestFolder& folder, int files) {
  for (int i = 0; i < files; ++i) folder.write("text/" + std::to_string(i / 10) + "/f" + std::to_string(i) + ".txt", sample_text(static_cast<uint64_t>(i), 200));
}

}  // namespace

TEST_CASE("Excluded names are left out where folders are walked, and counted") {
  const TestFolder folder;
  for (const char* file : {"in/keep.txt", "in/tables/big.txt", "in/deep/tables", "in/deep/a.log", "in/deep/b.txt"}) folder.write(file, std::string("text of ") + file);
  const auto excluding = [&](const std::vector<std::string>& patterns) {
    CollectOptions options{{folder / "in"}, 0.0};
    options.exclude = patterns;
    return collect(options);
  };
  CHECK(names(excluding({}), false).size() == 5);
  const auto by_name = excluding({"tables", "*.log"});
  CHECK(names(by_name, false) == std::set<std::string>{"keep.txt", "b.txt"});
  CHECK(by_name.report.excluded == 3);  // a folder, and two files
  CHECK(describe(by_name.report).find("3 files and folders that --exclude names") != std::string::npos);
  CHECK(names(excluding({"*/deep/*"}), false) == std::set<std::string>{"keep.txt", "big.txt"});
  CollectOptions named{{folder / "in/deep/a.log"}, 0.0};
  named.exclude = {"*.log"};
  CHECK(names(collect(named), false) == std::set<std::string>{"a.log"});  // who names a file wants it
}

TEST_CASE("Collecting leaves out what is no text, and counts it") {
  const TestFolder folder;
  folder.write("in/a.txt", "alpha beta gamma");
  folder.write("in/empty", "");
  folder.write("in/binary.o", std::string("\x7f" "ELF\0\0\1", 7));
  folder.write("in/noise", "\xff\x01\x02\x03\x04\x90\x91\x05\x06\x07");
  folder.write("in/latin1.txt", "caf\xE9 au lait");
  folder.write("in/same_again", "alpha beta gamma");
  folder.write("in/.git/objects", "not for us");
  folder.write("in/sub/b.txt", "delta");
  fs::create_symlink("a.txt", folder / "in/link");
  fs::create_directory_symlink("..", folder / "in/sub/up");  // would go round for ever
  REQUIRE(::mkfifo((folder / "in/pipe").c_str(), 0600) == 0);
  CollectOptions options{{folder / "in", folder / "in/sub", folder / "in/a.txt"}, 0.0};
  const auto collection = collect(options);
  const auto& r = collection.report;
  CHECK(names(collection, false) == std::set<std::string>{"a.txt", "latin1.txt", "b.txt"});
  CHECK(r.files == 3);
  CHECK(r.empty == 1);
  CHECK(r.binary == 2);
  CHECK(r.latin1 == 1);
  CHECK(r.exact_duplicates == 1);
  CHECK(r.symlinks == 3);  // in/sub was named twice, its link met twice
  CHECK(r.special == 1);
  for (const auto& file : collection.files) {
    const auto text = read_text(file);
    CHECK(is_valid_utf8(text));
    CHECK(static_cast<int64_t>(text.size()) == file.bytes);
  }
  options.max_file_bytes = 10;
  const auto bounded = collect(options);
  CHECK(bounded.report.too_large == 2);  // binary or not: they are not read at all
  CHECK(names(bounded, false) == std::set<std::string>{"a.txt", "b.txt"});  // a file that is named is read however large
  CHECK(describe(bounded.report).find("2 found in folders and larger than") != std::string::npos);
  fs::create_symlink("loop", folder / "loop");
  CHECK(message_of([&] { collect({{folder / "loop"}}); }).find("cannot be looked at") != std::string::npos);  // not "does not exist"
  CHECK_THROWS_AS(collect({{folder / "nowhere"}}), ConfigError);
  CHECK_THROWS_AS(collect({}), ConfigError);
  fs::create_directory(folder / "void");
  CHECK_THROWS_AS(collect({{folder / "void"}}), DataError);
}

TEST_CASE("The split is a function of content alone") {
  const TestFolder folder;
  write_corpus(folder, 60);
  const CollectOptions all{{folder / "text"}, 0.3}, part{{folder / "text/2"}, 0.3};
  std::map<std::string, bool> side;
  for (const auto& file : collect(all).files) side[file.hash.hex()] = file.is_held_out;
  int held_out = 0;
  for (const auto& file : collect(part).files) {
    REQUIRE(side.count(file.hash.hex()) == 1);
    CHECK(side[file.hash.hex()] == file.is_held_out);
  }
  for (const auto& [hash, is_held] : side) held_out += is_held;
  CHECK(held_out > 6);
  CHECK(held_out < 32);
}

TEST_CASE("Planted duplicates of held-out files are dropped from the held-out side only") {
  const double fraction = 0.3;
  const TestFolder folder;
  const std::string clean = text_on_side(true, fraction, 1000), near = text_on_side(true, fraction, 2000), edge = text_on_side(true, fraction, 3000);
  folder.write("in/clean", clean);
  folder.write("in/near", near);
  folder.write("in/edge", edge);
  folder.write("in/exact_of_clean", clean);
  for (int i = 0; i < 10; ++i) folder.write("in/train" + std::to_string(i), text_on_side(false, fraction, 5000 + 100 * static_cast<uint64_t>(i)));
  // A near duplicate: a changed head, other case and spacing, one word in forty replaced.
  std::string copy = "a new heading that was not there\n";
  int words = 0;
  for (size_t i = 0; i < near.size(); ++i) {
    if (near[i] == ' ' && ++words % 40 == 0) copy += " changed ";
    else copy += near[i] == ' ' ? std::string("  ") : std::string(1, static_cast<char>(near[i] >= 'a' && near[i] <= 'z' && words % 3 == 0 ? near[i] - 32 : near[i]));
  }
  for (int n = 0; is_held_out(xxh3_128(copy), fraction); ++n) copy += std::to_string(n);
  folder.write("in/near_copy", copy);
  // A quarter of a held-out file inside a training file is no duplicate of it.
  std::string quarter = edge.substr(0, edge.size() / 4);
  while (!is_valid_utf8(quarter)) quarter.pop_back();  // the cut may lie inside a character
  quarter += text_on_side(false, fraction, 9000);
  for (int n = 0; is_held_out(xxh3_128(quarter), fraction); ++n) quarter += std::to_string(n);
  folder.write("in/quarter", quarter);

  const auto collection = collect({{folder / "in"}, fraction});
  CHECK(names(collection, true) == std::set<std::string>{"clean", "edge"});
  CHECK(names(collection, false).count("near_copy") == 1);
  CHECK(names(collection, false).size() == 12);
  CHECK(collection.report.near_duplicates == 1);
  CHECK(collection.report.exact_duplicates == 1);
  CHECK(collection.report.near_duplicate_bytes == static_cast<int64_t>(near.size()));
  // With the shingles bounded to a small sample, the same files are found.
  CollectOptions bounded{{folder / "in"}, fraction};
  bounded.max_shingles = 200;
  CHECK(names(collect(bounded), true) == std::set<std::string>{"clean", "edge"});
}

TEST_CASE("Shingles ignore case, punctuation and spacing; short texts have one") {
  CHECK(shingles_of("One two, three four five six") == shingles_of("one  TWO three\nfour (five) six"));
  CHECK(shingles_of("one two three four five six").size() == 2);
  CHECK(shingles_of("one two").size() == 1);
  CHECK(shingles_of("one two") != shingles_of("two one"));
  CHECK(shingles_of(" ,;").empty());
}

TEST_CASE("The same text gives the same store, whatever the number of threads") {
  const TestFolder folder;
  write_corpus(folder, 60);
  const auto prepare = [&](const std::string& out, int threads) {
    PrepareOptions options;
    options.paths = {folder / "text"};
    options.tokenizer = {400, ""};
    options.held_out_fraction = 0.2;
    options.out = folder / out;
    options.num_threads = threads;
    return prepare_store(options);
  };
  const auto one = prepare("one", 1), four = prepare("four", 4);
  for (const char* name : {"train.bin", "train.idx", "heldout.bin", "heldout.idx", "train.doc_bytes", "heldout.doc_bytes", "tokenizer.model", "store.json"})
    CHECK(read_bytes(folder / "one/" + name) == read_bytes(folder / "four/" + name));
  CHECK_NOTHROW(verify_token_store(folder / "one"));
  CHECK(one.store.train.bytes + one.store.heldout.bytes == one.collected.bytes);
  CHECK(one.store.heldout.documents > 0);
  CHECK_FALSE(one.is_reused);
  folder.write("one/unfinished", "");  // as after a kill between the rename and the marker's end
  CHECK(prepare("one", 2).is_reused);  // a second run finds it
  CHECK_FALSE(fs::exists(folder / "one/unfinished"));
  folder.write("text/new.txt", "something new to read");
  CHECK(message_of([&] { prepare("one", 1); }).find("other text or options") != std::string::npos);
}

TEST_CASE("A tokenizer file can be given instead, and progress is told") {
  const TestFolder folder;
  write_corpus(folder, 20);
  const auto tokenizer = train_tokenizer(sample_texts(30), {.vocab_size = 350});
  PrepareOptions options;
  options.paths = {folder / "text"};
  options.tokenizer = parse_tokenizer_spec(folder.write("t.model", tokenizer.serialized()));
  options.out = folder / "store";
  std::set<std::string> phases;
  int64_t last_done = 0, last_total = -1;
  options.progress = [&](const PrepareProgress& p) {
    phases.insert(p.phase);
    last_done = p.done;
    last_total = p.total;
  };
  const auto report = prepare_store(options);
  CHECK(report.store.tokenizer_hash == tokenizer.hash());
  CHECK(phases.count("tokenizing") == 1);
  CHECK(last_done == last_total);
  CHECK(describe(report).find("train:") != std::string::npos);
}

TEST_CASE("Bad requests are one clear error and leave nothing behind") {
  const TestFolder folder;
  write_corpus(folder, 10);
  PrepareOptions options;
  options.paths = {folder / "text"};
  options.tokenizer = {400, ""};
  options.out = folder / "text";
  CHECK(message_of([&] { prepare_store(options); }).find("not a token store") != std::string::npos);
  options.out = folder / "store";
  options.tokenizer = {0, folder / "no.model"};
  CHECK(message_of([&] { prepare_store(options); }).find("no.model") != std::string::npos);
  options.tokenizer = {100000, ""};
  CHECK(message_of([&] { prepare_store(options); }).find("100000 pieces") != std::string::npos);
  CHECK_FALSE(fs::exists(folder / "store"));
  CHECK_FALSE(fs::exists(folder / "store.partial"));
  options.out = "";
  CHECK_THROWS_AS(prepare_store(options), ConfigError);
}

TEST_CASE("The words of the command line are parsed, or refused with what to write") {
  CHECK(parse_tokenizer_spec("train:4096").train_pieces == 4096);
  CHECK(parse_tokenizer_spec("some/file.model").model_path == "some/file.model");
  for (const char* bad : {"", "train", "train:", "train:x", "train:12", "train:4096x", "train:99999999", "train:-4"}) CHECK_THROWS_AS(parse_tokenizer_spec(bad), ConfigError);
  CHECK(parse_fraction("1%") == Approx(0.01));
  CHECK(parse_fraction("0.5 %") == Approx(0.005));
  CHECK(parse_fraction("0.25") == Approx(0.25));
  CHECK(parse_fraction("0") == 0.0);
  for (const char* bad : {"", "%", "one", "1", "100%", "-1%", "1%%", "nan", "0.1x"}) CHECK_THROWS_AS(parse_fraction(bad), ConfigError);
}

TEST_CASE("A file scattered over several others is no duplicate of any one of them") {
  ShingleIndex index(1000);
  std::string whole;
  std::vector<std::string> parts(4);
  for (int i = 0; i < 80; ++i) {
    const std::string word = "w" + std::to_string(i) + " ";
    whole += word;
    parts[static_cast<size_t>(i / 20)] += word;
  }
  index.add(whole);
  index.finish();
  for (const auto& part : parts) index.match(part, 0.5);
  CHECK_FALSE(index.is_repeated(0));
  index.match(parts[0] + parts[1] + parts[2], 0.5);
  CHECK(index.is_repeated(0));
}
