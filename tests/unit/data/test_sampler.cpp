// The order of data: a function of the row number and the seed, every token once an epoch; held-out rows cover every token once.
#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "data/bigram.h"
#include "data/sampler.h"
#include "kernels/base/error.h"
#include "tests/unit/data/sample_text.h"

using namespace atoll;

namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer t = train_tokenizer(sample_texts(40), {.vocab_size = 400});
  return t;
}

TokenStore make_store(const TestFolder& folder, const std::string& name, int documents, int words = 0) {
  {
    StoreWriter writer(folder / name, tokenizer());
    for (int i = 0; i < documents; ++i) {
      const std::string text = words ? sample_text(static_cast<uint64_t>(i), words) : sample_text(static_cast<uint64_t>(i), 1 + (i * 7) % 40);
      writer.add_document(i % 5 == 4, tokenizer().encode(text), static_cast<int64_t>(text.size()));
    }
    writer.commit("every fifth", "request", "a test");
  }
  return TokenStore::open(folder / name);
}

struct Row {
  std::vector<int32_t> input, label, boundaries;
  bool operator==(const Row&) const = default;
};
Row row_of(Sampler& sampler, int64_t row) {
  const auto S = static_cast<size_t>(sampler.seq_len());
  Row r{std::vector<int32_t>(S), std::vector<int32_t>(S), {}};
  sampler.fill_row(row, r.input, r.label, r.boundaries);
  return r;
}

// The stream written out plainly: what fill_row must agree with.
std::vector<int32_t> plain_stream(const Sampler& sampler, int64_t epochs, std::vector<bool>& is_start) {
  std::vector<int32_t> stream;
  const auto& file = sampler.store().train();
  for (int64_t e = 0; e < epochs; ++e)
    for (const int32_t d : sampler.document_order(e)) {
      std::vector<int32_t> tokens(static_cast<size_t>(file.document_begin(d + 1) - file.document_begin(d)));
      file.read(file.document_begin(d), tokens);
      for (size_t i = 0; i < tokens.size(); ++i) is_start.push_back(i == 0);
      stream.insert(stream.end(), tokens.begin(), tokens.end());
    }
  return stream;
}

}  // namespace

TEST_CASE("Rows are the stream of shuffled documents, with and without document mask") {
  const TestFolder folder;
  const auto store = make_store(folder, "s", 60);
  for (const bool mask : {false, true})
    for (const int64_t S : {1, 2, 7, 64, 1000, 5000}) {
      CAPTURE(mask, S);
      Sampler sampler(store, {S, 5, mask});
      std::vector<bool> is_start;
      const auto stream = plain_stream(sampler, 8, is_start);
      const int64_t rows = std::min<int64_t>((static_cast<int64_t>(stream.size()) - 1) / S, 400);
      REQUIRE(rows > 0);
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t r = sampler.stream_row(i);
        if ((r + 1) * S >= static_cast<int64_t>(stream.size())) continue;  // written out too short for this one
        Row expected;
        expected.boundaries = {0};
        for (int64_t k = 0; k < S; ++k) {
          const auto at = static_cast<size_t>(r * S + k);
          expected.input.push_back(stream[at]);
          expected.label.push_back(mask && is_start[at + 1] ? kIgnoredLabel : stream[at + 1]);
          if (mask && k > 0 && is_start[at]) expected.boundaries.push_back(static_cast<int32_t>(k));
        }
        expected.boundaries.push_back(static_cast<int32_t>(S));
        REQUIRE(row_of(sampler, i) == expected);
      }
    }
}

