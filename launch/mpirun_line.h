// What to type instead: an error about the number of ranks ends with a line that works, made of the words that were typed.
#pragma once
#include <string>
#include <vector>

#include "parallel/mesh.h"

namespace atoll {

std::string shell_quoted(const std::string& word);  // as it is where a shell would leave it alone, else in single quotes

// ConfigError when `world` ranks cannot have this mesh: what Mesh says, and, where another number of ranks can, the mpirun line for it.
// words: argv, the program first.
void check_mesh(int world, const MeshSizes& sizes, const std::vector<std::string>& words);

}  // namespace atoll
