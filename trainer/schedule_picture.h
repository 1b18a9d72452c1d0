// Draws a timed schedule as SVG: ranks as rows, time to the right, wrapped into as many bands as it takes for the micro-batch numbers to be read.
#pragma once
#include <string>

#include "parallel/simulator.h"

namespace atoll {

std::string schedule_svg(const Schedule& schedule, const Simulation& simulation);

}  // namespace atoll
