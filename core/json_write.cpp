#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "core/json.h"
#include "core/utf8.h"

namespace thresher {
namespace {

void write_string(std::string& out, std::string_view text) {
  out += '"';
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_sequence_length(text, i);
    const char c = text[i];
    if (length == 0) {
      out += "\\ufffd";
      ++i;
      continue;
    }
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\r') {
      out += "\\r";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += text.substr(i, length);
    }
    i += length;
  }
  out += '"';
}

void write_double(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  const std::string_view digits(buffer, static_cast<std::size_t>(end - buffer));
  out += digits;
  // Without a point or an exponent it would be read back as an integer.
  if (digits.find_first_of(".e") == std::string_view::npos) out += ".0";
}

}  // namespace

class JsonWriter {
 public:
  explicit JsonWriter(int indent) : indent_(indent) {}

  void write(const Json& value) {
    std::visit([this](const auto& held) { write_held(held); }, value.value_);
  }
  std::string take() { return std::move(out_); }

 private:
  void write_held(std::nullptr_t) { out_ += "null"; }
  void write_held(bool value) { out_ += value ? "true" : "false"; }
  void write_held(std::int64_t value) { out_ += std::to_string(value); }
  void write_held(std::uint64_t value) { out_ += std::to_string(value); }
  void write_held(double value) { write_double(out_, value); }
  void write_held(const std::string& value) { write_string(out_, value); }

  void write_held(const Json::Array& items) {
    write_list('[', ']', items.size(), [&](std::size_t i) { write(items[i]); });
  }

  void write_held(const Json::Object& members) {
    write_list('{', '}', members.size(), [&](std::size_t i) {
      write_string(out_, members[i].first);
      out_ += indent_ < 0 ? ":" : ": ";
      write(members[i].second);
    });
  }

  template <class WriteItem>
  void write_list(char open, char close, std::size_t count, WriteItem write_item) {
    out_ += open;
    ++level_;
    for (std::size_t i = 0; i < count; ++i) {
      if (i > 0) out_ += ',';
      break_line();
      write_item(i);
    }
    --level_;
    if (count > 0) break_line();
    out_ += close;
  }

  void break_line() {
    if (indent_ < 0) return;
    out_ += '\n';
    out_.append(static_cast<std::size_t>(indent_) * level_, ' ');
  }

  int indent_;
  std::size_t level_ = 0;
  std::string out_;
};

std::string Json::dump(int indent) const {
  JsonWriter writer(indent);
  writer.write(*this);
  return writer.take();
}

}  // namespace thresher
