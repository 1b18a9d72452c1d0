// See schedule_picture.h. Policy: hue says what runs (F, B, W, a full backward), shade says which way it goes or which chunk it belongs to; a pair is one framed cell of two halves.
// The scale is chosen so that the shortest forward holds its number, as long as that takes no more than kMaxBands bands.
#include "trainer/schedule_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"
#include "trainer/svg.h"

namespace atoll {
namespace {
constexpr double kLeft = 78, kPlot = 1800, kRight = 26, kHeader = 92, kBandGap = 44, kDigit = 5.6;
constexpr int kMaxBands = 8, kMaxShades = 4;
constexpr size_t kMaxBoxes = 300'000;  // some 50 MB, which browsers still show
struct Hue { const char* css; const char* meaning; int light[3], dark[3]; };
constexpr Hue kHues[] = {{"f", "forward (F)", {178, 208, 247}, {40, 92, 168}},
                         {"x", "full backward (B and W)", {183, 226, 176}, {38, 118, 54}},
                         {"b", "input gradient (B)", {253, 221, 150}, {196, 116, 8}},
                         {"w", "weight gradient (W)", {224, 196, 240}, {118, 62, 156}}};
enum HueName { kF, kX, kB, kW };

std::string color(const Hue& hue, int shade, int num_shades) {
  const double t = num_shades <= 1 ? 0 : static_cast<double>(shade) / (num_shades - 1);
  const auto mix = [&](int i) { return static_cast<int>(std::lround(hue.light[i] + t * (hue.dark[i] - hue.light[i]))); };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2));
}
class Picture {
 public:
  Picture(const Schedule& s, const Simulation& sim) : s_(s), sim_(sim), row_(s.num_ranks <= 20 ? 18 : 15), font_(row_ >= 18 ? 9.5 : 8.5) {
    for (const auto& timeline : sim.timeline)
      if (!timeline.empty()) origin_ = std::min(origin_, timeline.front().begin);
    double shortest = 0;
    for (const auto& timeline : sim.timeline)
      for (const TimedAction& t : timeline)
        if (t.action.kind == ActionKind::kForward && t.end > t.begin) shortest = shortest == 0 ? t.end - t.begin : std::min(shortest, t.end - t.begin);
    const double step = std::max(sim.step_time, 1e-300);
    const double wanted = (kDigit * static_cast<double>(std::to_string(s.num_microbatches - 1).size()) + 3) / (shortest > 0 ? shortest : step);
    scale_ = std::clamp(wanted, kPlot / step, kMaxBands * kPlot / step);
    num_bands_ = std::max(1, static_cast<int>(std::ceil(step * scale_ / kPlot - 1e-9)));
    scale_ = num_bands_ * kPlot / step;  // the last band is full
    num_shades_ = s.is_mirrored ? 2 : std::clamp((s.num_stages + s.num_ranks - 1) / s.num_ranks, 1, kMaxShades);
  }

  std::string draw() {
    const double height = kHeader + num_bands_ * (s_.num_ranks * row_ + kBandGap) + 6, width = kLeft + kPlot + kRight;
    out_ = fmt::format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n", width, height);
    style();
    header();
    for (int band = 0; band < num_bands_; ++band) draw_band(band);
    return out_ + "</svg>\n";
  }

 private:
  template <class... T>
  void put(fmt::format_string<T...> format, T&&... values) { out_ += fmt::format(format, std::forward<T>(values)...); }

  void style() {
    put("<style>text{{font-size:{}px;fill:#222}}.t{{font-size:16px;font-weight:bold}}.l{{font-size:12px}}.a{{font-size:11px;fill:#555}}.c{{text-anchor:middle}}.d{{fill:#fff}}"
        "rect{{stroke:#fff;stroke-width:.6}}.p{{fill:none;stroke:#111;stroke-width:1.1}}.g{{fill:#ededed;stroke:none}}.k{{stroke:#bbb;stroke-width:.6}}", font_);
    for (const Hue& hue : kHues)
      for (int shade = 0; shade < num_shades_; ++shade) put(".{}{}{{fill:{}}}", hue.css, shade, color(hue, shade, num_shades_));
    put("</style>\n<rect width=\"100%\" height=\"100%\" style=\"fill:#fff;stroke:none\"/>\n");
  }

