#pragma once

#include <string>
#include <vector>

#include "core/json.h"
#include "evaluation/run_record.h"

namespace thresher::evaluation {

/// Runs beside each other, for programs:
///
///     {"saes": [{"run", "sae", "label", "type", "hook_point", "training_tokens", "group",
///                "held_out_digest", "metrics": {...} or null, "reason", "best": ["fvu", ...]}],
///      "warnings": ["..."],
///      "differing_run_fields": [{"field", "values": {LABEL: value}}],
///      "differing_sae_fields": [{"field", "values": {LABEL: value}}]}
///
/// SAEs of one `group` (a number; null without an evaluation) were measured on the same positions
/// of the same held-out contexts at the same hook point of the same host model: only their metrics
/// can be compared, and `best` names those in which an SAE is not beaten within its group (of at
/// least two). `reason` says why there are no metrics, or no cross-entropy. Labels are the shortest
/// names that tell SAEs apart. Fields are those with different values among those who have
/// them; who lacks one has null.
Json compare_runs(const std::vector<RunRecord>& runs);

/// One of the two lists of fields as lines of cells, header first: a line a field, or a line an SAE
/// (a run) where those are more. Empty when nothing differs.
std::vector<std::vector<std::string>> differences_grid(const Json& fields);

/// The same for people: a table whose best values end in *, the warnings, the fields that differ.
std::string comparison_text(const Json& comparison);

/// The same as one HTML file (evaluation/page.h), with the training curves over each other and, for
/// each group of two SAEs or more, fvu and ce_recovered against l0; groups of one are said to be
/// left out.
std::string comparison_page(const std::vector<RunRecord>& runs, const Json& comparison);

}  // namespace thresher::evaluation
