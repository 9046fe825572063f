#pragma once

#include <exception>
#include <string>

namespace thresher {

/// What went wrong in a JSON text, from the exception of the JSON library: without its own number
/// and place, and without bytes of the input.
std::string json_error_reason(const std::exception& error);

}  // namespace thresher
