#pragma once

#include <functional>
#include <string>
#include <type_traits>
#include <vector>

namespace thresher::cli {

/// Options of a command that say what a plan's file may say too. What the command line gives goes
/// over the file's. App is CLI::App, which no header names.
template <class Plan, class App>
class PlanOptions {
 public:
  /// Options are added to `command`, which must outlive this object.
  explicit PlanOptions(App& command) : command_(&command) {}

  /// An option that fills a member; a list's is repeatable, one value each time.
  template <class Value>
  auto add(const std::string& flag, Value Plan::*member, const std::string& help) {
    auto* option = command_->add_option(flag, given_.*member, help);
    if constexpr (std::is_same_v<Value, std::vector<std::string>>) option->allow_extra_args(false);
    merges_.push_back([this, option, member](Plan& plan) {
      if (option->count() > 0) plan.*member = given_.*member;
    });
    return option;
  }

  void put_over(Plan& plan) const {
    for (const auto& merge : merges_) merge(plan);
  }

 private:
  App* command_;
  Plan given_;
  std::vector<std::function<void(Plan&)>> merges_;
};

}  // namespace thresher::cli
