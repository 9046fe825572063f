#pragma once

namespace thresher::features {

/// The style sheet, the body and the script of the dashboard.
extern const char* const kDashboardStyle;
extern const char* const kDashboardBody;
extern const char* const kDashboardScript;

}  // namespace thresher::features
