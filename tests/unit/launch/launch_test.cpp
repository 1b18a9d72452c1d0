// The program itself, started as users start it: what it says when something is wrong, once, and with what to type instead.
// Policy: real processes and a real mpirun; nothing here depends on how fast they are.
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "kernels/base/error.h"
#include "launch/mpirun_line.h"
#include "parallel/cores.h"

using namespace atoll;
namespace fs = std::filesystem;

namespace {
struct Ran {
  int code = -1;
  std::string said;  // stdout and stderr
  int count(const std::string& words) const {
    int n = 0;
    for (size_t at = 0; (at = said.find(words, at)) != std::string::npos; at += words.size()) ++n;
    return n;
  }
};
Ran run(const std::string& command) {
  Ran ran;
  FILE* pipe = ::popen(("cd '" + std::string(ATOLL_SOURCE_DIR) + "' && ( " + command + " ) 2>&1 </dev/null").c_str(), "r");
  REQUIRE(pipe != nullptr);
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) ran.said.append(buffer, n);
  const int status = ::pclose(pipe);
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return ran;
}
const std::string kAtoll = "'" ATOLL_PROGRAM "'";
std::string mpirun(int ranks) { return "OMP_NUM_THREADS=1 mpirun --allow-run-as-root --oversubscribe --bind-to none -n " + std::to_string(ranks) + " "; }

// A folder of this run of the tests, with a token store in it.
class Work {
 public:
  Work() {
    std::string name = (fs::temp_directory_path() / "atoll_launch_XXXXXX").native();
    if (!::mkdtemp(name.data())) throw std::runtime_error("no temporary folder");
    path = name;
    const Ran made = run(kAtoll + " data prepare docs data --tokenizer train:400 --held-out 15% --out " + path + "/store");
    if (made.code != 0) throw std::runtime_error(made.said);
  }
  ~Work() {
    std::error_code error;
    fs::remove_all(path, error);
  }
  std::string train(const std::string& more = "") const { return kAtoll + " train launch/recipes/debug.yaml data.store=" + path + "/store run.dir=" + path + " " + more; }
  std::string path;
};
const Work& work() {
  static const Work made;
  return made;
}

const std::string& trained_run() {  // of one step, on one rank
  static const std::string run_folder = [] {
    const Ran made = run("OMP_NUM_THREADS=1 " + work().train("run.name=trained train.steps=1 train.threads=1"));
    if (made.code != 0) throw std::runtime_error(made.said);
    return work().path + "/trained";
  }();
  return run_folder;
}
// The number after `name` in a text of JSON, from `from` on.
double number(const std::string& json, const std::string& name, size_t from = 0) {
  const size_t at = json.find("\"" + name + "\": ", from);
  return at == std::string::npos ? -1 : std::atof(json.c_str() + at + name.size() + 4);
}

std::string message_of(int world, const MeshSizes& sizes, const std::vector<std::string>& words) {
  try {
    check_mesh(world, sizes, words);
  } catch (const ConfigError& e) { return e.what(); }
  return "";
}
}  // namespace

TEST_CASE("A mesh that the ranks cannot have is refused with the line that works, in the words that were typed") {
  const std::string line = message_of(3, {.pp = 2}, {"./build dir/atoll", "train", "a.yaml", "parallel.pp=2", "run.name=it's"});
  CHECK_THAT(line, Catch::EndsWith(" --oversubscribe --bind-to none -n 2 './build dir/atoll' train a.yaml parallel.pp=2 'run.name=it'\\''s'"));
  CHECK(message_of(4, {.pp = 2, .ep = 2}, {"atoll"}).empty());
  // No number of ranks has tensor parallelism, or 2^40 of them: nothing is promised.
  for (const MeshSizes& sizes : {MeshSizes{.tp = 2}, MeshSizes{.pp = 1 << 20, .ep = 1 << 20}, MeshSizes{.pp = 0}}) {
    CHECK_FALSE(message_of(2, sizes, {"atoll"}).empty());
    CHECK(message_of(2, sizes, {"atoll"}).find("would work") == std::string::npos);
  }
}

TEST_CASE("Quoted words are what a shell reads back") {
  for (const std::string word : {"plain", "a b", "it's", "", "$HOME", "a\"b", "x;y", "model.name=[1, 2]", "*"}) CHECK(run("printf %s " + shell_quoted(word)).said == word);
  CHECK(shell_quoted("train.lr.max=1e-3") == "train.lr.max=1e-3");
}

