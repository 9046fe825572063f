#pragma once

namespace thresher::evaluation {

/// The one style sheet and the one script of every page.
extern const char* const kPageStyle;
extern const char* const kPageScript;

}  // namespace thresher::evaluation
