#include "tests/core/power_loss.h"

#include <fcntl.h>
#include <stdio.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <iterator>
#include <stdexcept>
#include <utility>

namespace thresher::testing {
namespace {

constexpr const char* kOutside = "/outside";  // no path below a folder begins so

std::pair<std::string, std::string> split(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {"", path};
  return {path.substr(0, slash), path.substr(slash + 1)};
}

std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void put(std::string& content, std::size_t offset, std::string_view bytes) {
  if (content.size() < offset + bytes.size()) content.resize(offset + bytes.size(), '\0');
  content.replace(offset, bytes.size(), bytes);
}

}  // namespace

PowerLossRecord::PowerLossRecord(std::filesystem::path root) : root_(std::move(root)) {
  live_.emplace_back();
  is_folder_.push_back(true);
  file_calls::observe([this](const file_calls::FileCall& call) { record(call); });
}

PowerLossRecord::~PowerLossRecord() { file_calls::observe({}); }

std::string PowerLossRecord::below_root(const std::filesystem::path& path) const {
  std::string text = path.lexically_normal().string();
  while (text.ends_with('/')) text.pop_back();
  if (text == root_.string()) return "";
  const std::string prefix = root_.string() + "/";
  return text.starts_with(prefix) ? text.substr(prefix.size()) : kOutside;
}

PowerLossRecord::Inode PowerLossRecord::find(const std::string& path) const {
  if (path == kOutside) return -1;
  if (path.empty()) return 0;
  const auto [folder, name] = split(path);
  const Inode parent = find(folder);
  if (parent < 0) return -1;
  const auto found = live_[static_cast<std::size_t>(parent)].find(name);
  return found == live_[static_cast<std::size_t>(parent)].end() ? -1 : found->second;
}

std::string PowerLossRecord::path_of(Inode inode) const {
  if (inode == 0) return "";
  for (std::size_t folder = 0; folder < live_.size(); ++folder) {
    for (const auto& [name, named] : live_[folder]) {
      if (named != inode) continue;
      const std::string above = path_of(static_cast<Inode>(folder));
      return above.empty() ? name : above + "/" + name;
    }
  }
  return kOutside;
}

void PowerLossRecord::set_name(const std::string& path, Inode named) {
  const auto [folder, name] = split(path);
  const Inode parent = find(folder);
  if (parent < 0) throw std::logic_error("a name in an unknown folder: " + path);
  auto& names = live_[static_cast<std::size_t>(parent)];
  if (named < 0) {
    names.erase(name);
  } else {
    names[name] = named;
  }
  operations_.push_back(
      {.kind = Operation::kName, .inode = parent, .bytes = {}, .name = name, .named = named});
}

PowerLossRecord::Inode PowerLossRecord::create(const std::string& path, bool is_folder) {
  const auto inode = static_cast<Inode>(live_.size());
  live_.emplace_back();
  is_folder_.push_back(is_folder);
  set_name(path, inode);
  return inode;
}

void PowerLossRecord::record_rename(const file_calls::FileCall& call, const std::string& from,
                                    const std::string& to) {
  const Inode moved = find(from);
  const Inode other = find(to);
  set_name(to, moved);
  set_name(from, (call.flags & RENAME_EXCHANGE) != 0 ? other : -1);
}

void PowerLossRecord::record_on_path(const file_calls::FileCall& call, Event& event) {
  const std::string& path = event.path;
  if (call.name == "file.create" || call.name == "file.open" || call.name == "file.library") {
    Inode inode = find(path);
    if (inode < 0) {
      inode = create(path, false);
    } else if ((call.flags & O_TRUNC) != 0) {
      operations_.push_back({.kind = Operation::kResize, .inode = inode, .bytes = {}, .name = {}});
    }
    if (call.name == "file.library") {
      operations_.push_back(
          {.kind = Operation::kWrite, .inode = inode, .bytes = content_of(call.path), .name = {}});
    } else {
      open_[call.fd] = inode;
    }
  } else if (call.name == "file.mkdir") {
    create(path, true);
  } else if (call.name == "file.unlink" || call.name == "file.rmdir") {
    set_name(path, -1);
  } else if (call.name == "file.rename") {
    record_rename(call, path, event.to);
  } else {
    throw std::logic_error("an unknown call: " + std::string(call.name));
  }
}

void PowerLossRecord::record(const file_calls::FileCall& call) {
  Event event{call.name, {}, {}, 0};
  if (call.fd >= 0 && call.path.empty()) {
    const auto found = open_.find(call.fd);
    if (found == open_.end()) return;
    const Inode inode = found->second;
    event.path = path_of(inode);
    Operation operation{.kind = Operation::kWrite, .inode = inode, .bytes = {}, .name = {}};
    operation.offset = call.offset;
    if (call.name == "file.write") {
      operation.bytes.assign(reinterpret_cast<const char*>(call.bytes.data()), call.bytes.size());
    } else if (call.name == "file.truncate") {
      operation.kind = Operation::kResize;
    } else {
      const bool is_folder = is_folder_[static_cast<std::size_t>(inode)];
      operation.kind = is_folder ? Operation::kSyncFolder : Operation::kSyncFile;
    }
    operations_.push_back(std::move(operation));
  } else {
    event.path = below_root(call.path);
    if (!call.to.empty()) event.to = below_root(call.to);
    if (event.path == kOutside) {
      open_.erase(call.fd);  // the number stands for another file now
      return;
    }
    record_on_path(call, event);
  }
  event.end = operations_.size();
  events_.push_back(std::move(event));
}

/// What one folder or file holds for certain, and what is on its way.
struct PowerLossRecord::Names {
  std::string content;
  std::map<std::string, Inode> names;
  std::vector<const Operation*> pending;