TEST_CASE("Rows of an epoch are shuffled by a permutation") {
  const TestFolder folder;
  const auto store = make_store(folder, "s", 60);
  const int64_t total = store.train().num_tokens();
  for (const int64_t S : {1, 2, 3, 7, 50, 1000}) {
    const Sampler sampler(store, {S, 5}), other(store, {S, 6});
    const int64_t rows = std::max<int64_t>(1, total / S);
    int64_t moved = 0, differ = 0;
    for (int64_t epoch = 0; epoch < 2; ++epoch) {
      std::set<int64_t> seen;
      for (int64_t i = epoch * rows; i < (epoch + 1) * rows; ++i) {
        const int64_t r = sampler.stream_row(i);
        REQUIRE((r >= epoch * rows && r < (epoch + 1) * rows));
        seen.insert(r);
        moved += r != i;
        differ += r != other.stream_row(i);
      }
      CHECK(static_cast<int64_t>(seen.size()) == rows);
    }
    if (rows > 50) CHECK(moved > rows);
    if (rows > 50) CHECK(differ > rows);
  }
}

TEST_CASE("Every document comes once an epoch, in an order of its own") {
  const TestFolder folder;
  const auto store = make_store(folder, "s", 100);
  const Sampler a(store, {16, 1}), b(store, {16, 2}), same(store, {16, 1});
  std::set<std::vector<int32_t>> orders;
  for (int64_t e = 0; e < 20; ++e) {
    auto order = a.document_order(e);
    orders.insert(order);
    CHECK(order == same.document_order(e));
    CHECK(order != b.document_order(e));
    std::sort(order.begin(), order.end());
    for (size_t i = 0; i < order.size(); ++i) REQUIRE(order[i] == static_cast<int32_t>(i));
  }
  CHECK(orders.size() == 20);
}

TEST_CASE("Every training token is an input exactly once an epoch") {
  const TestFolder folder;
  const auto store = make_store(folder, "s", 60);
  const int64_t total = store.train().num_tokens();
  std::vector<int32_t> all(static_cast<size_t>(total));
  store.train().read(0, all);
  std::map<int32_t, int64_t> expected;
  for (const int32_t t : all) ++expected[t];
  Sampler sampler(store, {1, 9});  // rows of one token: an epoch is a whole number of rows
  for (int64_t e = 0; e < 2; ++e) {
    std::map<int32_t, int64_t> seen;
    for (int64_t i = 0; i < total; ++i) ++seen[row_of(sampler, e * total + i).input[0]];
    CHECK(seen == expected);
  }
}

TEST_CASE("A row does not depend on who asks, or on what was asked before") {
  const TestFolder folder;
  const auto store = make_store(folder, "s", 60);
  Sampler in_order(store, {50, 3, true});
  std::vector<Row> rows;
  for (int64_t i = 0; i < 120; ++i) rows.push_back(row_of(in_order, i));
  for (const int world : {2, 3, 8})
    for (int rank = 0; rank < world; ++rank) {
      Sampler mine(store, {50, 3, true});
      for (int64_t i = rank; i < 120; i += world) REQUIRE(row_of(mine, i) == rows[static_cast<size_t>(i)]);
    }
  Sampler backwards(store, {50, 3, true});
  for (int64_t i = 119; i >= 0; --i) REQUIRE(row_of(backwards, i) == rows[static_cast<size_t>(i)]);
}

TEST_CASE("Epochs are counted by a row's first token") {
  const TestFolder folder;
  Sampler sampler(make_store(folder, "s", 60), {32, 3});
  const int64_t last_row = (sampler.tokens_per_epoch() - 1) / 32;  // that begins in the first epoch
  CHECK(sampler.epoch_of(0) == 0);
  CHECK(sampler.epoch_of(last_row) == 0);
  CHECK(sampler.epoch_of(last_row + 1) == 1);
}

TEST_CASE("The fingerprint tells other data, another length or mask apart, and not another seed") {
  const TestFolder folder;
  const auto store = make_store(folder, "s", 60), other = make_store(folder, "t", 61);
  const std::string mine = Sampler(store, {32, 3}).fingerprint();
  CHECK(Sampler(TokenStore::open(folder / "s"), {32, 3}).fingerprint() == mine);
  CHECK(Sampler(store, {32, 4}).fingerprint() == mine);
  CHECK(Sampler(store, {33, 3}).fingerprint() != mine);
  CHECK(Sampler(store, {32, 3, true}).fingerprint() != mine);
  CHECK(Sampler(other, {32, 3}).fingerprint() != mine);
  CHECK_THROWS_AS(Sampler(store, {0, 3}), ConfigError);
}

