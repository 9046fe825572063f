#include "tests/activation_cache/kill_testing.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "activation_cache/cache.h"
#include "core/error.h"
#include "core/log.h"
#include "core/random.h"
#include "tests/activation_cache/harvest_testing.h"

namespace thresher::activation_cache::testing {

namespace {

using Clock = std::chrono::steady_clock;

std::uint64_t milliseconds_since(Clock::time_point begin) {
  const auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin);
  return static_cast<std::uint64_t>(passed.count());
}

[[noreturn]] void be_a_harvest(const HarvestSetup& setup, const std::string& failpoint) {
  if (!failpoint.empty()) setenv("THRESHER_FAILPOINT", failpoint.c_str(), 1);
  set_log_level(LogLevel::kError);
  try {
    run_harvest(setup);
  } catch (const IoError& error) {
    _exit(static_cast<int>(error.code()));  // many tests ask for these
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    _exit(static_cast<int>(error.code()));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    _exit(1);
  }
  _exit(0);
}

int wait_for(pid_t child, int kill_after_ms) {
  int status = 0;
  const auto deadline = Clock::now() + std::chrono::milliseconds(kill_after_ms);
  while (waitpid(child, &status, kill_after_ms < 0 ? 0 : WNOHANG) == 0) {
    if (Clock::now() >= deadline) kill(child, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace

int harvest_in_child(const HarvestSetup& setup, const std::string& failpoint) {
  const pid_t child = fork();
  if (child == 0) be_a_harvest(setup, failpoint);
  return wait_for(child, -1);
}

int harvest_in_child(const std::filesystem::path& dir, int ranks, const std::string& failpoint,
                     int kill_after_ms) {
  HarvestSetup setup{fake_config(dir), ranks};
  setup.prepare_host = [](FakeHost& host, int) {
    host.before_pass = [](int) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
  };
  const pid_t child = fork();
  if (child == 0) be_a_harvest(setup, failpoint);
  return wait_for(child, kill_after_ms);
}

void check_random_kills(int kills, std::uint64_t seed) {
  const ScratchFolder reference;
  auto begin = Clock::now();
  ASSERT_EQ(harvest_in_child(reference.path(), 1), 0);
  // How long a harvest takes, by the last one seen: the machine may be busy now and idle later.
  std::uint64_t whole_ms = milliseconds_since(begin);
  const auto expected = promised_bytes(reference.path());
  const RandomStream random(seed, "test.kills");
  std::uint64_t draw = 0;
  int n_killed = 0, n_caches = 0;
  while (n_killed < kills) {
    const ScratchFolder folder;
    ++n_caches;
    int end = kKilled;
    for (bool is_fresh = true; end != 0; is_fresh = false) {
      const int ranks = 1 << random.below(draw++, 3);
      const auto delay = static_cast<int>(random.below(draw++, whole_ms + 2));
      begin = Clock::now();
      end = harvest_in_child(folder.path(), ranks, {}, delay);
      ASSERT_TRUE(end == 0 || end == kKilled) << end;
      if (end == kKilled) ++n_killed;
      if (end == 0 && is_fresh) whole_ms = milliseconds_since(begin);
    }
    ASSERT_EQ(promised_bytes(folder.path()), expected) << "cache " << n_caches;
    ASSERT_TRUE(verify_cache(folder.path()).empty());
  }
  std::printf("%d kills over %d caches\n", n_killed, n_caches);
}

}  // namespace thresher::activation_cache::testing
