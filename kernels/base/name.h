// Included before everything else by a compiler option (CMakeLists.txt). C's `long long atoll(const char*)` owns the name of our namespace in the global scope:
// it is declared first, and from there on the word means atoll_. Nothing else may depend on this; nobody calls C's function.
#pragma once
#include <cstdlib>
#define atoll atoll_