TEST_CASE("Held-out rows predict every token once and add up to the bytes of the text") {
  const TestFolder folder;
  const auto store = make_store(folder, "s", 60);
  std::vector<int32_t> all(static_cast<size_t>(store.heldout().num_tokens()));
  store.heldout().read(0, all);
  for (const int64_t S : {1, 3, 50, 64, 100000}) {
    CAPTURE(S);
    const HeldOut held_out(store, S);
    std::vector<int32_t> labels, inputs, boundaries;
    int64_t tokens = 0, bytes = 0;
    for (int64_t row = 0; row < held_out.num_rows(); ++row) {
      std::vector<int32_t> input(static_cast<size_t>(S)), label(static_cast<size_t>(S));
      const auto counts = held_out.fill_row(row, input, label, boundaries);
      tokens += counts.tokens;
      bytes += counts.bytes;
      CHECK(boundaries == std::vector<int32_t>{0, static_cast<int32_t>(S)});
      for (size_t i = 0; i < label.size(); ++i) {
        if (label[i] == kIgnoredLabel) continue;
        inputs.push_back(input[i]);
        labels.push_back(label[i]);
      }
    }
    CHECK(labels == all);
    std::vector<int32_t> shifted = {store.info().eos_id};
    shifted.insert(shifted.end(), all.begin(), all.end() - 1);
    CHECK(inputs == shifted);
    CHECK(tokens == store.info().heldout.tokens);
    CHECK(bytes == store.info().heldout.bytes);
  }
}

TEST_CASE("Held-out rows with document mask never predict across documents") {
  const TestFolder folder;
  const auto store = make_store(folder, "s", 60);
  const int32_t eos = store.info().eos_id;
  for (const int64_t S : {1, 3, 50, 64, 100000}) {
    CAPTURE(S);
    const HeldOut held_out(store, S, true);
    int64_t tokens = 0;
    for (int64_t row = 0; row < held_out.num_rows(); ++row) {
      std::vector<int32_t> input(static_cast<size_t>(S)), label(static_cast<size_t>(S)), boundaries;
      tokens += held_out.fill_row(row, input, label, boundaries).tokens;
      REQUIRE(boundaries.front() == 0);
      REQUIRE(boundaries.back() == S);
      for (size_t i = 0; i < input.size(); ++i)
        if (input[i] == eos) CHECK(label[i] == kIgnoredLabel);
      for (size_t b = 1; b < boundaries.size(); ++b) REQUIRE(boundaries[b] > boundaries[b - 1]);
      for (size_t b = 1; b + 1 < boundaries.size(); ++b) {  // a document ended just before, or the split did and the rest is padding
        const auto at = static_cast<size_t>(boundaries[b]);
        const bool is_padding = row + 1 == held_out.num_rows() && row * S + boundaries[b] == store.heldout().num_tokens();
        CHECK((is_padding || input[at - 1] == eos));
      }
    }
    CHECK(tokens == store.info().heldout.tokens - store.info().heldout.documents);
  }
}

TEST_CASE("The bigram model is a distribution and equals its formula on a small case") {
  BigramModel model(5);
  const std::vector<int32_t> a = {0, 1, 0, 1, 2}, b = {1, 0, 1, 2, 0};
  model.add_row(a, b);
  model.fit();  // one row: nothing is held back, the weights are the stated ones: 0.5 and 0.99
  const auto unigram = [](double c) { return 0.99 * c / 5 + 0.01 / 5; };
  CHECK(model.log_prob(0, 1) == Approx(std::log(0.5 * 1.0 + 0.5 * unigram(2))));
  CHECK(model.log_prob(1, 0) == Approx(std::log(0.5 * 0.5 + 0.5 * unigram(2))));
  CHECK(model.log_prob(3, 2) == Approx(std::log(unigram(1))));
  CHECK(model.log_prob(3, 4) == Approx(std::log(unigram(0))));
  for (int32_t previous = 0; previous < 5; ++previous) {
    double sum = 0;
    for (int32_t token = 0; token < 5; ++token) sum += std::exp(model.log_prob(previous, token));
    CHECK(sum == Approx(1.0));
  }
}

