// Catch2's main, compiled once for all unit test programs: it is the slow part of Catch2.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
