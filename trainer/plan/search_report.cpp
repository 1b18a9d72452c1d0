// What a search found: as text of a hundred columns, as JSON, as a picture. Policy: text and picture show the same rows.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "trainer/plan/search_space.h"
#include "trainer/svg.h"

namespace atoll::plan {
namespace {
constexpr size_t kShown = 12;
constexpr const char* kHeads[] = {"GPUs", "step", "tok/s/G", "GB", "pp", "dp", "tp", "cp", "ep", "schedule", "micro-b.", "ZeRO", "again", "exp", "bub", "col"};
constexpr size_t kColumns = std::size(kHeads), kSchedule = 9;
constexpr const char* kLegend[] = {"micro-b.: micro-batches x sequences; again, what is recomputed: n norms, m MLA's up-projections, s SwiGLU, e experts, a attention, f all",
                                   "exp, bub, col: exposed exchanges, bubble, gradient and weight collectives, % of the step; *: layers moved between stages"};
using Row = std::array<std::string, kColumns>;

bool fits(const Search& s, const Candidate& c) { return c.memory <= s.in.cluster.memory; }

Row row_of(const Candidate& c) {
  const MeshSizes& m = c.in.run.parallel.mesh;
  std::string again;
  for (const std::string& word : c.in.plan.words("recompute")) again += word[0];
  const auto percent = [&](double seconds) { return fmt::format("{:.0f}", 100 * seconds / c.step); };
  const bool is_flat = c.in.plan.text("dispatch") == "flat" && m.ep > 1;
  return {std::to_string(c.gpus),
          fmt::format("{:.2f} s", c.step),
          fmt::format("{:.0f}", c.tokens_per_gpu_second),
          fmt::format("{:.1f}", c.memory / 1e9),
          std::to_string(m.pp),
          std::to_string(c.in.dp()),
          std::to_string(m.tp),
          std::to_string(m.cp),
          std::to_string(m.ep),
          schedule_text(c.in) + (is_flat ? ", flat" : "") + (c.in.run.parallel.stage_layers.empty() ? "" : "*"),
          fmt::format("{} x {}", c.in.run.train.global_batch / c.in.dp() / c.in.run.train.micro_batch, c.in.run.train.micro_batch),
          fmt::format("{:g}", c.in.plan.number("zero")),
          again.empty() ? "-" : again,
          percent(c.exposed),
          percent(c.bubble),
          percent(c.optimizer)};
}

// The front's first rows and the plan as given, all cells of a column equally wide.
struct Table {
  std::vector<Row> rows;
  Row given;
  std::array<size_t, kColumns> widths = {};
  explicit Table(const Search& s) : given(row_of(s.given)) {
    for (size_t i = 0; i < std::min(kShown, s.front.size()); ++i) rows.push_back(row_of(s.front[i]));
    for (size_t c = 0; c < kColumns; ++c) {
      widths[c] = std::max(std::string(kHeads[c]).size(), given[c].size());
      for (const Row& r : rows) widths[c] = std::max(widths[c], r[c].size());
    }
  }
  std::string line(const Row& row) const {
    std::string out;
    for (size_t c = 0; c < kColumns; ++c) out += c == kSchedule ? fmt::format(" {:<{}}", row[c], widths[c]) : fmt::format(" {:>{}}", row[c], widths[c]);
    return out + "\n";
  }
  std::string heads() const {
    Row row;
    std::copy(std::begin(kHeads), std::end(kHeads), row.begin());
    return line(row);
  }
};

std::string summary(const Search& s) {
  return fmt::format("{} on {}: {} layouts simulated in {:.1f} s of {} ({} cannot be built, {} exceed {}, {} cannot be better than one simulated)", s.in.name,
                     s.in.cluster.name, s.tried, s.seconds, s.tried + s.impossible + s.too_large + s.beaten, s.impossible, s.too_large,
                     show(s.in.cluster.memory, Unit::kBytes), s.beaten);
}

std::string layers_of(const Candidate& c) {
  std::string layers;
  for (const int64_t n : c.in.run.parallel.stage_layers) layers += (layers.empty() ? "" : ", ") + std::to_string(n);
  return layers;
}

// The front as points (memory, step), one curve for each number of devices. Steps of more than kSlowest times the best are left out: they would flatten the rest.
class Chart {
 public:
  Chart(const Search& s, double left, double top, double width, double height) : s_(s), left_(left), top_(top), width_(width), height_(height) {
    least_x_ = most_x_ = s.given.memory / 1e9;
    least_y_ = most_y_ = s.given.step;
    slowest_ = std::max(kSlowest * s.front.front().step, s.given.step);
    for (const Candidate& c : s.front) {
      if (c.step > slowest_) {
        ++num_hidden_;
        continue;
      }
      least_x_ = std::min(least_x_, c.memory / 1e9);
      most_x_ = std::max(most_x_, c.memory / 1e9);
      least_y_ = std::min(least_y_, c.step);
      most_y_ = std::max(most_y_, c.step);
    }
    most_x_ = std::max(most_x_, s.in.cluster.memory / 1e9);
    pad(least_x_, most_x_);
    pad(least_y_, most_y_);
  }
  std::string draw() {
    axes();
    std::vector<int64_t> sizes;
    for (const Candidate& c : s_.front)
      if (std::find(sizes.begin(), sizes.end(), c.gpus) == sizes.end()) sizes.push_back(c.gpus);
    for (size_t i = 0; i < sizes.size(); ++i) curve(sizes[i], i);
    const double limit = x(s_.in.cluster.memory / 1e9);
    put("<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\" stroke=\"#b00\" stroke-dasharray=\"4 3\"/>", limit, top_, top_ + height_);
    put("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\" fill=\"#b00\">memory of a GPU</text>\n", limit - 5, top_ + 14);
    if (num_hidden_ > 0)
      put("<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"#555\">not drawn: {} points of the front above {:.1f} s</text>\n", left_ + 14, top_ + 18, num_hidden_, slowest_);
    if (s_.why_not_given.empty()) mark(s_.given, "as given", "#b5651d", -11);
    mark(s_.front.front(), "best", "#111", 20);
    return out_;
  }

 private:
  template <class... T>
  void put(fmt::format_string<T...> format, T&&... values) { out_ += fmt::format(format, std::forward<T>(values)...); }
  static void pad(double& least, double& most) {
    const double by = 0.06 * std::max(most - least, 1e-3 * most);
    least -= by;
    most += by;
  }
  double x(double gb) const { return left_ + width_ * (gb - least_x_) / (most_x_ - least_x_); }
  double y(double step) const { return top_ + height_ * (1 - (step - least_y_) / (most_y_ - least_y_)); }
  void axes() {
    put("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"none\" stroke=\"#999\"/>\n", left_, top_, width_, height_);
    const double step_x = nice_step((most_x_ - least_x_) / 10), step_y = nice_step((most_y_ - least_y_) / 7);
    for (double v = std::ceil(least_x_ / step_x) * step_x; v <= most_x_; v += step_x)
      put("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:g}</text>\n", x(v), top_ + height_ + 17, v);
    for (double v = std::ceil(least_y_ / step_y) * step_y; v <= most_y_; v += step_y) {
      put("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#e4e4e4\"/>", left_, y(v), left_ + width_, y(v));
      put("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}</text>\n", left_ - 6, y(v) + 4, v);
    }
    put("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">memory of the fullest rank, GB</text>\n", left_ + width_ / 2, top_ + height_ + 36);
    put("<text transform=\"translate({:.1f} {:.1f}) rotate(-90)\" text-anchor=\"middle\">time of a step, s</text>\n", left_ - 50, top_ + height_ / 2);
  }
  void curve(int64_t gpus, size_t index) {
    constexpr const char* kColors[] = {"#2a5ca8", "#2e8b57", "#7a3e9c"};
    const char* color = kColors[index % std::size(kColors)];
    std::string points;
    for (const Candidate& c : s_.front)
      if (c.gpus == gpus && c.step <= slowest_) points += fmt::format("{:.1f},{:.1f} ", x(c.memory / 1e9), y(c.step));
    put("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.2\"/>\n", points, color);
    for (const Candidate& c : s_.front)
      if (c.gpus == gpus && c.step <= slowest_) put("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>", x(c.memory / 1e9), y(c.step), color);
    put("\n<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"{}\">{} GPUs</text>\n", left_ + 14 + 110 * static_cast<double>(index), top_ + height_ - 12, color, gpus);
  }
  void mark(const Candidate& c, const char* text, const char* color, double below) {
    put("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"6\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>", x(c.memory / 1e9), y(c.step), color);
    put("<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"{}\" font-weight=\"bold\">{}</text>\n", x(c.memory / 1e9) - 12, y(c.step) + below, color, text);
  }

  static constexpr double kSlowest = 3;
  const Search& s_;
  size_t num_hidden_ = 0;
  double left_, top_, width_, height_, slowest_ = 0, least_x_ = 0, most_x_ = 0, least_y_ = 0, most_y_ = 0;
  std::string out_;
};
}  // namespace

std::string search_text(const Search& s) {
  const Table table(s);
  std::string out = summary(s) + "\n\n" + table.heads();
  for (const Row& row : table.rows) out += table.line(row);
  if (table.rows.size() < s.front.size())
    out += fmt::format("... {} more points of the front, slower in less memory or on fewer GPUs (--json has all)\n", s.front.size() - table.rows.size());
  out += s.why_not_given.empty() ? (fits(s, s.given) ? "as given:\n" : "as given (does not fit):\n") + table.line(table.given) : "as given: cannot be built: " + s.why_not_given + "\n";
  for (const char* line : kLegend) out += std::string(line) + "\n";
  const Candidate& best = s.front.front();
  out += fmt::format("\nbest: {}\n  {}bound by {}\n", best.text,
                     s.why_not_given.empty() ? fmt::format("{:+.1f} % of the given plan's step; ", 100 * (best.step / s.given.step - 1)) : "", best.bound_by);
  if (!best.in.run.parallel.stage_layers.empty()) out += "  layers of its stages: [" + layers_of(best) + "]\n";
  for (const std::string& h : s.hinges) out += "  " + h + "\n";
  return out + fmt::format("  one more GB of memory would buy {} a step, one more GB/s between nodes {}\n",
                           show(best.step - s.step_with_more_memory, Unit::kSeconds), show(best.step - s.step_with_more_bandwidth, Unit::kSeconds));
}

std::string search_json(const Search& s) {
  nlohmann::ordered_json j;
  const auto item = [&s](const Candidate& c) {
    nlohmann::ordered_json o = {{"gpus", c.gpus},           {"step_time", c.step}, {"tokens_per_gpu_second", c.tokens_per_gpu_second},
                                {"memory", c.memory},       {"fits", fits(s, c)},  {"bubble", c.bubble},  {"exposed", c.exposed},
                                {"optimizer", c.optimizer}, {"layout", c.text},    {"bound_by", c.bound_by}};
    if (!c.in.run.parallel.stage_layers.empty()) o["stage_layers"] = c.in.run.parallel.stage_layers;
    return o;
  };
  if (s.why_not_given.empty())
    j["given"] = item(s.given);
  else
    j["given"] = {{"problem", s.why_not_given}};
  for (const Candidate& c : s.front) j["front"].push_back(item(c));
  j["tried"] = s.tried;
  j["impossible"] = s.impossible;
  j["too_large"] = s.too_large;
  j["beaten"] = s.beaten;
  j["seconds"] = s.seconds;
  j["step_with_one_more_gb"] = s.step_with_more_memory;
  j["step_with_one_more_gb_per_second"] = s.step_with_more_bandwidth;
  j["hinges"] = s.hinges;
  return j.dump(2) + "\n";
}

std::string search_svg(const Search& s) {
  constexpr double kWidth = 1160, kChart = 420, kTop = 70, kLine = 19;
  const Table table(s);
  const double below = kTop + kChart + 70, height = below + kLine * static_cast<double>(table.rows.size() + 7) + 10;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"DejaVu Sans, Verdana, "
      "sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
      kWidth, height);
  out += fmt::format("<text x=\"20\" y=\"28\" font-size=\"16\" font-weight=\"bold\">{} on {}: layouts that nothing else beats</text>\n", escaped(s.in.name),
                     escaped(s.in.cluster.name));
  out += fmt::format("<text x=\"20\" y=\"50\">{}</text>\n", escaped(summary(s)));
  out += Chart(s, 80, kTop, kWidth - 110, kChart).draw();
  double y = below;
  const auto text = [&](const std::string& line, const char* style) {
    out += fmt::format("<text x=\"20\" y=\"{:.0f}\" xml:space=\"preserve\" font-family=\"DejaVu Sans Mono, monospace\" {}>{}</text>\n", y, style, escaped(line));
    y += kLine;
  };
  const auto cut = [](std::string line) { return line.substr(0, line.size() - 1); };  // no line end
  text(cut(table.heads()), "font-weight=\"bold\"");
  for (const Row& row : table.rows) text(cut(table.line(row)), "");
  text(s.why_not_given.empty() ? cut(table.line(table.given)) + (fits(s, s.given) ? "  as given" : "  as given: does not fit") : "as given: cannot be built: " + s.why_not_given, "fill=\"#b5651d\"");
  for (const char* line : kLegend) text(line, "font-size=\"11\" fill=\"#555\"");
  text("best: " + s.front.front().text, "font-size=\"11\"");
  text("bound by " + s.front.front().bound_by, "font-size=\"11\"");
  return out + "</svg>\n";
}

}  // namespace atoll::plan
