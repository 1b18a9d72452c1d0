// What a plan stands on: a cluster (nodes, GPUs, link classes, prices, power, failures) and its GPU's calibration (what kernels reach, by op and shape). Data
// files of launch/. Policy: nothing of it is in code; every figure carries its source; a file that contradicts itself is refused with file:line.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "trainer/plan/sheet.h"

namespace atoll::plan {

struct Link {
  double bandwidth = 0;  // bytes/s of one GPU in one direction: line rate
  double usable = 1;     // fraction that payload reaches
  double latency = 0;    // s, of one message
  double rate() const { return bandwidth * usable; }
};

struct Cluster {
  Sheet sheet;
  std::string name, gpu, calibration;
  int64_t nodes = 0, gpus_per_node = 0;
  double bf16 = 0, fp8 = 0, memory = 0, memory_bandwidth = 0, sms = 0;
  Link intra, inter;
  int64_t gpus() const { return nodes * gpus_per_node; }
};
const std::vector<SheetKey>& cluster_schema();
// `what`: a name (FOLDER/NAME.yaml) or a path that ends with .yaml. Overrides are without "cluster.": "links.inter.bandwidth=25 GB/s".
Cluster load_cluster(const std::string& what, const std::string& folder, const std::vector<std::string>& overrides = {});
Cluster parse_cluster(const std::string& yaml, const std::string& file, const std::vector<std::string>& overrides = {});

// One measured rate: FLOP/s of an op of this shape, on so many SMs.
struct Rate {
  std::string op;         // gemm, grouped, attention, router
  std::string pass;       // forward, input, weight
  std::string precision;  // bf16, fp8
  double m = 0, n = 0, k = 0, flops = 0, sms = 0;
  std::string source;
  int line = 0;
};
struct Reached {         // a fraction of a physical rate: memory bandwidth (glue, by phase) or line rate (exchanges, collectives)
  std::string what, by;  // exchanges: the library that was measured; empty: any
  double fraction = 0;
  double ranks = 0, fixed = 0;  // exchanges: EP ranks of the measurement (0: any); seconds that no byte explains
  std::string source;
  int line = 0;
};

struct Calibration {
  std::string gpu, file;
  std::vector<Rate> rates;
  std::vector<Reached> glue, exchanges;
  // The measured rate of the nearest shape (distance: |log| of m, n, k; rows count half), for the same op, pass and precision, scaled to `sms`.
  // ConfigError that names what is missing.
  struct Found {
    double flops = 0;
    const Rate* rate = nullptr;
  };
  Found find(const std::string& op, const std::string& pass, const std::string& precision, double m, double n, double k, double sms) const;
  const Reached& glue_of(const std::string& phase) const;
  // Of those of `library`, the one with the nearest number of EP ranks (by ratio); where the library was not measured, the entry of no library.
  const Reached& exchange_of(const std::string& what, const std::string& library, double ranks) const;
};
// `name`: FOLDER/NAME.yaml, or a path that ends with .yaml. `place`: of the one who names it, for the error.
Calibration load_calibration(const std::string& name, const std::string& folder, const std::string& place = "");
Calibration parse_calibration(const std::string& yaml, const std::string& file);

}  // namespace atoll::plan
