// See schedule_file.h. Both formats end in the same list of (line, rank, action); the frame is built from it once.
#include "trainer/schedule_file.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "kernels/base/error.h"
#include "trainer/config_values.h"
#include "trainer/yaml_reader.h"

namespace atoll {
namespace {
constexpr int kMaxRanks = 4096, kMaxStages = kMaxScheduleStages, kMaxMicrobatches = 65536;

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}
std::optional<int> number_after(const std::string& word, char letter) {
  int value = 0;
  if (word.size() < 2 || word[0] != letter) return std::nullopt;
  const auto [end, error] = std::from_chars(word.data() + 1, word.data() + word.size(), value);
  return error == std::errc{} && end == word.data() + word.size() && value >= 0 ? std::optional(value) : std::nullopt;
}
// "F s1 m3", "B s0 m2", "W s0 m2", "BW s0 m2", "F s1 m3 & BW s0 m2", "sendF s0 m1" ...
std::optional<Action> parse_action(const std::string& text) {
  static const std::pair<const char*, ActionKind> kKinds[] = {
      {"F", ActionKind::kForward},           {"B", ActionKind::kBackward},          {"W", ActionKind::kWeight},            {"BW", ActionKind::kFullBackward},
      {"sendF", ActionKind::kSendForward},   {"recvF", ActionKind::kRecvForward},   {"sendB", ActionKind::kSendBackward},  {"recvB", ActionKind::kRecvBackward}};
  const std::vector<std::string> words = words_of(text);
  if (words.size() != 3 && words.size() != 7) return std::nullopt;
  const auto stage = number_after(words[1], 's'), microbatch = number_after(words[2], 'm');
  if (!stage || !microbatch) return std::nullopt;
  if (words.size() == 7) {
    const auto pair_stage = number_after(words[5], 's'), pair_microbatch = number_after(words[6], 'm');
    if (words[0] != "F" || words[3] != "&" || words[4] != "BW" || !pair_stage || !pair_microbatch) return std::nullopt;
    return Action{ActionKind::kPair, *stage, *microbatch, *pair_stage, *pair_microbatch};
  }
  for (const auto& [name, kind] : kKinds)
    if (words[0] == name) return Action{kind, *stage, *microbatch};
  return std::nullopt;
}

class FileReader {
 public:
  explicit FileReader(std::string path) : path_(std::move(path)) { schedule_.name = std::filesystem::path(path_).stem().string(); }

  void read_csv(const std::string& text) {
    std::istringstream in(text);
    int line = 0;
    bool has_header = false;
    for (std::string row; std::getline(in, row);) {
      ++line;
      row.resize(std::min(row.find('#'), row.size()));  // a comment, on a line of its own or after an action
      if (const auto words = words_of(row); words.empty()) continue;
      const size_t comma = row.find(',');
      const std::vector<std::string> first = words_of(row.substr(0, comma));
      const std::string rest = comma == std::string::npos ? "" : row.substr(comma + 1);
      if (!std::exchange(has_header, true)) {
        if (first != std::vector<std::string>{"rank"} || words_of(rest) != std::vector<std::string>{"action"}) return complain(line, "the first row must be `rank,action`");
        continue;
      }
      const auto rank = first.size() == 1 ? number_after("r" + first[0], 'r') : std::nullopt;
      if (!rank || *rank >= kMaxRanks) complain(line, "a row is `rank,action`, the rank a number from 0 to " + std::to_string(kMaxRanks - 1) + ", for example `0,F s0 m3`");
      else add(line, *rank, rest);
    }
    if (!has_header) complain(1, "no rows; the first one must be `rank,action`");
  }

