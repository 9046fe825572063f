#pragma once

#include "core/json.h"

namespace thresher::cli {

/// What decides bits and speed besides the configuration: this program and the commit it was built
/// from, its numerics, LibTorch, the compiler, the processor's vector instructions as LibTorch uses
/// them.
Json versions_json();

}  // namespace thresher::cli
