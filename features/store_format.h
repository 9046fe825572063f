#pragma once

#include <cstdint>
#include <string_view>

#include "features/sqlite.h"

namespace thresher::features {

/// What is in the file of a feature store; docs/feature-store.md describes it for others. Nothing
/// else knows it.
inline constexpr std::int64_t kStoreApplication = 0x54485246;  // "THRF", PRAGMA application_id
inline constexpr std::int64_t kStoreVersion = 2;               // PRAGMA user_version
inline constexpr const char* kStoreFormat = "thresher-feature-store";

/// Values of examples.kind.
enum class StoredKind : std::int64_t { kTop = 0, kQuantile = 1, kSilent = 2 };

/// Bounds that a reader holds a file to.
inline constexpr std::int64_t kMaxLatents = std::int64_t{1} << 31;
inline constexpr std::int64_t kMaxContextTokens = std::int64_t{1} << 24;
inline constexpr std::int64_t kMaxListEntries = 100000;

/// Tables, indexes and full-text tables of an empty store, and its marks.
void create_schema(SqliteDatabase& database);
/// DataError unless the file is a store of this version with that schema and nothing else in it: a
/// trigger, view or column of somebody's own is refused before it is used.
void check_schema(SqliteDatabase& database);

}  // namespace thresher::features
