// Generation starts from what training has seen at a document's beginning.
#include <catch2/catch.hpp>

#include "trainer/loaded_run.h"

using namespace atoll;

TEST_CASE("A prompt starts a document as training does: after an end of text only where documents see each other") {
  const Tokenizer tokenizer = Tokenizer::load(std::string(ATOLL_SOURCE_DIR) + "/tests/golden/tokenizer/sentencepiece/spm.model");
  const std::vector<int32_t> text = tokenizer.encode("the same text");
  std::vector<int32_t> after_eos{tokenizer.eos_id()};
  after_eos.insert(after_eos.end(), text.begin(), text.end());
  CHECK(prompt_ids(tokenizer, "the same text", true) == text);
  CHECK(prompt_ids(tokenizer, "the same text", false) == after_eos);
  for (const bool mask : {false, true}) CHECK(prompt_ids(tokenizer, "", mask) == std::vector<int32_t>{tokenizer.eos_id()});  // never empty: the model needs one token
}
