#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>

#include "cli/bench.h"
#include "cli/bench_clock.h"
#include "cli/bench_workload.h"
#include "cli/ranks.h"
#include "cli/versions.h"
#include "core/error.h"
#include "kernels/encode_select.h"

namespace thresher::cli {
namespace {

constexpr std::int64_t kWarmSteps = 2;
constexpr std::size_t kLeastSteps = 3;
constexpr std::int64_t kMostProductBytes = std::int64_t{1} << 30;

/// Seconds that a GPU's current stream spends on what is enqueued between two events.
class StreamTimer {
 public:
  double run(const std::function<void()>& work) {
    const c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
    const c10::Stream stream = cuda.getStream(cuda.getDevice());
    begin_.record(stream);
    work();
    end_.record(stream);
    end_.synchronize();
    return 1e-3 * begin_.elapsedTime(end_);
  }

 private:
  c10::Event begin_{c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT};
  c10::Event end_{c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT};
};

struct Times {
  std::vector<double> wall, cpu;  // seconds, one a round; wall: the device's, where there is one
  std::vector<double> host;       // the host's wall time
  void add(Device device, const std::function<void()>& work) {
    const auto begin = std::chrono::steady_clock::now();
    const double cpu_begin = cpu_seconds();
    double device_seconds = 0;
    if (device == Device::kCuda) {
      device_seconds = StreamTimer().run(work);
    } else {
      work();
    }
    cpu.push_back(cpu_seconds() - cpu_begin);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    host.push_back(seconds.count());
    wall.push_back(device == Device::kCuda ? device_seconds : seconds.count());
  }
};

/// x W_enc by LibTorch alone, without bias or selection; in blocks of rows where the whole product
/// would fill the memory.
class EncoderProduct {
 public:
  EncoderProduct(at::Tensor x, const at::Tensor& W_enc) : x_(std::move(x)), W_(W_enc) {
    const auto row_bytes = static_cast<std::int64_t>(W_.element_size()) * W_.size(1);
    rows_ = std::clamp<std::int64_t>(kMostProductBytes / row_bytes, 1, x_.size(0));
    out_ = at::empty({rows_, W_.size(1)}, W_.options());
    run();
  }
  void run() {
    for (std::int64_t first = 0; first < x_.size(0); first += rows_) {
      const std::int64_t rows = std::min(rows_, x_.size(0) - first);
      at::Tensor out = out_.narrow(0, 0, rows);
      at::mm_out(out, x_.narrow(0, first, rows), W_);
    }
  }
  std::int64_t rows() const { return rows_; }

