// Every number of a plan with its unit, how it was made and from what: what the page prints, what --json holds and what --explain walks. Policy: a number is
// put down where it is computed, by the code that computes it; the page looks numbers up and computes none.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "trainer/plan/sheet.h"

namespace atoll::plan {

struct Entry {
  std::string name;
  double value = 0;
  Unit unit = Unit::kNone;
  std::string how;                  // formula, or where an input's value comes from
  std::vector<std::string> inputs;  // names of other entries
};

class Ledger {
 public:
  double put(const std::string& name, double value, Unit unit, const std::string& how, std::vector<std::string> inputs = {});
  // All quantities of a sheet as "prefix.name", with their sources and places.
  void put_sheet(const std::string& prefix, const Sheet& sheet);
  const Entry* find(const std::string& name) const;
  double value(const std::string& name) const;  // Error where it was not put
  const std::vector<Entry>& all() const { return entries_; }
  // The tree below an entry, inputs indented; an entry that was shown already is named only. ConfigError with near names where there is none.
  std::string explain(const std::string& name) const;

 private:
  void walk(const Entry& entry, int depth, std::vector<std::string>& seen, std::string& out) const;
  std::vector<Entry> entries_;
  std::map<std::string, size_t> index_;
};

}  // namespace atoll::plan
