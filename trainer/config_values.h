// Configuration scalars: strict text to value and value back to text. Policy: nothing is guessed: no octal, no `yes`, no `1e3` for a count, no lossy rounding.
// Every parse function returns an empty string, or what was expected (the caller adds the key and the place). Printing and parsing are inverse.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "trainer/schedules.h"
#include "trainer/yaml_reader.h"

namespace atoll {

std::string parse_whole(const YamlNode& node, int64_t& out);  // 12, -3
std::string parse_count(const YamlNode& node, int64_t& out);  // 1500000, 1.5M, 10T: K M B T are powers of 1000
std::string parse_bytes(const YamlNode& node, int64_t& out);  // 4096, 512MiB, 1.5 GiB
std::string parse_real(const YamlNode& node, double& out);    // 0.1, 2.2e-4; finite
std::string parse_switch(const YamlNode& node, bool& out);    // true, false
std::string parse_text(const YamlNode& node, std::string& out);
std::string parse_point(const YamlNode& node, RunPoint& out);                  // 2000 steps, 10T tokens, 10T, 0, end
std::string parse_points(const YamlNode& node, std::vector<PointValue>& out);  // [[0, 0.3], [10T, 0.1]]
std::string parse_wholes(const YamlNode& node, std::vector<int64_t>& out);     // [4, 4, 3]

std::string print_count(int64_t value);            // 10T, 1500K, 12
std::string print_bytes(int64_t value);            // 512MiB, 0
std::string print_real(double value);              // shortest text that reads back to the same bits
std::string print_text(const std::string& value);  // quoted where YAML needs it
std::string print_points(const std::vector<PointValue>& points);
std::string print_wholes(const std::vector<int64_t>& values);

}  // namespace atoll