 private:
  at::Tensor x_, W_, out_;
  std::int64_t rows_ = 0;
};

struct Series {
  RoundClock clock;
  Times steps, products;
  double l0 = 0;  // mean
};

Series run_rounds(StepWorkload& workload, EncoderProduct& product,
                  const BenchStepOptions& options) {
  Series series;
  const auto is_done = [&] {
    const std::size_t n = series.steps.wall.size();
    if (options.steps) return n >= static_cast<std::size_t>(*options.steps);
    return n >= kLeastSteps && series.clock.seconds() >= options.seconds;
  };
  series.clock.mark();
  while (!is_done()) {
    series.steps.add(workload.device(), [&] { workload.take_step(); });
    series.products.add(workload.device(), [&] { product.run(); });
    series.clock.mark();
    series.l0 += workload.figure("l0");
  }
  series.l0 /= static_cast<double>(series.steps.wall.size());
  return series;
}

/// What LibTorch's allocator held at most; the kernels' working memory, which comes from the
/// stream's pool, is not part of it.
std::int64_t peak_device_bytes() {
  const c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
  const auto stats =
      at::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(cuda.getDevice().index());
  return stats.allocated_bytes[static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE)]
      .peak;
}

Json memory_figures(StepWorkload& workload, std::int64_t peak) {
  const StepMemory memory = workload.memory();
  const std::int64_t sum = memory.parameters + memory.optimiser + memory.gradients;
  return Json::object(
      {{"parameter_bytes", memory.parameters},
       {"optimiser_bytes", memory.optimiser},
       {"gradient_bytes", memory.gradients},
       {"sum_bytes", sum},
       {workload.device() == Device::kCpu ? "peak_rss_bytes" : "peak_device_bytes", peak},
       {"peak_beyond_sum_bytes", peak - sum}});
}

void add_times(Json& out, const Series& series, std::int64_t batch_tokens) {
  const std::vector<double> steps = series.clock.quiet(series.steps.wall);
  const std::vector<double> products = series.clock.quiet(series.products.wall);
  const double best = *std::min_element(steps.begin(), steps.end());
  const double best_product = *std::min_element(products.begin(), products.end());
  const auto tokens = static_cast<double>(batch_tokens);
  out["steps"] = static_cast<std::int64_t>(series.steps.wall.size());
  out["quiet_steps"] = static_cast<std::int64_t>(series.clock.n_quiet());
  out["other_cores"] = median(series.clock.other_cores());
  out["tokens_per_second"] = tokens / median(steps);
  out["tokens_per_second_best"] = tokens / best;
  out["step_seconds"] = seconds_summary(steps);
  out["encoder_product_seconds"] = seconds_summary(products);
  out["step_over_product"] = median(steps) / median(products);
  out["step_over_product_best"] = best / best_product;
  // Of all rounds: others' processes lengthen processor time little.
  out["host_step_seconds"] = seconds_summary(series.steps.host);
  out["step_cpu_seconds"] = seconds_summary(series.steps.cpu);
  out["encoder_product_cpu_seconds"] = seconds_summary(series.products.cpu);
  out["step_over_product_cpu"] = median(series.steps.cpu) / median(series.products.cpu);
}

/// Null where no product was taken in bytes.
Json screening_json(const kernels::ScreeningFigures& before,
                    const kernels::ScreeningFigures& after) {
  if (after.pairs == before.pairs) return {};
  return Json::object({{"share_left_open", static_cast<double>(after.survivors - before.survivors) /
                                               static_cast<double>(after.pairs - before.pairs)},
                       {"limit_over_norms", after.limit}});
}

std::string milliseconds(const Json& summary) {
  return fmt::format("{:9.2f} ms  (min {:.2f}, max {:.2f})", 1e3 * summary.at("median").as_double(),
                     1e3 * summary.at("min").as_double(), 1e3 * summary.at("max").as_double());
}

}  // namespace

StepSize step_size(const std::string& name) {
  static const std::map<std::string, StepSize> sizes = {{"A", {512, 8192, 2048, 32}},
                                                        {"B", {576, 9216, 4096, 64}},
                                                        {"C", {768, 24576, 4096, 32}},
                                                        {"G", {2304, 65536, 8192, 64}}};
  const auto found = sizes.find(name);
  if (found == sizes.end()) {
    throw UsageError(fmt::format("bench step: size \"{}\" is not known", name), "A, B, C or G",
                     "or say --d, --n, --batch and --k");
  }
  return found->second;
}

double median(std::vector<double> values) {
  THRESHER_CHECK(!values.empty(), "no values");
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : 0.5 * (values[middle - 1] + values[middle]);
}

Json seconds_summary(std::vector<double> seconds) {
  const auto [min, max] = std::minmax_element(seconds.begin(), seconds.end());
  return Json::object({{"min", *min}, {"median", median(seconds)}, {"max", *max}});
}

std::int64_t peak_rss_bytes() {
  rusage usage{};
  THRESHER_CHECK(getrusage(RUSAGE_SELF, &usage) == 0, "getrusage failed");
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;  // Linux counts KiB
}

