#include "pluvia/io/safetensors.hpp"

#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <numeric>

#include <nlohmann/json.hpp>

#include "pluvia/core/error.hpp"
#include "pluvia/io/durable.hpp"

namespace pluvia {

static_assert(std::endian::native == std::endian::little, "values are written as they lie in memory");

namespace {

using nlohmann::json;

std::string make_header(const std::vector<NamedValues>& arrays,
                        const std::map<std::string, std::string>& texts) {
  json header = json::object();
  if (!texts.empty()) header["__metadata__"] = texts;
  std::size_t offset = 0;
  for (const NamedValues& array : arrays) {
    const auto size =
        std::accumulate(array.shape.begin(), array.shape.end(), std::int64_t{1}, std::multiplies{});
    if (array.values.size() != static_cast<std::size_t>(size))
      fail(ExitCode::failed, "The array " + array.name + " does not have the size of its shape");
    if (header.contains(array.name)) fail(ExitCode::failed, "There are two arrays " + array.name);
    const std::size_t end = offset + array.values.size_bytes();
    header[array.name] = {{"dtype", "F32"}, {"shape", array.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  // Texts come from the user's files; what is not UTF-8 must not keep the weights from being written.
  std::string text = header.dump(-1, ' ', false, json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

[[noreturn]] void refuse(const std::string& path) {
  fail(ExitCode::failed, "Cannot write " + path, std::strerror(errno),
       "Choose another output, or make room there.");
}

} // namespace

void write_safetensors(const std::string& path, const std::vector<NamedValues>& arrays,
                       const std::map<std::string, std::string>& texts) {
  const std::string header = make_header(arrays, texts), part = path + ".part";
  const std::uint64_t length = header.size();
  errno = 0;
  std::ofstream file(part, std::ios::binary);
  if (!file) refuse(path);
  try {
    std::size_t bytes = sizeof length + header.size();
    for (const NamedValues& array : arrays) bytes += array.values.size_bytes();
    require_room(part, bytes);
    file.write(reinterpret_cast<const char*>(&length), sizeof length)
        .write(header.data(), static_cast<std::streamsize>(header.size()));
    for (const NamedValues& array : arrays)
      file.write(reinterpret_cast<const char*>(array.values.data()),
                 static_cast<std::streamsize>(array.values.size_bytes()));
    file.close();
    if (!file) refuse(path);
    publish(part, path);
  } catch (...) {
    std::remove(part.c_str());
    throw;
  }
}

} // namespace pluvia