  void header() {
    double bubble = 0, peak = 0;
    for (const double b : sim_.bubble) bubble = std::max(bubble, b);
    for (const double p : sim_.peak_activation) peak = std::max(peak, p);
    put("<text class=\"t\" x=\"14\" y=\"26\">{}: {} ranks, {} stages, {} micro-batches</text>\n", escaped(s_.name), s_.num_ranks, s_.num_stages, s_.num_microbatches);
    put("<text class=\"l\" x=\"14\" y=\"46\">step {:g}, largest bubble {:g} ({:.1f} %), peak of live activations {:g}. Numbers are micro-batches{}.</text>\n", sim_.step_time, bubble,
        sim_.step_time > 0 ? 100 * bubble / sim_.step_time : 0, peak, num_bands_ > 1 ? "; time goes on from band to band" : "");
    double x = 14;
    const auto sample = [&](const std::string& css, const std::string& meaning) {
      put("<rect class=\"{}\" x=\"{:.0f}\" y=\"58\" width=\"26\" height=\"16\"/><text class=\"l\" x=\"{:.0f}\" y=\"71\">{}</text>\n", css, x, x + 31, meaning);
      x += 31 + 7.2 * static_cast<double>(meaning.size()) + 22;
    };
    for (size_t i = 0; i < std::size(kHues); ++i)
      if (uses_hue(static_cast<int>(i))) {
        for (int shade = 0; shade + 1 < num_shades_; ++shade, x += 27) put("<rect class=\"{}{}\" x=\"{:.0f}\" y=\"58\" width=\"26\" height=\"16\"/>", kHues[i].css, shade, x);
        sample(fmt::format("{}{}", kHues[i].css, num_shades_ - 1), kHues[i].meaning);
      }
    if (uses_pairs()) {
      put("<rect class=\"f0\" x=\"{0:.0f}\" y=\"58\" width=\"17\" height=\"16\"/><rect class=\"x{2}\" x=\"{1:.0f}\" y=\"58\" width=\"17\" height=\"16\"/>", x, x + 17, num_shades_ - 1);
      put("<rect class=\"p\" x=\"{:.0f}\" y=\"58\" width=\"34\" height=\"16\"/><text class=\"l\" x=\"{:.0f}\" y=\"71\">overlapped pair (F and full backward)</text>\n", x, x + 39);
      x += 300;
    }
    sample("g", "idle");
    if (num_shades_ > 1)
      put("<text class=\"l\" x=\"{:.0f}\" y=\"71\">{}</text>\n", x, s_.is_mirrored ? "light: micro-batches that enter at rank 0; dark: at the last rank" : "light to dark: first to last stage of a rank");
  }
  bool uses_hue(int hue) const {
    for (const auto& timeline : sim_.timeline)
      for (const TimedAction& t : timeline)
        if (hue_of(t.action.kind) == hue || (t.action.kind == ActionKind::kPair && (hue == kF || hue == kX))) return true;
    return false;
  }
  bool uses_pairs() const {
    for (const auto& timeline : sim_.timeline)
      for (const TimedAction& t : timeline)
        if (t.action.kind == ActionKind::kPair) return true;
    return false;
  }
  static int hue_of(ActionKind kind) {
    switch (kind) {
      case ActionKind::kForward: return kF;
      case ActionKind::kFullBackward: return kX;
      case ActionKind::kBackward: return kB;
      case ActionKind::kWeight: return kW;
      default: return -1;
    }
  }
  int shade_of(int rank, int stage, int microbatch) const {
    if (s_.is_mirrored) return s_.is_second_half(microbatch) ? 1 : 0;
    const std::vector<int> stages = s_.stages_of(rank);
    const auto at = static_cast<int>(std::find(stages.begin(), stages.end(), stage) - stages.begin()), last = static_cast<int>(stages.size()) - 1;
    return last <= 0 ? 0 : at * (num_shades_ - 1) / last;
  }