Json bench_step(const BenchStepOptions& options) {
  StepWorkload workload(options);
  const kernels::ScreeningFigures before = kernels::screening_figures();
  for (std::int64_t i = 0; i < kWarmSteps; ++i) workload.take_step();
  const bool is_on_gpu = workload.device() == Device::kCuda;
  const std::int64_t peak = is_on_gpu ? peak_device_bytes() : peak_rss_bytes();
  const at::ScalarType dtype = workload.has_bfloat16_operands() ? at::kBFloat16 : at::kFloat;
  EncoderProduct product(workload.batch(0).to(dtype), workload.row_major_encoder().to(dtype));
  const Series series = run_rounds(workload, product, options);

  const StepSize& size = workload.size();
  Json out = Json::object({{"bench", "step"},
                           {"variant", options.variant},
                           {"sae", workload.sae_fields()},
                           {"d_in", size.d_in},
                           {"n_latents", size.n_latents},
                           {"batch_tokens", size.batch_tokens},
                           {"k", workload.has_k() ? Json(size.k) : Json()},
                           {"rows", options.rows.empty() ? "synthetic" : options.rows},
                           {"lanes", workload.lanes()},
                           {"threads", current_threads()},
                           {"device", options.device},
                           {"operand_dtype", dtype == at::kFloat ? "float32" : "bfloat16"},
                           {"is_logged", options.is_logged}});
  add_times(out, series, size.batch_tokens);
  out["product_rows"] = product.rows();
  out["rounds"] =
      Json::object({{"step_seconds", Json::array_of(series.steps.wall)},
                    {"step_cpu_seconds", Json::array_of(series.steps.cpu)},
                    {"encoder_product_seconds", Json::array_of(series.products.wall)},
                    {"encoder_product_cpu_seconds", Json::array_of(series.products.cpu)},
                    {"other_cores", Json::array_of(series.clock.other_cores())}});
  out["l0"] = series.l0;
  out["dead_latents"] = workload.figure("dead_latents");
  out["loss"] = workload.figure("loss");
  out["memory"] = memory_figures(workload, peak);
  out["screening"] = screening_json(before, kernels::screening_figures());
  out["versions"] = versions_json();
  return out;
}

std::string step_table(const Json& figures) {
  const auto number = [&](const char* key) { return figures.at(key).as_double(); };
  const auto whole = [&](const char* key) { return figures.at(key).as_int(); };
  const Json& memory = figures.at("memory");
  const auto gib = [&](const char* key) {
    return memory.at(key).as_double() / static_cast<double>(std::int64_t{1} << 30);
  };
  std::string text = fmt::format("{}: d {}, n {}, batch {}{}; {} lanes, {} threads\n",
                                 figures.at("variant").as_string(), whole("d_in"),
                                 whole("n_latents"), whole("batch_tokens"),
                                 figures.at("k").is_null() ? "" : fmt::format(", k {}", whole("k")),
                                 whole("lanes"), whole("threads"));
  text += fmt::format("step             {}\n", milliseconds(figures.at("step_seconds")));
  text += fmt::format("encoder product  {}  LibTorch's mm, {}\n",
                      milliseconds(figures.at("encoder_product_seconds")),
                      figures.at("operand_dtype").as_string());
  text +=
      fmt::format("step / product   {:9.3f}     (of the minima {:.3f}, of processor time {:.3f})\n",
                  number("step_over_product"), number("step_over_product_best"),
                  number("step_over_product_cpu"));
  text += fmt::format("tokens/s         {:9.0f}     (best {:.0f})\n", number("tokens_per_second"),
                      number("tokens_per_second_best"));
  text += fmt::format("l0 {:.1f}, dead latents {:.0f}\n", number("l0"), number("dead_latents"));
  if (const Json& screening = figures.at("screening"); !screening.is_null()) {
    text += fmt::format(
        "screened in bytes: {:.2f} % of the pre-activations left open; limits {:.2f} % of |x| |w| "
        "above\n",
        100 * screening.at("share_left_open").as_double(),
        100 * screening.at("limit_over_norms").as_double());
  }
  text += fmt::format(
      "memory: parameters {:.3f} + optimiser {:.3f} + gradients {:.3f} = {:.3f} GiB; peak {:.3f} "
      "GiB, {:.3f} GiB beyond\n",
      gib("parameter_bytes"), gib("optimiser_bytes"), gib("gradient_bytes"), gib("sum_bytes"),
      gib(memory.find("peak_rss_bytes") ? "peak_rss_bytes" : "peak_device_bytes"),
      gib("peak_beyond_sum_bytes"));
  text += fmt::format("{} of {} steps were quiet; other processes used {:.2f} cores\n",
                      whole("quiet_steps"), whole("steps"), number("other_cores"));
  if (whole("quiet_steps") == 0) text += "none was quiet: the times above are those of all steps\n";
  return text;
}

}  // namespace thresher::cli
