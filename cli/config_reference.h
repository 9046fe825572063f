#pragma once

#include <string>

#include "core/json.h"

namespace thresher::cli {

/// docs/config-reference.md: every key of an experiment file, from the declarations that the reader
/// itself uses.
std::string config_reference();

/// A JSON Schema (draft 2020-12) of an experiment file, for editors.
Json config_json_schema();

}  // namespace thresher::cli