  void read_yaml(const std::string& text) {
    std::vector<YamlProblem> problems;
    const YamlNode root = atoll::read_yaml(text, problems);
    for (const YamlProblem& p : problems) complain(p.line, p.what);
    if (!problems.empty()) return;
    if (root.kind != YamlNode::Kind::kMap) return complain(1, "a schedule is a map with `actions`: for each rank a list of actions");
    std::vector<std::string> seen;
    for (const auto& [key, node] : root.entries) {
      if (std::find(seen.begin(), seen.end(), key) != seen.end()) complain(node.line, key + ": given twice");
      seen.push_back(key);
      if (key == "name") expect(node, key, parse_text(node, schedule_.name));
      else if (key == "mirrored") expect(node, key, parse_switch(node, mirrored_.emplace()));
      else if (key == "stages") read_numbers(node, key, schedule_.rank_of_stage, kMaxStages);
      else if (key == "max_live") read_numbers(node, key, schedule_.max_live, kMaxRanks);
      else if (key == "actions") read_lists(node);
      else complain(node.line, key + ": no such key; known: name, stages, mirrored, max_live, actions");
    }
    if (std::find(seen.begin(), seen.end(), "actions") == seen.end()) complain(1, "`actions` is missing: for each rank a list of actions");
  }

  Schedule finish() {
    if (problems_.empty()) build();
    if (problems_.empty()) return std::move(schedule_);
    std::string all;
    for (size_t i = 0; i < problems_.size() && i < 20; ++i) all += (i == 0 ? "" : "\n  ") + problems_[i];
    if (problems_.size() > 20) all += "\n  and " + std::to_string(problems_.size() - 20) + " more";
    throw ConfigError(all);
  }

 private:
  void complain(int line, const std::string& what) { problems_.push_back(path_ + ":" + std::to_string(line) + ": " + what); }
  void expect(const YamlNode& node, const std::string& key, const std::string& problem) {
    if (!problem.empty()) complain(node.line, key + " = " + to_string(node) + ": " + problem);
  }
  void read_numbers(const YamlNode& node, const std::string& key, std::vector<int>& out, size_t most) {
    std::vector<int64_t> values;
    expect(node, key, parse_wholes(node, values));
    if (values.size() > most) return complain(node.line, key + ": at most " + std::to_string(most) + " entries");
    for (int64_t v : values) {
      if (v < 0 || v > kMaxRanks * int64_t{kMaxMicrobatches}) return complain(node.line, key + ": " + std::to_string(v) + " is out of range");
      out.push_back(static_cast<int>(v));
    }
  }
  void read_lists(const YamlNode& node) {
    if (node.kind != YamlNode::Kind::kList || node.items.empty() || node.items.size() > kMaxRanks) return complain(node.line, "actions: a list with an entry for each rank");
    schedule_.actions.resize(node.items.size());
    for (size_t rank = 0; rank < node.items.size(); ++rank) {
      const YamlNode& list = node.items[rank];
      if (list.kind != YamlNode::Kind::kList) complain(list.line, "actions of rank " + std::to_string(rank) + ": a list, for example [F s0 m0, BW s0 m0]");
      for (const YamlNode& item : list.items) add(item.line, static_cast<int>(rank), item.kind == YamlNode::Kind::kScalar ? item.text : to_string(item));
    }
  }
  void add(int line, int rank, const std::string& text) {
    const std::optional<Action> action = parse_action(text);
    if (!action) return complain(line, "`" + text + "` is no action; write F, B, W or BW with stage and micro-batch, as `F s1 m3`, or `F s1 m3 & BW s0 m2`");
    for (const int stage : {action->stage, action->pair_stage})
      if (stage >= kMaxStages) return complain(line, "stage " + std::to_string(stage) + ": at most " + std::to_string(kMaxStages) + " stages");
    for (const int m : {action->microbatch, action->pair_microbatch})
      if (m >= kMaxMicrobatches) return complain(line, "micro-batch " + std::to_string(m) + ": at most " + std::to_string(kMaxMicrobatches));
    if (std::ssize(schedule_.actions) <= rank) schedule_.actions.resize(static_cast<size_t>(rank) + 1);
    schedule_.actions[static_cast<size_t>(rank)].push_back(*action);
  }

