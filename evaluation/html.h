#pragma once

#include <string>
#include <string_view>

#include "core/json.h"

namespace thresher::evaluation {

/// UTF-8 text without control characters as the content of an element or of a quoted attribute:
/// &, <, >, " and ' as entities.
std::string html_escape(std::string_view text);
/// Any bytes as the content of an element or of a quoted attribute: made visible
/// (core/visible_text.h), then escaped.
std::string html_text(std::string_view bytes);

/// JSON that is safe inside <script type="application/json">: <, >, & and everything beyond ASCII
/// that ends lines in scripts as \u escapes. JSON.parse gives back the value.
std::string html_json(const Json& value);

/// Content-Security-Policy source of an inline script or style: 'sha256-<base64>'.
std::string csp_hash(std::string_view content);

}  // namespace thresher::evaluation
