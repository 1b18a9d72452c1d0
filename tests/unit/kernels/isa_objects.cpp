// An inline function shared between builds for different instruction sets is kept once by the linker, perhaps the AVX-512 copy: an illegal instruction
// elsewhere. So the objects of kernels/cpu/isa may define nothing outside the namespace of their own build.
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/ops.h"

namespace atoll::test {
namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == separator)
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

std::string output_of(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string text;
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, n);
  REQUIRE(pclose(pipe) == 0);
  return text;
}

// Symbols an object defines for others: "T atoll::cpu::avx2::add_row(...)", weak ones (V, W, u) too. Local ones cannot be shared.
void check_object(const std::string& object, const std::string& isa) {
  int num_symbols = 0;
  for (const std::string& line : split(output_of("nm --demangle --defined-only --extern-only '" + object + "'"), '\n')) {
    if (line.find_first_not_of(" 0123456789abcdef:/") == std::string::npos) continue;
    if (line.find(" V DW.ref.") != std::string::npos) continue;  // a pointer to the personality routine, no code; sanitizers bring it
    INFO(object << ": " << line);
    ++num_symbols;
    CHECK(line.find("::cpu::" + isa + "::") != std::string::npos);
  }
  INFO(object);
  CHECK(num_symbols > 0);
}

// Code that runs before main, of whatever instruction set: dynamic initialisers of an object. Sanitizers bring their own.
void check_no_initialisers(const std::string& object) {
  const std::string sections = output_of("readelf --wide --sections '" + object + "'");
  INFO(object << ":\n" << sections);
  CHECK(sections.find(".text") != std::string::npos);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  for (const char* section : {".init_array", ".ctors", ".preinit_array"}) CHECK(sections.find(section) == std::string::npos);
#endif
}

struct Environment {  // ATOLL_ISA for the life of this object
  std::string saved;
  bool had;
  explicit Environment(const char* value) : saved(std::getenv("ATOLL_ISA") ? std::getenv("ATOLL_ISA") : ""), had(std::getenv("ATOLL_ISA") != nullptr) {
    setenv("ATOLL_ISA", value, 1);
  }
  ~Environment() { had ? setenv("ATOLL_ISA", saved.c_str(), 1) : unsetenv("ATOLL_ISA"); }
};

}  // namespace

TEST_CASE("Objects of an instruction set define nothing outside its namespace") {
  const std::pair<const char*, const char*> builds[] = {{"x86_64", ATOLL_OBJECTS_x86_64}, {"avx2", ATOLL_OBJECTS_avx2}, {"avx512", ATOLL_OBJECTS_avx512}};
  for (const auto& [isa, objects] : builds)
    for (const std::string& object : split(objects, ':')) check_object(object, isa);
}

TEST_CASE("Objects of an instruction set run nothing before main") {
  for (const char* objects : {ATOLL_OBJECTS_x86_64, ATOLL_OBJECTS_avx2, ATOLL_OBJECTS_avx512})
    for (const std::string& object : split(objects, ':')) check_no_initialisers(object);
}

TEST_CASE("ATOLL_ISA chooses the instruction set and refuses what it does not know") {
  {
    const Environment forced("x86-64");
    CHECK(best_isa() == Isa::kX86_64);
    Context ctx;
    CHECK(cpu::isa_of(ctx) == Isa::kX86_64);
  }
  const Environment wrong("avx1024");
  CHECK_THROWS_AS(best_isa(), ConfigError);
}

TEST_CASE("An instruction set the CPU lacks is refused") {
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
    const Environment forced(name_of(isa));
    Context ctx;
    if (cpu::has_isa(isa))
      CHECK(best_isa() == isa);
    else
      CHECK_THROWS_AS(best_isa(), ConfigError);
  }
}

}  // namespace atoll::test
