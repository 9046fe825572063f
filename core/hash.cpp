#include "core/hash.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <vector>

#include "core/error.h"
#include "core/files.h"

namespace thresher {
namespace {

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

struct Sha256::State {
  EVP_MD_CTX* context = nullptr;
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  state_->context = EVP_MD_CTX_new();
  THRESHER_CHECK(
      state_->context != nullptr && EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1,
      "OpenSSL gives no SHA-256");
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(std::span<const std::byte> bytes) {
  THRESHER_CHECK(state_ != nullptr, "Sha256 was updated after hex()");
  THRESHER_CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1,
                 "EVP_DigestUpdate failed");
}

std::string Sha256::hex() {
  THRESHER_CHECK(state_ != nullptr, "Sha256::hex() was called twice");
  std::array<unsigned char, 32> digest{};
  THRESHER_CHECK(EVP_DigestFinal_ex(state_->context, digest.data(), nullptr) == 1,
                 "EVP_DigestFinal_ex failed");
  state_.reset();
  std::string text;
  for (const unsigned char byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

std::string sha256_hex(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.hex();
}

std::string sha256_hex(std::string_view text) { return sha256_hex(as_bytes(text)); }

std::string sha256_file(const std::filesystem::path& path) {
  const FileDescriptor file = open_for_reading(path);
  const std::uint64_t size = thresher::file_size(path);
  std::vector<std::byte> buffer(std::min<std::uint64_t>(size, 1U << 20U));
  Sha256 hash;
  for (std::uint64_t offset = 0; offset < size;) {
    const auto piece =
        std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), size - offset));
    read_at(file, offset, piece, path);
    hash.update(piece);
    offset += piece.size();
  }
  return hash.hex();
}

std::uint64_t xxh3_64(std::span<const std::byte> bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

std::uint64_t xxh3_64(std::string_view text, std::uint64_t seed) {
  return xxh3_64(as_bytes(text), seed);
}

}  // namespace thresher
