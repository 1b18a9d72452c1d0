// Deviations of tensors from their references, and how ranks put them together. Policy: a missing or empty tensor deviates by infinity: nothing that was not compared can pass.
#include "trainer/golden_case.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/ops.h"
#include "kernels/round_outputs.h"

namespace atoll {

double element(const Tensor& t, int64_t i) {
  switch (t.dtype) {
    case DType::kF64: return t.as<double>()[i];
    case DType::kF32: return t.as<float>()[i];
    case DType::kBF16: return static_cast<float>(t.as<bf16>()[i]);
    case DType::kI32: return t.as<int32_t>()[i];
    case DType::kI64: return static_cast<double>(t.as<int64_t>()[i]);
    case DType::kU8: return t.as<uint8_t>()[i];
  }
  return 0;
}

void Deviation::add(double value, double reference) {
  const bool is_finite = std::isfinite(value) && std::isfinite(reference);  // a reference that is no number proves nothing
  const double difference = is_finite ? std::abs(value - reference) : std::numeric_limits<double>::infinity();
  max_difference = std::max(max_difference, difference);
  if (std::isfinite(reference)) max_reference = std::max(max_reference, std::abs(reference));
  squares_difference += difference * difference;
  squares_reference += reference * reference;
  mismatches += value != reference;
  ++elements;
}

double Deviation::relative_max() const {
  if (elements == 0) return std::numeric_limits<double>::infinity();
  if (max_difference == 0) return 0;
  return max_reference == 0 ? std::numeric_limits<double>::infinity() : max_difference / max_reference;
}

double Deviation::relative_l2() const {
  if (elements == 0) return std::numeric_limits<double>::infinity();
  if (squares_difference == 0) return 0;
  return squares_reference == 0 ? std::numeric_limits<double>::infinity() : std::sqrt(squares_difference / squares_reference);
}

void Deviations::compare(const std::string& name, const Tensor& value, const Tensor& reference) {
  ATOLL_CHECK(value.size() == reference.size(), name, ": ", value.shape(), " against ", reference.shape());
  Deviation& d = by_name_[name];
  for (int64_t i = 0; i < value.size(); ++i) d.add(element(value, i), element(reference, i));
}

// Names differ between ranks (a stage has its own layers): the texts are exchanged, then every rank adds all ranks' numbers in rank order.
void Deviations::merge(Communicator& world) {
  struct Numbers { double v[4]; int64_t n[2]; };
  std::string names;
  std::vector<Numbers> mine;
  for (const auto& [name, d] : by_name_) {
    names += name + '\n';
    mine.push_back({{d.max_difference, d.max_reference, d.squares_difference, d.squares_reference}, {d.mismatches, d.elements}});
  }
  const auto gather = [&](const void* data, int64_t bytes) {
    std::vector<int64_t> sizes(static_cast<size_t>(world.size())), begins(sizes.size());
    world.all_gather(&bytes, sizeof bytes, sizes.data());
    for (size_t r = 1; r < sizes.size(); ++r) begins[r] = begins[r - 1] + sizes[r - 1];
    std::vector<std::string> parts;
    std::string all(static_cast<size_t>(begins.back() + sizes.back()), '\0');
    world.all_gather_v(data, bytes, all.data(), sizes, begins);
    for (size_t r = 0; r < sizes.size(); ++r) parts.push_back(all.substr(static_cast<size_t>(begins[r]), static_cast<size_t>(sizes[r])));
    return parts;
  };
  const std::vector<std::string> all_names = gather(names.data(), static_cast<int64_t>(names.size()));
  const std::vector<std::string> all_numbers = gather(mine.data(), static_cast<int64_t>(mine.size() * sizeof(Numbers)));
  by_name_.clear();
  for (size_t r = 0; r < all_names.size(); ++r) {
    size_t at = 0;
    for (size_t i = 0; at < all_names[r].size(); ++i) {
      const size_t end = all_names[r].find('\n', at);
      Deviation& d = by_name_[all_names[r].substr(at, end - at)];
      Numbers n;
      std::copy_n(all_numbers[r].data() + i * sizeof(Numbers), sizeof(Numbers), reinterpret_cast<char*>(&n));
      d.max_difference = std::max(d.max_difference, n.v[0]);
      d.max_reference = std::max(d.max_reference, n.v[1]);
      d.squares_difference += n.v[2];
      d.squares_reference += n.v[3];
      d.mismatches += n.n[0];
      d.elements += n.n[1];
      at = end + 1;
    }
  }
}

EngineOptions golden_engine_options(const ModelConfig& model, const GoldenOptions& o, int64_t max_sequence) {
  EngineOptions e;
  e.model = model;
  e.mesh = o.mesh;
  e.storage = o.dtype;
  e.schedule = o.schedule;
  e.threads = o.threads;
  e.max_sequence = max_sequence;
  return e;
}

void load_golden_weights(Engine& engine, const SafetensorsFile& file) {
  const ModelConfig& model = engine.options().model;
  for (const ParameterSpec& spec : engine.manifest()) {
    const Tensor t = file.tensor(spec.name);
    if (t.size() != spec.numel() || t.dim[0] != spec.rows)
      throw DataError(detail::concat(file.path(), ": ", spec.name, " is ", t.shape(), "; the config says [", spec.rows, spec.is_vector ? "" : detail::concat(", ", spec.cols), "]"));
  }
  for (const SafetensorsEntry& entry : file.entries()) {
    const bool known = std::any_of(engine.manifest().begin(), engine.manifest().end(), [&](const ParameterSpec& s) { return s.name == entry.name; });
    bool is_copy = false;
    for (int64_t k = 0; k < model.num_nextn_predict_layers; ++k) {
      const std::string prefix = "model.layers." + std::to_string(model.num_hidden_layers + k) + ".";
      is_copy = is_copy || entry.name == prefix + "embed_tokens.weight" || entry.name == prefix + "shared_head.head.weight";
    }
    if (!known && !is_copy) throw DataError(file.path() + ": tensor " + entry.name + " is not part of the model that config.json describes");
  }
  auto copy = [](const Tensor& from, int64_t begin, const Tensor& to) {
    for (int64_t i = 0; i < to.size(); ++i) {
      const double v = element(from, begin + i);
      if (to.dtype == DType::kF64)
        to.as<double>()[i] = v;
      else
        to.as<float>()[i] = static_cast<float>(v);
    }
  };
  for (const ShardedAdamW::Owned& o : engine.optimizer().owned()) copy(file.tensor(o.parameter->spec->name), o.rows.begin * o.parameter->spec->cols, o.master);
  for (const ShardedAdamW::Owned& o : engine.optimizer().owned()) round_outputs(engine.ctx(), {o.master});
  for (const ParameterStore::Bias& b : engine.parameters().router_biases()) copy(file.tensor(b.name), 0, b.value);
  engine.publish_weights();
}

}  // namespace atoll
