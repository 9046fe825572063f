#include "features/context_source.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>

#include "activation_cache/cache_format.h"
#include "activation_cache/harvest/drop_rules.h"
#include "activation_cache/manifest.h"
#include "activation_cache/shard_reader.h"
#include "core/error.h"
#include "core/visible_text.h"
#include "evaluation/clean_pass.h"

namespace thresher::features {
namespace {

namespace cache = activation_cache;

at::ScalarType scalar_of(cache::ElementType type) {
  switch (type) {
    case cache::ElementType::kFloat32:
      return at::kFloat;
    case cache::ElementType::kFloat16:
      return at::kHalf;
    case cache::ElementType::kBfloat16:
      return at::kBFloat16;
    case cache::ElementType::kInt32:
    case cache::ElementType::kUint32:
      break;
  }
  return at::kInt;
}

class CachedContexts : public ContextSource {
 public:
  CachedContexts(const std::filesystem::path& dir, const std::vector<std::string>& hook_points,
                 std::int64_t max_contexts)
      : identity_(cache::read_identity(dir)),
        shards_(dir, identity_, cache::read_manifest(dir, identity_).units) {
    if (identity_.has_held_out_rows()) {
      throw ConfigError(
          fmt::format("{}: the cache was made from activations without text", display_path(dir)),
          "a cache that was harvested from text");
    }
    for (const std::string& name : hook_points) datasets_.push_back(hook_dataset(name, dir));
    context_tokens_ = identity_.context_tokens;
    n_contexts_ = std::min(max_contexts, identity_.n_contexts);
  }

  std::int64_t n_units() const override {
    const std::int64_t contexts = identity_.unit_contexts();
    return (n_contexts_ + contexts - 1) / contexts;
  }

  Json facts() const override {
    return Json::object(
        {{"from", "cache"}, {"dtype", dtype_name(identity_.dtype)}, {"corpus", identity_.corpus}});
  }

  ContextUnit load(std::int64_t unit) override {
    const cache::UnitRange range = identity_.unit_range(unit);
    const std::int64_t width = context_tokens_;
    ContextUnit out;
    out.first_context = range.first_context;
    out.n_contexts = std::min(range.n_contexts, n_contexts_ - range.first_context);
    const at::Tensor contexts = table(unit, cache::kContextDataset);
    const at::Tensor positions = table(unit, cache::kPositionDataset);
    const at::Tensor documents = table(unit, cache::kDocumentDataset);
    const at::Tensor ids = table(unit, cache::kTokenIdsDataset);
    out.token_ids.assign(ids.const_data_ptr<std::int32_t>(),
                         ids.const_data_ptr<std::int32_t>() + out.n_contexts * width);
    const at::Tensor order = order_rows(contexts, positions, range, out);
    set_documents(documents.index_select(0, order), out);
    for (const std::size_t dataset : datasets_) {
      out.rows.push_back(table(unit, dataset).index_select(0, order));
    }
    return out;
  }

 private:
  std::size_t hook_dataset(const std::string& name, const std::filesystem::path& dir) const {
    std::vector<std::string> known;
    for (std::size_t i = 0; i < identity_.hook_points.size(); ++i) {
      if (identity_.hook_points[i].hook_point == name) return i;
      known.push_back(identity_.hook_points[i].hook_point);
    }
    throw ConfigError(fmt::format("{}: {} is not in the cache", display_path(dir), name),
                      fmt::format("one of {}", fmt::join(known, ", ")),
                      "--from training runs the host model on the same text");
  }

  at::Tensor table(std::int64_t unit, std::string_view name) {
    return table(unit, cache::dataset_index(shards_.datasets(), name));
  }

