#pragma once

#include <string>
#include <vector>

namespace thresher::evaluation {

/// Markdown, aligned so that it also reads well as it is: the first line is the header, the first
/// `n_left` columns are aligned left, the others right. Cells are made harmless for a terminal
/// (core/visible_text.h) and cannot break out of their column.
std::string text_table(std::vector<std::vector<std::string>> lines, std::size_t n_left = 1);

}  // namespace thresher::evaluation