  void apply(const Operation& operation, std::size_t bytes) {
    switch (operation.kind) {
      case Operation::kWrite:
        put(content, static_cast<std::size_t>(operation.offset),
            std::string_view(operation.bytes).substr(0, bytes));
        break;
      case Operation::kResize:
        content.resize(static_cast<std::size_t>(operation.offset), '\0');
        break;
      default:
        if (operation.named < 0) {
          names.erase(operation.name);
        } else {
          names[operation.name] = operation.named;
        }
    }
  }
};

void PowerLossRecord::restore(std::size_t n, Unsynced unsynced, RandomStream random,
                              const std::filesystem::path& out) const {
  std::vector<Names> disk(live_.size());
  for (std::size_t i = 0; i < n; ++i) {
    const Operation& operation = operations_[i];
    Names& own = disk[static_cast<std::size_t>(operation.inode)];
    if (operation.kind != Operation::kSyncFile && operation.kind != Operation::kSyncFolder) {
      own.pending.push_back(&operation);
      continue;
    }
    for (const Operation* done : own.pending) own.apply(*done, done->bytes.size());
    own.pending.clear();
  }
  std::uint64_t draw = 0;
  for (Names& own : disk) {
    if (unsynced == Unsynced::kLost) break;
    for (const Operation* maybe : own.pending) {
      if (random.below(draw++, 2) == 0) continue;
      const bool is_torn = random.below(draw++, 4) == 0;
      own.apply(*maybe,
                is_torn ? random.below(draw++, maybe->bytes.size() + 1) : maybe->bytes.size());
    }
  }
  const std::function<void(Inode, const std::filesystem::path&)> write =
      [&](Inode inode, const std::filesystem::path& path) {
        const Names& own = disk[static_cast<std::size_t>(inode)];
        if (!is_folder_[static_cast<std::size_t>(inode)]) {
          std::ofstream(path, std::ios::binary) << own.content;
          return;
        }
        std::filesystem::create_directories(path);
        for (const auto& [name, named] : own.names) write(named, path / name);
      };
  write(0, out);
}

}  // namespace thresher::testing