  at::Tensor table(std::int64_t unit, std::size_t dataset) {
    const cache::DatasetSpec& spec = shards_.datasets()[dataset];
    const std::int64_t rows =
        shards_.units().at(static_cast<std::size_t>(unit)).datasets.at(dataset).rows;
    const at::TensorOptions type = at::TensorOptions().dtype(scalar_of(spec.type));
    at::Tensor out =
        spec.is_table ? at::empty({rows, spec.columns}, type) : at::empty({rows}, type);
    auto* bytes = static_cast<std::byte*>(out.mutable_data_ptr());
    const std::int64_t n_blocks = cache::block_count(rows, identity_.block_rows);
    for (std::int64_t block = 0; block < n_blocks; ++block) {
      const auto size =
          static_cast<std::size_t>(shards_.rows_in_block(unit, dataset, block) * spec.row_bytes());
      shards_.read_block(unit, dataset, block, {bytes, size});
      bytes += size;
    }
    return out;
  }

  /// The rows of the contexts that are wanted, in the order of the text. What a shard says of its
  /// rows is not believed before it is looked at.
  at::Tensor order_rows(const at::Tensor& contexts, const at::Tensor& positions,
                        const cache::UnitRange& range, ContextUnit& out) const {
    const auto* context = contexts.const_data_ptr<std::int32_t>();
    const auto* position = positions.const_data_ptr<std::int32_t>();
    std::vector<std::int64_t> order;
    for (std::int64_t row = 0; row < contexts.numel(); ++row) {
      const std::int64_t local = context[row] - range.first_context;
      if (local < 0 || local >= range.n_contexts || position[row] < 0 ||
          position[row] >= context_tokens_) {
        throw DataError(fmt::format("unit at context {}: row {} is of context {}, position {}",
                                    range.first_context, row, context[row], position[row]),
                        "rows of the unit's own contexts", "`thresher cache verify` finds damage");
      }
      if (local < out.n_contexts) order.push_back(row);
    }
    std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return std::pair(context[a], position[a]) < std::pair(context[b], position[b]);
    });
    for (const std::int64_t row : order) {
      out.row_context.push_back(static_cast<std::int32_t>(context[row] - range.first_context));
      out.row_position.push_back(position[row]);
    }
    return at::tensor(order, at::kLong);
  }

  /// A shard names the documents of its rows only. A position that is no row belongs to the
  /// document of the next row of its context: dropped are the first positions of documents.
  void set_documents(const at::Tensor& row_documents, ContextUnit& out) const {
    out.documents.assign(out.token_ids.size(), -1);
    const auto* document = row_documents.const_data_ptr<std::int32_t>();
    for (std::size_t row = 0; row < out.row_context.size(); ++row) {
      out.documents[static_cast<std::size_t>(out.row_context[row] * context_tokens_ +
                                             out.row_position[row])] = document[row];
    }
    for (std::int64_t context = 0; context < out.n_contexts; ++context) {
      std::int32_t* ids = out.documents.data() + context * context_tokens_;
      for (std::int64_t i = context_tokens_ - 2; i >= 0; --i) {
        if (ids[i] < 0) ids[i] = ids[i + 1];
      }
      for (std::int64_t i = 1; i < context_tokens_; ++i) {
        if (ids[i] < 0) ids[i] = ids[i - 1];
      }
    }
  }

  cache::CacheIdentity identity_;
  cache::ShardReader shards_;
  std::vector<std::size_t> datasets_;
};

class FreshContexts : public ContextSource {
 public:
  FreshContexts(const corpus::PackedContexts& contexts, const std::vector<std::string>& hook_points,
                const evaluation::EncodingRules& rules, std::int64_t max_contexts,
                const corpus::Tokenizer& tokenizer, host_model::HostModel& model, Json facts)
      : contexts_(contexts),
        drop_rules_(rules.cache.drop_first_positions, rules.cache.drop_special_tokens,
                    rules.cache.drop_norm_above > 0 ? rules.norm_limits : std::vector<double>{},
                    tokenizer),
        model_(model),
        facts_(std::move(facts)) {
    for (const std::string& name : hook_points) {
      wanted_.push_back(host_model::HookPoint::parse(name));
    }
    for (const std::string& name : rules.cache.hook_points) {
      limited_.push_back(host_model::HookPoint::parse(name));
    }
    context_tokens_ = contexts.context_tokens;
    n_contexts_ = std::min(max_contexts, contexts.n_contexts);
    unit_contexts_ = std::max<std::int64_t>(1, cache::kForwardTokens / context_tokens_);
  }