TEST_CASE("The line that would work does work") {
  const Ran wrong = run(mpirun(3) + work().train("run.name=line train.steps=1 parallel.pp=2"));
  REQUIRE(wrong.code == 64);
  const size_t at = wrong.said.find("would work: ");
  REQUIRE(at != std::string::npos);
  CHECK(wrong.count("would work: ") == 1);
  const std::string line = wrong.said.substr(at + 12, wrong.said.find('\n', at) - at - 12);
  CAPTURE(line);
  const Ran right = run("OMP_NUM_THREADS=1 " + line);
  CAPTURE(right.said);
  CHECK(right.code == 0);
  CHECK_THAT(run(mpirun(3) + kAtoll + " verify golden tests/golden/deepseek_v3_tiny parallel.pp=2").said, Catch::Contains("-n 2 " ATOLL_PROGRAM " verify golden tests/golden/deepseek_v3_tiny parallel.pp=2"));
}

TEST_CASE("Threads follow the cores that the user gave, not those that mpirun bound a rank to") {
  const int cores = num_cores(cores_of_process());
  const auto threads_of = [](const std::string& prefix, const std::string& name) {  // rank 0's, as the banner says
    const Ran ran = run("env -u OMP_NUM_THREADS " + prefix + " " + work().train("run.name=" + name + " train.steps=1"));
    CAPTURE(ran.said);
    REQUIRE(ran.code == 0);
    const size_t at = ran.said.find(" thread", ran.said.find("rank 0: "));
    REQUIRE(at != std::string::npos);
    return std::atoi(ran.said.c_str() + ran.said.rfind(' ', at - 1));
  };
  const std::string mpi = "mpirun --allow-run-as-root --oversubscribe ";
  std::string one;  // the first core that this process has
  for (size_t c = 0; one.empty(); ++c)
    if (cores_of_process()[c / 64] >> (c % 64) & 1) one = "taskset -c " + std::to_string(c) + " ";
  CHECK(threads_of(mpi + "-n 1", "widened") == cores);
  CHECK(threads_of(mpi + "--bind-to hwthread -n 1", "asked") == 1);
  CHECK(threads_of(one + mpi + "-n 1", "taskset") == 1);
  CHECK(threads_of(one + mpi + "--bind-to none -n 1", "unbound") == 1);
  CHECK(threads_of(mpi + "--bind-to none -n 2", "shared") == std::max(1, cores / 2));
  CHECK(threads_of(mpi + "--bind-to none -n 2 " + one, "crowded") == 1);
  CHECK(threads_of(one, "alone") == 1);
}

TEST_CASE("An error of several ranks, not of rank 0, is said once") {
  // The other ranks are given a store that is not there: they fail after train has taken over SIGTERM.
  const Ran ran = run(mpirun(1) + work().train("run.name=several parallel.ep=2") + " : -n 3 " + kAtoll + " train launch/recipes/debug.yaml data.store=/nowhere/store run.dir=" + work().path +
                      " run.name=several parallel.ep=2");
  CAPTURE(ran.said);
  CHECK(ran.code == 65);
  CHECK(ran.count("/nowhere/store: there is no such folder") == 1);
}

TEST_CASE("A mistyped option is refused, and told apart from a key with dashes") {
  const Ran key = run(kAtoll + " train launch/recipes/debug.yaml --train.steps=5");
  CHECK(key.code == 64);
  CHECK_THAT(key.said, Catch::Contains("configuration keys have no dashes: write train.steps=5"));
  const Ran option = run(kAtoll + " generate runs/x --promt=hello");
  CHECK(option.code == 64);
  CHECK_THAT(option.said, Catch::Contains("promt") && !Catch::Contains("no dashes"));
  CHECK(run(kAtoll + " verify golden -- -=").code == 64);
}

