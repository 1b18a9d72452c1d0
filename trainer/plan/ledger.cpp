// Entries in the order they were put; a later put of a name replaces the earlier one.
#include "trainer/plan/ledger.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/base/error.h"

namespace atoll::plan {

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
    std::vector<std::string> names;
    std::string list;
    for (const Entry& e : entries_) {
      names.push_back(e.name);
      if (!e.inputs.empty()) list += (list.empty() ? "" : ", ") + e.name;
    }
    const std::string near = nearest_of(name, names);
    throw ConfigError("--explain " + name + ": no such item" + (near.empty() ? "" : "; did you mean " + near + "?") + "; computed items are: " + list);
  }
  std::string out;
  std::vector<std::string> seen;
  walk(*entry, 0, seen, out);
  return out;
}

}  // namespace atoll::plan
