// Entries in the order they were put; a later put of a name replaces the earlier one.
#include "trainer/plan/ledger.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/base/error.h"

namespace atoll::plan {
namespace {
std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}
// Whether `guess` is in the name, as whole words of it: mfu in mfu.causal, goodput in failures.goodput, parameters in rank.shared_parameters.
bool holds(const std::string& name, const std::string& guess) {
  const std::string text = lower(name), part = lower(guess);
  if (part.empty()) return false;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    const size_t end = at + part.size();
    const auto is_edge = [&](size_t i) { return !std::isalnum(static_cast<unsigned char>(text[i])); };
    if ((at == 0 || is_edge(at - 1)) && (end == text.size() || is_edge(end))) return true;
  }
  return false;
}
bool is_detail(const std::string& name) { return std::count(name.begin(), name.end(), '.') > 1; }
std::string listed(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& n : names) list += (list.empty() ? "" : ", ") + n;
  return list;
}
}  // namespace

double Ledger::put(const std::string& name, double value, Unit unit, const std::string& how, std::vector<std::string> inputs) {
  const auto [it, is_new] = index_.try_emplace(name, entries_.size());
  Entry entry{name, value, unit, how, std::move(inputs)};
  if (is_new)
    entries_.push_back(std::move(entry));
  else
    entries_[it->second] = std::move(entry);
  return value;
}

void Ledger::put_sheet(const std::string& prefix, const Sheet& sheet) {
  for (const auto& [name, v] : sheet.all()) {
    std::string how = v.source.empty() ? v.place : v.source + " (" + v.place + ")";
    if (v.unit == Unit::kText) how = "\"" + v.text + "\"; " + how;
    if (v.unit == Unit::kWords) {
      std::string list;
      for (const std::string& w : v.words) list += (list.empty() ? "" : ", ") + w;
      how = "[" + list + "]; " + how;
    }
    put(prefix + "." + name, v.number, v.unit, how);
  }
}

const Entry* Ledger::find(const std::string& name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &entries_[it->second];
}

double Ledger::value(const std::string& name) const {
  const Entry* entry = find(name);
  ATOLL_CHECK(entry != nullptr, "no entry ", name, " in the ledger");
  return entry->value;
}

void Ledger::walk(const Entry& entry, int depth, std::vector<std::string>& seen, std::string& out) const {
  const std::string indent(static_cast<size_t>(2 * depth), ' ');
  const bool is_text = entry.unit == Unit::kText || entry.unit == Unit::kWords;
  const bool was_seen = std::find(seen.begin(), seen.end(), entry.name) != seen.end();
  out += fmt::format("{}{}{}{}\n", indent, entry.name, is_text ? "" : " = " + show(entry.value, entry.unit), was_seen ? "   (above)" : "   " + entry.how);
  if (was_seen) return;
  seen.push_back(entry.name);
  for (const std::string& input : entry.inputs)
    if (const Entry* e = find(input))
      walk(*e, depth + 1, seen, out);
    else
      out += indent + "  " + input + "\n";
}

std::string Ledger::explain(const std::string& name) const {
  const Entry* entry = find(name);
  if (entry == nullptr) {
    std::vector<std::string> names, near, results;
    for (const Entry& e : entries_) {
      names.push_back(e.name);
      if (holds(e.name, name)) near.push_back(e.name);
      if (!e.inputs.empty() && !is_detail(e.name)) results.push_back(e.name);
    }
    if (near.size() > 16) std::erase_if(near, is_detail);
    if (near.empty())
      if (const std::string meant = nearest_of(name, names); !meant.empty()) near = {meant};
    const std::string meant = near.empty() ? "" : near.size() == 1 ? "; did you mean " + near[0] + "?" : "; there are " + listed(near);
    throw ConfigError("--explain " + name + ": no such item" + meant + (near.size() > 1 ? "" : "; results are: " + listed(results)) + " (--json has all)");
  }
  std::string out;
  std::vector<std::string> seen;
  walk(*entry, 0, seen, out);
  return out;
}

}  // namespace atoll::plan
