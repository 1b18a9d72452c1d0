// Builds the tree from yaml-cpp's events rather than its nodes: events show anchors, duplicate keys and quotes, which nodes hide. The only source that includes
// yaml-cpp.
#include "trainer/yaml_reader.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <sstream>

namespace atoll {
namespace {

constexpr size_t kMaxBytes = 1 << 20;
constexpr int kMaxNodes = 100000, kMaxDepth = 32;

class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(std::vector<YamlProblem>& problems) : problems_(problems) {}
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { add(leaf(YamlNode::Kind::kNull, mark, anchor)); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    refuse(mark, "aliases (*name) are not allowed; write the value out");
    add(leaf(YamlNode::Kind::kNull, mark, 0));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, const std::string& value) override {
    check_tag(mark, tag);
    YamlNode node = leaf(YamlNode::Kind::kScalar, mark, anchor);
    node.text = value;
    node.is_quoted = tag == "!";
    add(std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    check_tag(mark, tag);
    open(leaf(YamlNode::Kind::kList, mark, anchor));
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    check_tag(mark, tag);
    open(leaf(YamlNode::Kind::kMap, mark, anchor));
  }
  void OnMapEnd() override { close(); }

  YamlNode root;

 private:
  struct Open {
    YamlNode node;
    bool has_key = false;
    std::string key;
    int key_line = 0;
  };

  void refuse(const YAML::Mark& mark, const std::string& what) { problems_.push_back({mark.line + 1, what}); }
  void check_tag(const YAML::Mark& mark, const std::string& tag) {
    if (!tag.empty() && tag != "?" && tag != "!") refuse(mark, "tags (" + tag + ") are not allowed");
  }
  YamlNode leaf(YamlNode::Kind kind, const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != 0) refuse(mark, "anchors (&name) are not allowed; write the value out where it is used");
    if (++num_nodes_ > kMaxNodes) throw YAML::ParserException(mark, "more than " + std::to_string(kMaxNodes) + " values");
    YamlNode node;
    node.kind = kind;
    node.line = mark.line + 1;
    return node;
  }
  void open(YamlNode node) {
    if (static_cast<int>(stack_.size()) >= kMaxDepth)
      throw YAML::ParserException(YAML::Mark::null_mark(), "nested more than " + std::to_string(kMaxDepth) + " deep");
    stack_.push_back({std::move(node)});
  }
  void close() {
    YamlNode node = std::move(stack_.back().node);
    stack_.pop_back();
    add(std::move(node));
  }
  void add(YamlNode node) {
    if (stack_.empty()) {
      root = std::move(node);
      return;
    }
    Open& top = stack_.back();
    if (top.node.kind == YamlNode::Kind::kList) {
      top.node.items.push_back(std::move(node));
      return;
    }
    if (!top.has_key) {
      if (node.kind != YamlNode::Kind::kScalar) problems_.push_back({node.line, "a key must be a plain word"});
      top.has_key = true;
      top.key = node.text;
      top.key_line = node.line;
      return;
    }
    node.line = top.key_line;
    top.node.entries.emplace_back(top.key, std::move(node));
    top.has_key = false;
  }

  std::vector<YamlProblem>& problems_;
  std::vector<Open> stack_;
  int num_nodes_ = 0;
};

// Line of the first byte that is neither UTF-8 text nor tab or line end; 0: all is text.
int first_foreign_line(const std::string& text) {
  int line = 1;
  for (size_t i = 0; i < text.size();) {
    const unsigned char c = static_cast<unsigned char>(text[i]);
    if (c == '\n') ++line;
    if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f) return line;
    const int tail = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : -1;
    if (tail < 0) return line;
    for (int k = 1; k <= tail; ++k)
      if (i + static_cast<size_t>(k) >= text.size() || (static_cast<unsigned char>(text[i + static_cast<size_t>(k)]) & 0xc0) != 0x80) return line;
    i += static_cast<size_t>(tail) + 1;
  }
  return 0;
}

void write(const YamlNode& node, std::ostringstream& out) {
  switch (node.kind) {
    case YamlNode::Kind::kNull: out << "null"; return;
    case YamlNode::Kind::kScalar: out << (node.is_quoted ? "\"" + node.text + "\"" : node.text); return;
    case YamlNode::Kind::kList:
      out << '[';
      for (size_t i = 0; i < node.items.size(); ++i) {
        if (i > 0) out << ", ";
        write(node.items[i], out);
      }
      out << ']';
      return;
    case YamlNode::Kind::kMap:
      out << '{';
      for (size_t i = 0; i < node.entries.size(); ++i) {
        out << (i > 0 ? ", " : "") << node.entries[i].first << ": ";
        write(node.entries[i].second, out);
      }
      out << '}';
  }
}

}  // namespace

std::string to_string(const YamlNode& node) {
  std::ostringstream out;
  write(node, out);
  std::string text = out.str();
  for (char& c : text)
    if (c == '\n') c = ' ';
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

YamlNode read_yaml(const std::string& text, std::vector<YamlProblem>& problems) {
  if (text.size() > kMaxBytes) {
    problems.push_back({1, "larger than 1 MiB: not a configuration file"});
    return {};
  }
  if (const int line = first_foreign_line(text); line > 0) {
    problems.push_back({line, "not text (UTF-8): not a configuration file"});
    return {};
  }
  TreeBuilder builder(problems);
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    if (parser.HandleNextDocument(builder)) {
      std::vector<YamlProblem> ignored;
      TreeBuilder second(ignored);
      if (parser.HandleNextDocument(second)) problems.push_back({second.root.line, "a second YAML document; a recipe is one"});
    }
  } catch (const YAML::Exception& error) { problems.push_back({error.mark.is_null() ? 1 : error.mark.line + 1, "not valid YAML: " + error.msg}); }
  return problems.empty() ? std::move(builder.root) : YamlNode{};
}

}  // namespace atoll
