#include "core/inside_folder.h"

#include <fmt/format.h>

#include <system_error>

#include "core/error.h"
#include "core/visible_text.h"

namespace thresher {
namespace {

namespace fs = std::filesystem;

bool is_below(const fs::path& path, const fs::path& folder) {
  const fs::path relative = path.lexically_relative(folder);
  return !relative.empty() && *relative.begin() != "..";
}

}  // namespace

void require_inside_folder(const fs::path& path) {
  std::error_code error;
  if (!fs::is_symlink(path, error)) return;
  const fs::path target = fs::canonical(path, error);
  if (error) return;  // leads nowhere: opening it says so
  const fs::path folder = fs::canonical(path.has_parent_path() ? path.parent_path() : ".", error);
  if (!error && is_below(target, folder)) return;
  const fs::path above = folder.parent_path();
  if (!error && above.filename() == "snapshots" && is_below(target, above.parent_path() / "blobs"))
    return;
  throw DataError(fmt::format("{}: is a link that leads out of its folder", display_path(path)),
                  "a file in the folder itself", "copy the file to where the link stands");
}

}  // namespace thresher