TEST_CASE("The bigram model is fitted on the tokens trained on, and measured on the rows the model was measured on") {
  const std::string eval = kAtoll + " eval " + trained_run() + " --threads 1 --json --bigram ";
  const Ran few = run(eval + "--sequences 3"), all = run(eval);
  CAPTURE(few.said, all.said);
  REQUIRE((few.code == 0 && all.code == 0));
  const auto bigram_of = [](const Ran& ran, const std::string& name) { return number(ran.said, name, ran.said.find("bigram")); };
  CHECK(number(few.said, "labels") > 0);
  CHECK(bigram_of(few, "labels") == number(few.said, "labels"));
  CHECK(bigram_of(all, "labels") == number(all.said, "labels"));
  CHECK(number(few.said, "labels") < number(all.said, "labels"));

  // Other text in the same tokens: measured, and said to be other text; the bigram model stays that of the training tokens.
  const std::string other = work().path + "/other", same_tokenizer = " --tokenizer " + work().path + "/store/tokenizer.model --held-out 15% --out ";
  REQUIRE(run(kAtoll + " data prepare kernels/base" + same_tokenizer + other).code == 0);
  const Ran elsewhere = run(eval + "--data " + other);
  CAPTURE(elsewhere.said);
  REQUIRE(elsewhere.code == 0);
  CHECK(elsewhere.count("\"is_training_store\": false") == 1);
  CHECK(few.count("\"is_training_store\": true") == 1);
  // Its own store has other text now: nothing is fitted on what was not trained on.
  const std::string store = work().path + "/store", kept = work().path + "/kept";
  fs::rename(store, kept);
  fs::rename(other, store);
  const Ran changed = run(eval), without = run(kAtoll + " eval --threads 1 " + trained_run());
  const Ran on_kept = run(eval + "--data " + kept);
  fs::remove_all(store);
  fs::rename(kept, store);
  CHECK(changed.code == 65);
  CHECK_THAT(changed.said, Catch::Contains("leave --bigram out"));
  CHECK(without.code == 0);
  CHECK_THAT(without.said, Catch::Contains("not the store it was trained on"));
  CHECK(on_kept.code == 0);
  CHECK(bigram_of(on_kept, "labels") == bigram_of(all, "labels"));
}

TEST_CASE("Bits per byte under a tokenizer that changes text are said to be of the tokens' bytes") {
  const std::string store = work().path + "/foreign";
  const Ran made = run(kAtoll + " data prepare docs data --tokenizer tests/golden/tokenizer/sentencepiece/spm.model --held-out 15% --out " + store);
  CAPTURE(made.said);
  REQUIRE(made.code == 0);
  CHECK(made.count("bits per byte will count the bytes that tokens spell") == 1);
  const Ran trained = run(kAtoll + " train launch/recipes/debug.yaml data.store=" + store + " run.dir=" + work().path + " run.name=of_foreign train.steps=1 train.threads=1 model.vocab_size=8000");
  CAPTURE(trained.said);
  REQUIRE(trained.code == 0);
  CHECK(run(kAtoll + " eval --threads 1 --sequences 2 " + work().path + "/of_foreign").count("bits/byte is of the bytes that tokens spell") == 1);
  CHECK(run(kAtoll + " eval --threads 1 --sequences 2 " + trained_run()).count("bits/byte is of the bytes that tokens spell") == 0);
}

TEST_CASE("Every command explains itself, and is one process unless it is made of ranks") {
  for (const std::string command : {"", "train", "data", "data prepare", "data check", "model show", "checkpoint ls", "checkpoint show", "checkpoint verify", "config reference", "eval", "generate",
                                    "verify golden", "bench step"}) {
    CAPTURE(command);
    const Ran help = run(kAtoll + " " + command + " --help");
    CHECK(help.code == 0);
    CHECK_THAT(help.said, Catch::Contains("Usage: "));
  }
  const Ran two = run(mpirun(2) + kAtoll + " config reference");
  CHECK(two.code == 64);
  CHECK(two.count("atoll config is one process; start it without mpirun") == 1);
  CHECK(two.count("train.global_batch") == 0);
  for (const std::string wrong : {"eval runs/x --sequences -1", "generate runs/x --threads -1", "data prepare docs --out /tmp/x --threads -2", "data prepare docs"}) {
    CAPTURE(wrong);
    CHECK(run(kAtoll + " " + wrong).code == 64);
  }
}

TEST_CASE("The ranks of a dry run are a whole number written out, and not too many") {
  const auto dry = [](const std::string& world) { return run(kAtoll + " train launch/recipes/debug.yaml --dry-run " + world); };
  for (const std::string wrong : {"world=1e3", "world=2x", "world=2.9", "world=", "world=02", "world=4294967297", "world=65537", "world=0", "world=-1", "world=2x world=2"}) {
    CAPTURE(wrong);
    const Ran ran = dry(wrong);
    CHECK(ran.code == 64);
    CHECK(ran.count("dry run of") == 0);
    CHECK(ran.count(wrong.substr(0, wrong.find(' '))) >= 1);
  }
  CHECK(dry("world=1e3").count("expected a whole number written out, not in powers of ten") == 1);
  CHECK(dry("").count("--dry-run needs the number of ranks: world=16") == 1);
  CHECK(dry("world=4 world=2").count("dry run of 2 ranks") == 1);
}
