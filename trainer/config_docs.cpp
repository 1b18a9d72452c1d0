// docs/configuration.md, generated from the table that parses: it cannot drift (a test compares the committed file).
#include <sstream>

#include "trainer/config_schema.h"

namespace atoll {
namespace {

constexpr const char* kIntroduction = R"(# Configuration

One YAML file and `a.b.c=value` on the command line, which wins over the file (and a later one over an earlier one). This page is generated from the table that
parses; `atoll config reference` prints it. A mistake ends the program with exit code 64 before anything is allocated; all mistakes are listed at once.

* **Whole numbers** are written out (`1000`, not `1e3`; no leading zeros). **Counts** may end in K, M, B or T (powers of 1000: `1.5M`, `10T`). **Bytes** may end in KiB, MiB,
  GiB or TiB. **Switches** are `true` or `false`, nothing else.
* **Points of the run** are `2000 steps`, `10T tokens`, `10T` (tokens), `0`, or `end`. They are compared with the position at the end of a step.
* **Values along the run** are a number, or `[[point, value], ...]`: each value holds from its point on, the first from 0.
* **model** is a preset's name (`model: quickstart`), a Hugging Face `config.json` of deepseek_v3 or deepseek_v2 (`model: path/config.json`), or a section with `preset:` or
  `config:` and any field over it. A relative path is looked for in the recipe's folder first.
* Anchors, aliases, tags, duplicate and unknown keys are errors.
* *Resume*: whether a run may go on with another value. A change that is not allowed is an error that names the key, the old and the new value.

The learning rate is linear from 0 to `max` until `warmup`, `max` until `constant_until`, a cosine from `max` to `min` until `decay_until`, then `min`, then the `plateaus`.
DeepSeek-V3's own: `lr: {max: 2.2e-4, min: 2.2e-5, warmup: 2000 steps, constant_until: 10T, decay_until: 14300B, plateaus: [[14633B, 7.3e-6]]}` and
`batch_ramp: {start: 3072, until_tokens: 469B}` with `global_batch: 15360`.
)";

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

}  // namespace

std::string configuration_reference() {
  std::ostringstream out;
  out << kIntroduction;
  const RunConfig defaults;
  std::string section;
  for (const ConfigKey& key : config_schema()) {
    const std::string name = key.name.substr(0, key.name.find('.'));
    if (name != section) {
      out << "\n## " << name << "\n\n";
      if (name == "model") out << "The defaults are DeepSeek-V3's, in the values of its pre-training; a preset or a file sets them all.\n\n";
      out << "| key | type | default | resume | meaning |\n|---|---|---|---|---|\n";
      section = name;
    }
    out << "| `" << key.name << "` | " << escaped(key.type) << " | `" << key.print(defaults) << "` | " << (key.why_fixed.empty() ? "may change" : "fixed")
        << " | " << escaped(key.doc) << " |\n";
  }
  return out.str();
}

}  // namespace atoll