  std::int64_t n_units() const override {
    return (n_contexts_ + unit_contexts_ - 1) / unit_contexts_;
  }

  Json facts() const override { return facts_; }

  ContextUnit load(std::int64_t unit) override {
    ContextUnit out;
    out.first_context = unit * unit_contexts_;
    out.n_contexts = std::min(unit_contexts_, n_contexts_ - out.first_context);
    const auto begin = out.first_context * context_tokens_;
    const auto end = begin + out.n_contexts * context_tokens_;
    out.token_ids.assign(contexts_.token_ids.begin() + begin, contexts_.token_ids.begin() + end);
    out.documents.assign(contexts_.documents.begin() + begin, contexts_.documents.begin() + end);
    const std::map<host_model::HookPoint, at::Tensor> activations = run(out);
    std::vector<std::int64_t> kept;
    for (std::int64_t i = 0; i < end - begin; ++i) {
      const auto reason = drop_rules_.reason(
          out.token_ids[i], contexts_.positions[begin + i], [&](std::size_t hook) {
            const at::Tensor row = activations.at(limited_[hook])[i];
            return cache::row_norm(
                {row.const_data_ptr<float>(), static_cast<std::size_t>(row.numel())});
          });
      if (reason != cache::DropReason::kKept) continue;
      kept.push_back(i);
      out.row_context.push_back(static_cast<std::int32_t>(i / context_tokens_));
      out.row_position.push_back(static_cast<std::int32_t>(i % context_tokens_));
    }
    const at::Tensor rows = at::tensor(kept, at::kLong);
    for (const host_model::HookPoint& point : wanted_) {
      out.rows.push_back(activations.at(point).index_select(0, rows));
    }
    return out;
  }

 private:
  std::map<host_model::HookPoint, at::Tensor> run(const ContextUnit& unit) {
    std::map<host_model::HookPoint, at::Tensor> activations;
    host_model::ForwardRequest request;
    const auto keep = [&](const host_model::HookPoint& point) {
      // The model may go on to work in the tensor that it shows.
      request.hooks[point] = [&activations, point](const at::Tensor& activation) {
        activations[point] = activation.to(at::kCPU, at::kFloat).clone().contiguous();
        return at::Tensor();
      };
    };
    for (const host_model::HookPoint& point : wanted_) keep(point);
    for (const host_model::HookPoint& point : limited_) keep(point);
    model_.forward(evaluation::make_batch(contexts_, unit.first_context, unit.n_contexts), request);
    return activations;
  }

  const corpus::PackedContexts& contexts_;
  cache::DropRules drop_rules_;
  host_model::HostModel& model_;
  Json facts_;
  std::vector<host_model::HookPoint> wanted_, limited_;
  std::int64_t unit_contexts_ = 1;
};

}  // namespace

std::unique_ptr<ContextSource> open_cached_contexts(const std::filesystem::path& dir,
                                                    const std::vector<std::string>& hook_points,
                                                    std::int64_t max_contexts) {
  return std::make_unique<CachedContexts>(dir, hook_points, max_contexts);
}

std::unique_ptr<ContextSource> make_fresh_contexts(
    const corpus::PackedContexts& contexts, const std::vector<std::string>& hook_points,
    const evaluation::EncodingRules& rules, std::int64_t max_contexts,
    const corpus::Tokenizer& tokenizer, host_model::HostModel& model, Json corpus_facts) {
  return std::make_unique<FreshContexts>(contexts, hook_points, rules, max_contexts, tokenizer,
                                         model, std::move(corpus_facts));
}

}  // namespace thresher::features
