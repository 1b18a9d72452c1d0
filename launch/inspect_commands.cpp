// atoll model show, atoll checkpoint ls | show | verify, atoll config reference: look, change nothing.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "launch/commands.h"
#include "trainer/checkpoint_commands.h"
#include "trainer/config_schema.h"
#include "trainer/model_show.h"

namespace atoll {

void add_inspect(CLI::App& app, Command& chosen) {
  static std::string what, path;
  static bool json = false;
  CLI::App* model = app.add_subcommand("model", "parameters and FLOPs of a model");
  model->require_subcommand(1);
  CLI::App* show = model->add_subcommand("show", "parameters, active parameters, FLOPs per token, by module");
  show->add_option("model", what, "a preset (deepseek-v3, deepseek-v2, deepseek-v2-lite, quickstart, debug), a recipe.yaml, or a Hugging Face config.json")->required();
  show->add_flag("--json", json, "JSON, for scripts");
  show->callback([&chosen] {
    chosen = [](MpiSession&, std::string&) {
      const ShownModel shown = find_model(what);
      std::fputs((json ? model_show_json(shown) : model_show_text(shown)).c_str(), stdout);
      return 0;
    };
  });

  CLI::App* checkpoint = app.add_subcommand("checkpoint", "look into checkpoints");
  checkpoint->require_subcommand(1);
  struct Entry { const char *name, *help; CommandOutput (*run)(const std::string&, bool); };
  static const Entry kEntries[] = {{"ls", "a run's checkpoints, newest first", checkpoint_ls},
                                   {"show", "what one holds: tensors, shards, layout, configuration", checkpoint_show},
                                   {"verify", "every hash of one checkpoint, or of all of a run", checkpoint_verify}};
  for (const Entry& entry : kEntries) {
    CLI::App* command = checkpoint->add_subcommand(entry.name, entry.help);
    command->add_option("run", path, "a run folder or a checkpoint (RUN/checkpoints/step-00001000)")->required();
    command->footer("Exit 65 where a checkpoint is damaged or missing.");
    command->add_flag("--json", json, "JSON, for scripts");
    command->callback([&chosen, &entry] {
      chosen = [&entry](MpiSession&, std::string&) {
        const CommandOutput out = entry.run(path, json);
        std::fputs(out.text.c_str(), stdout);
        return out.ok ? 0 : static_cast<int>(ExitCode::kData);
      };
    });
  }

  CLI::App* config = app.add_subcommand("config", "the configuration's keys");
  config->require_subcommand(1);
  config->add_subcommand("reference", "every key: type, default, meaning, and whether it may change on resume (docs/configuration.md)")->callback([&chosen] {
    chosen = [](MpiSession&, std::string&) {
      std::fputs(configuration_reference().c_str(), stdout);
      return 0;
    };
  });
}

}  // namespace atoll