TEST_CASE("The fitted bigram model sums to one and beats the unigram model on a Markov chain") {
  const int V = 50;
  const Rng rng(5, "chain");
  uint64_t k = 0;
  const auto chain = [&](int rows, std::vector<std::vector<int32_t>>& inputs, std::vector<std::vector<int32_t>>& labels) {
    int32_t state = 0;
    for (int r = 0; r < rows; ++r) {
      inputs.emplace_back();
      labels.emplace_back();
      for (int i = 0; i < 100; ++i) {
        const auto next = static_cast<int32_t>(rng.uniform(k++) < 0.9 ? (state * 7 + static_cast<int32_t>(rng.below(k++, 4))) % V : static_cast<int32_t>(rng.below(k++, V)));
        inputs.back().push_back(state);
        labels.back().push_back(next);
        state = next;
      }
    }
  };
  std::vector<std::vector<int32_t>> inputs, labels, test_inputs, test_labels;
  chain(400, inputs, labels);
  chain(40, test_inputs, test_labels);
  BigramModel model(V);
  for (size_t r = 0; r < inputs.size(); ++r) model.add_row(inputs[r], labels[r]);
  model.fit();
  for (int32_t previous = 0; previous < V; previous += 7) {
    double sum = 0;
    for (int32_t token = 0; token < V; ++token) sum += std::exp(model.log_prob(previous, token));
    CHECK(sum == Approx(1.0).epsilon(1e-9));
  }
  double nats = 0;
  int64_t count = 0;
  for (size_t r = 0; r < test_inputs.size(); ++r)
    for (size_t i = 0; i < 100; ++i, ++count) nats -= model.log_prob(test_inputs[r][i], test_labels[r][i]);
  // The chain's entropy: 4 outcomes of 0.225 + 0.1/50 and 46 of 0.1/50.
  const double p = 0.9 / 4 + 0.1 / V, q = 0.1 / V, entropy = -(4 * p * std::log(p) + (V - 4) * q * std::log(q));
  CHECK(nats / static_cast<double>(count) < entropy * 1.04);
  CHECK(nats / static_cast<double>(count) > entropy * 0.96);
}

TEST_CASE("The yardstick runs from a store: fitted on rows trained on, measured on held-out rows") {
  const TestFolder folder;
  const auto store = make_store(folder, "s", 60, 300);
  Sampler sampler(store, {64, 3});
  const auto result = score(fit_bigram(sampler, 100000), HeldOut(store, 64), 1 << 20);
  CHECK(result.tokens == store.info().heldout.tokens);
  CHECK(result.bytes == store.info().heldout.bytes);
  CHECK(result.nats_per_token() < 0.8 * std::log(400.0));
  CHECK(result.bits_per_byte() == Approx(result.sum_nats / std::log(2.0) / static_cast<double>(store.info().heldout.bytes)));
  // An epoch is a whole number of rows, as stream_row counts them: those of the second one add nothing.
  const int64_t rows = sampler.tokens_per_epoch() / 64;
  CHECK(fit_bigram(sampler, rows + 1).num_tokens() == rows * 64);
  CHECK(fit_bigram(sampler, rows - 1).num_tokens() == (rows - 1) * 64);
  const auto few = score(fit_bigram(sampler, 100000), HeldOut(store, 64), 3);  // the rows that a model was measured on, no others
  CHECK(few.tokens == 3 * 64);
  CHECK(few.sum_nats < result.sum_nats);
  const auto less = score(fit_bigram(sampler, 20), HeldOut(store, 64), 1 << 20);
  CHECK(less.nats_per_token() > result.nats_per_token());
}