  void draw_band(int band) {
    const double top = kHeader + band * (s_.num_ranks * row_ + kBandGap), bottom = top + s_.num_ranks * row_;
    const double begin = origin_ + band * kPlot / scale_, end = begin + kPlot / scale_;
    put("<rect class=\"g\" x=\"{}\" y=\"{:.1f}\" width=\"{}\" height=\"{:.1f}\"/>\n", kLeft, top, kPlot, s_.num_ranks * row_);
    for (int rank = 0; rank < s_.num_ranks; ++rank) {
      const double y = top + rank * row_;
      put("<text class=\"a\" x=\"{:.0f}\" y=\"{:.1f}\" style=\"text-anchor:end\">rank {}</text>\n", kLeft - 6, y + row_ * 0.72, rank);
      for (const TimedAction& t : sim_.timeline[static_cast<size_t>(rank)])
        if (t.end > begin && t.begin < end && t.end > t.begin) draw_action(rank, t, y, begin, end);
    }
    const double step = nice_step(70 / scale_);
    for (double tick = std::max(0.0, std::ceil((begin - origin_) / step - 1e-9) * step); tick <= (end - origin_) * (1 + 1e-12); tick += step) {
      const double x = kLeft + (tick + origin_ - begin) * scale_;
      put("<path class=\"k\" d=\"M{0:.1f} {1:.1f}V{2:.1f}\"/><text class=\"a c\" x=\"{0:.1f}\" y=\"{3:.1f}\">{4:g}</text>\n", x, bottom, bottom + 5, bottom + 17, tick);
    }
    put("<text class=\"a\" x=\"{:.0f}\" y=\"{:.1f}\" style=\"text-anchor:end\">time</text>\n", kLeft - 16, bottom + 17);
  }

  void draw_action(int rank, const TimedAction& t, double y, double begin, double end) {
    const auto x_of = [&](double time) { return kLeft + (std::clamp(time, begin, end) - begin) * scale_; };
    if (t.action.kind != ActionKind::kPair) return cell(hue_of(t.action.kind), shade_of(rank, t.action.stage, t.action.microbatch), x_of(t.begin), x_of(t.end), y, t.action.microbatch);
    const double middle = (t.begin + t.end) / 2;
    if (middle > begin) cell(kF, shade_of(rank, t.action.stage, t.action.microbatch), x_of(t.begin), x_of(middle), y, t.action.microbatch);
    if (middle < end) cell(kX, shade_of(rank, t.action.pair_stage, t.action.pair_microbatch), x_of(middle), x_of(t.end), y, t.action.pair_microbatch);
    put("<rect class=\"p\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>\n", x_of(t.begin) + 0.5, y + 0.8, x_of(t.end) - x_of(t.begin) - 1, row_ - 1.6);
  }
  void cell(int hue, int shade, double left, double right, double y, int microbatch) {
    put("<rect class=\"{}{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>", kHues[hue].css, shade, left, y, right - left, row_);
    const std::string number = std::to_string(microbatch);
    const bool is_dark = num_shades_ > 1 && 2 * shade >= num_shades_;
    if (right - left >= kDigit * static_cast<double>(number.size()) + 1)
      put("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>", is_dark ? "c d" : "c", (left + right) / 2, y + row_ * 0.7, number);
    out_ += '\n';
  }

  const Schedule& s_;
  const Simulation& sim_;
  double row_, font_, scale_ = 1, origin_ = 1e300;
  int num_bands_ = 1, num_shades_ = 1;
  std::string out_;
};
}  // namespace

std::string schedule_svg(const Schedule& schedule, const Simulation& simulation) {
  size_t num_boxes = 0;
  for (const auto& timeline : simulation.timeline)
    for (const TimedAction& t : timeline) num_boxes += t.action.kind == ActionKind::kPair ? 2 : 1;
  if (num_boxes > kMaxBoxes)
    throw ConfigError(fmt::format("a picture of {} boxes would be neither opened nor read: at most {}; draw fewer micro-batches (the steady phase repeats) or fewer stages", num_boxes, kMaxBoxes));
  return Picture(schedule, simulation).draw();
}

}  // namespace atoll
