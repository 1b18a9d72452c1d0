// The subcommands: each declares its arguments on the app and returns what to run. argv lives here and nowhere else.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace CLI {
class App;
}

namespace atoll {

using Command = std::function<int(MpiSession&, std::string& phase)>;
// Adds all subcommands; `chosen` is set by the one that was named. words: argv as typed, for commands that say what to type instead.
void add_train(CLI::App& app, Command& chosen, const std::vector<std::string>& words);
void add_data(CLI::App& app, Command& chosen);
void add_inspect(CLI::App& app, Command& chosen);   // model show, checkpoint ls|show|verify, config reference
void add_use(CLI::App& app, Command& chosen);       // eval, generate
void add_prove(CLI::App& app, Command& chosen, const std::vector<std::string>& words);  // verify golden, bench step
void add_plan(CLI::App& app, Command& chosen);      // plan schedule
void add_plan_run(CLI::App& plan, Command& chosen);  // atoll plan RECIPE, below it

// The whole file; ConfigError where it cannot be written.
void write_file(const std::string& path, const std::string& text);

}  // namespace atoll
