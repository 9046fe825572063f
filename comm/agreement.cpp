#include "comm/agreement.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <string>
#include <vector>

#include "core/error.h"

namespace thresher::comm {

void agree_on(Communicator& comm, const Json& facts, std::string_view what) {
  const std::string mine = facts.dump();
  const auto all = comm.all_gather(std::as_bytes(std::span(mine)), what);
  const auto text_of = [&](std::size_t rank) {
    return std::string(reinterpret_cast<const char*>(all[rank].data()), all[rank].size());
  };
  const std::string first = text_of(0);
  std::map<std::string, std::vector<std::size_t>> ranks_by_difference;
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    const std::string other = text_of(rank);
    if (other == first) continue;
    const std::string difference =
        first_difference(Json::parse(first, "rank 0"), Json::parse(other, "a rank"));
    ranks_by_difference[difference].push_back(rank);
  }
  if (ranks_by_difference.empty()) return;
  std::string message;
  for (const auto& [difference, ranks] : ranks_by_difference) {
    message += fmt::format("{}{} {} differ{} from rank 0: {}", message.empty() ? "" : "; ",
                           ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "),
                           ranks.size() == 1 ? "s" : "", difference);
  }
  throw ConfigError(fmt::format("{}: {}", what, message),
                    "the same on every rank (rank 0's value stands first)",
                    "start every rank with the same program, libraries and files");
}

}  // namespace thresher::comm