  // Sizes are the largest numbers used; a stage lies where its first micro-batch runs; it is mirrored where its last one runs elsewhere.
  void build() {
    Schedule& s = schedule_;
    s.num_ranks = static_cast<int>(s.actions.size());
    int num_stages = 0;
    bool has_messages = false;
    for (const auto& list : s.actions)
      for (const Action& a : list) {
        num_stages = std::max({num_stages, a.stage + 1, a.pair_stage + 1});
        s.num_microbatches = std::max({s.num_microbatches, a.microbatch + 1, a.pair_microbatch + 1});
        has_messages = has_messages || !is_computation(a);
      }
    if (num_stages == 0) return complain(1, "no actions");
    for (int rank = 0; rank < s.num_ranks; ++rank)
      if (s.actions[static_cast<size_t>(rank)].empty()) complain(1, detail::concat("rank ", rank, " has no actions, and there are ranks 0 to ", s.num_ranks - 1));
    if (!problems_.empty()) return;
    if (!s.rank_of_stage.empty() && std::ssize(s.rank_of_stage) != num_stages)
      return complain(1, "stages places " + std::to_string(s.rank_of_stage.size()) + " stages, the actions have " + std::to_string(num_stages));
    if (int64_t{num_stages} * s.num_microbatches > kMaxSchedulePairs) return complain(1, kScheduleBound);
    s.num_stages = num_stages;
    std::vector<int> first(static_cast<size_t>(num_stages), -1), last = first;
    for (int rank = 0; rank < s.num_ranks; ++rank)
      for (const Action& a : s.actions[static_cast<size_t>(rank)]) {
        const StageMicrobatch f = forward_of(a);
        if (f.stage >= 0 && f.microbatch == 0) first[static_cast<size_t>(f.stage)] = rank;
        if (f.stage >= 0 && f.microbatch == s.num_microbatches - 1) last[static_cast<size_t>(f.stage)] = rank;
      }
    if (s.rank_of_stage.empty())
      for (const int rank : first) s.rank_of_stage.push_back(std::max(rank, 0));
    for (const int rank : s.rank_of_stage)
      if (rank >= s.num_ranks) return complain(1, "stages: rank " + std::to_string(rank) + " has no actions (" + std::to_string(s.num_ranks) + " ranks)");
    bool is_mirrored = s.num_microbatches % 2 == 0;
    for (size_t i = 0; i < first.size(); ++i) is_mirrored = is_mirrored && first[i] >= 0 && last[i] == s.num_ranks - 1 - first[i] && first[i] != last[i];
    s.is_mirrored = mirrored_.value_or(is_mirrored);
    if (!has_messages) s = with_communication(s);
  }

  std::string path_;
  Schedule schedule_;
  std::optional<bool> mirrored_;
  std::vector<std::string> problems_;
};
bool ends_with(const std::string& text, const char* end) { return text.ends_with(end); }
}  // namespace

bool is_schedule_file(const std::string& name) { return ends_with(name, ".yaml") || ends_with(name, ".yml") || ends_with(name, ".csv"); }

Schedule parse_schedule_file(const std::string& file, const std::string& path) {
  const std::string mark = "\xEF\xBB\xBF", text = file.compare(0, mark.size(), mark) == 0 ? file.substr(mark.size()) : file;  // a byte order mark, as spreadsheets write it
  FileReader reader(path);
  if (ends_with(path, ".csv")) reader.read_csv(text);
  else reader.read_yaml(text);
  return reader.finish();
}

Schedule read_schedule_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  if (!in || std::filesystem::is_directory(path) || !(text << in.rdbuf())) throw ConfigError(path + ": cannot be read (or is empty)");
  return parse_schedule_file(text.str(), path);
}

std::string print_schedule_yaml(const Schedule& schedule) {
  std::string out = "name: " + print_text(schedule.name) + "\nstages: " + print_wholes({schedule.rank_of_stage.begin(), schedule.rank_of_stage.end()}) + "\n";
  if (schedule.is_mirrored) out += "mirrored: true\n";
  if (!schedule.max_live.empty()) out += "max_live: " + print_wholes({schedule.max_live.begin(), schedule.max_live.end()}) + "\n";
  out += "actions:\n";
  for (const auto& list : schedule.actions) {
    out += "  - [";
    for (size_t i = 0; i < list.size(); ++i) out += (i == 0 ? "" : i % 10 == 0 ? ",\n     " : ", ") + to_string(list[i]);
    out += "]\n";
  }
  return out;
}

}  // namespace atoll
