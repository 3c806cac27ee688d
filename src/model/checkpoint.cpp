#include "pluvia/model/checkpoint.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "pluvia/core/error.hpp"
#include "pluvia/core/sha256.hpp"
#include "pluvia/io/durable.hpp"
#include "pluvia/io/hdf5.hpp"

namespace pluvia {

namespace {

// The user block of the file: this line, the digest of all that follows the block, a line end, zeros.
constexpr const char* magic = "PLUVIA CHECKPOINT 1\n";
using UserBlock = std::array<char, H5File::user_block>;

UserBlock user_block(const std::string& digest) {
  UserBlock block{};
  const std::string text = magic + digest + "\n";
  std::copy(text.begin(), text.end(), block.begin());
  return block;
}

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  fail(ExitCode::data, "The checkpoint " + path + " cannot be used", why, "Use an earlier one.");
}

/// "sha256:..." of a file from the end of its user block on. Local; reads the whole file.
std::string digest_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file.seekg(H5File::user_block)) refuse(path, std::strerror(errno));
  Sha256 running;
  std::vector<char> buffer(std::size_t{1} << 20);
  while (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size())), file.gcount() > 0)
    running.add({buffer.data(), static_cast<std::size_t>(file.gcount())});
  if (file.bad()) refuse(path, "it cannot be read to its end");
  return running.finish();
}

/// Writes the digest into the user block and returns it. Local.
std::string seal(const std::string& path) {
  const std::string digest = digest_of(path);
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  const UserBlock block = user_block(digest);
  file.write(block.data(), block.size());
  file.close();
  if (!file)
    fail(ExitCode::failed, "Cannot finish " + path, std::strerror(errno), "Check the space of its folder.");
  return digest;
}

/// Compares every byte of the file with its seal and returns the digest. Local.
std::string check_seal(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) refuse(path, std::strerror(errno));
  UserBlock found{};
  file.read(found.data(), found.size());
  if (file.gcount() != static_cast<std::streamsize>(found.size()) ||
      std::memcmp(found.data(), magic, std::strlen(magic)) != 0)
    refuse(path, "it is not a finished checkpoint");
  const std::string digest = digest_of(path);
  if (found != user_block(digest)) refuse(path, "it was torn or changed: its digest does not match");
  return digest;
}

Hyperslab nothing(std::size_t dimensions) {
  return {std::vector<std::int64_t>(dimensions, 0), std::vector<std::int64_t>(dimensions, 0)};
}
Hyperslab whole(const std::vector<std::int64_t>& extents) {
  return {std::vector<std::int64_t>(extents.size(), 0), extents};
}
std::size_t product(const std::vector<std::int64_t>& extents) {
  std::size_t size = 1;
  for (std::int64_t n : extents) size *= static_cast<std::size_t>(n);
  return size;
}
Hyperslab tile_of_field(std::int64_t outer, std::int64_t inner, const Rect& tile) {
  if (tile.empty()) return nothing(4);
  return {{0, tile.y0, tile.x0, 0}, {outer, tile.height(), tile.width(), inner}};
}

void check_sizes(const Checkpoint& checkpoint, const Rect& tile) {
  for (const auto& [name, array] : checkpoint.arrays)
    if (array.values.size() !=
        (array.run ? static_cast<std::size_t>(array.run->size()) : product(array.extents)))
      fail(ExitCode::failed, "The array " + name + " does not have the size of its extents");
  const auto cells = static_cast<std::size_t>(tile.empty() ? 0 : tile.cells());
  for (const auto& [name, field] : checkpoint.fields)
    if (field.values.size() != static_cast<std::size_t>(field.outer * field.inner) * cells)
      fail(ExitCode::failed, "The field " + name + " does not have the size of its tile");
}

std::size_t bytes_of(const Checkpoint& checkpoint, const Rect& domain) {
  std::size_t values = 0;
  for (const auto& [name, array] : checkpoint.arrays) values += product(array.extents);
  for (const auto& [name, field] : checkpoint.fields)
    values += static_cast<std::size_t>(field.outer * field.inner * domain.cells());
  return values * sizeof(float) + (std::size_t{1} << 20);
}

/// Collective; agrees after every call, so that no rank waits in the next one.
void write_contents(const Communicator& comm, H5File& file, const Checkpoint& checkpoint, const Rect& domain,
                    const Rect& tile) {
  const auto write_text = [&](const std::string& name, const std::string& text) {
    together(comm, [&] { file.write_text(name, text); });
  };
  write_text("step", std::to_string(checkpoint.step));
  write_text("configuration", checkpoint.configuration);
  for (const auto& [name, text] : checkpoint.texts) write_text("texts/" + name, text);
  for (const auto& [name, array] : checkpoint.arrays)
    together(comm, [&, &name = name, &array = array] {
      if (array.run) return file.write("arrays/" + name, array.extents, *array.run, array.values);
      const Hyperslab box = comm.rank() == 0 ? whole(array.extents) : nothing(array.extents.size());
      file.write("arrays/" + name, array.extents, box, array.values);
    });
  for (const auto& [name, field] : checkpoint.fields)
    together(comm, [&, &name = name, &field = field] {
      file.write("fields/" + name, {field.outer, domain.height(), domain.width(), field.inner},
                 tile_of_field(field.outer, field.inner, tile), field.values);
    });
  // Before it is closed, because a file whose closing failed HDF5 closes once more at the program's end, and
  // comes down.
  together(comm, [&] { file.flush(); });
  together(comm, [&] { file.close(); });
}

/// The HDF5 part. Collective.
void write_file(const Communicator& comm, const std::string& path, const Checkpoint& checkpoint,
                const Rect& domain, const Rect& tile) {
  std::optional<H5File> file;
  together(comm, [&] { file.emplace(H5File::create(comm, path)); });
  try {
    together(comm, [&] {
      if (comm.rank() == 0) require_room(path, bytes_of(checkpoint, domain));
    });
    write_contents(comm, *file, checkpoint, domain, tile);
  } catch (...) {
    // What HDF5 keeps of the file it must be able to write even now, or it comes down at the program's end:
    // an empty file makes room for that.
    if (comm.rank() == 0) static_cast<void>(::truncate(path.c_str(), 0) == 0);
    comm.barrier();
    throw;
  }
}

using nlohmann::json;

/// Texts and the extents of arrays and fields, as rank 0 finds them.
json describe(const H5File& file) {
  json out{{"step", file.read_text("step")},
           {"configuration", file.read_text("configuration")},
           {"texts", json::object()},
           {"arrays", json::object()},
           {"fields", json::object()}};
  for (const std::string& name : file.names("texts")) out["texts"][name] = file.read_text("texts/" + name);
  for (const std::string& name : file.names("arrays")) out["arrays"][name] = file.extents("arrays/" + name);
  for (const std::string& name : file.names("fields")) out["fields"][name] = file.extents("fields/" + name);
  return out;
}

/// Everything but the fields, whose extents go to `fields`. Rank 0 checks and reads, the others are told.
Checkpoint read_shared_part(const Communicator& comm, const std::string& path, std::string* digest,
                            json& fields, const WantedRun& wanted) {
  std::string seal_text, description;
  std::optional<H5File> file;
  together(comm, [&] {
    if (comm.rank() != 0) return;
    seal_text = check_seal(path);
    file.emplace(H5File::open_alone(path));
    const std::vector<std::uint8_t> bytes = json::to_cbor(describe(*file));
    description.assign(bytes.begin(), bytes.end());
  });
  comm.broadcast(seal_text, 0);
  comm.broadcast(description, 0);
  if (digest != nullptr) *digest = seal_text;
  const json all = json::from_cbor(description);

  Checkpoint out;
  out.step = std::stoll(all["step"].get<std::string>());
  out.configuration = all["configuration"];
  out.texts = all["texts"].get<std::map<std::string, std::string>>();
  for (const auto& [name, extents] : all["arrays"].items()) {
    NamedArray& array = out.arrays[name];
    array.extents = extents.get<std::vector<std::int64_t>>();
  }
  // One after the other: what a rank does not want it holds for a moment.
  for (auto& [name, array] : out.arrays) {
    const std::size_t size = product(array.extents);
    array.values.resize(size);
    together(comm, [&, &name = name, &array = array] {
      if (comm.rank() == 0) file->read("arrays/" + name, whole(array.extents), array.values);
    });
    comm.broadcast(std::as_writable_bytes(std::span(array.values)), 0);
    if (wanted) array.run = wanted(name);
    if (!array.run) continue;
    const auto end = static_cast<Index>(size);
    array.run = {std::min(array.run->from, end), std::min(array.run->to, end)};
    array.values = {array.values.begin() + array.run->from, array.values.begin() + array.run->to};
  }
  fields = all["fields"];
  return out;
}

} // namespace

std::string write_checkpoint(const Communicator& comm, const std::string& path, const Checkpoint& checkpoint,
                             const Rect& domain, const Rect& tile) {
  const std::string part = path + ".part";
  together(comm, [&] { check_sizes(checkpoint, tile); });
  std::string digest;
  try {
    together(comm, [&] {
      if (comm.rank() != 0) return;
      prepare_part(path, part);
      try_room(part, bytes_of(checkpoint, domain));
    });
    write_file(comm, part, checkpoint, domain, tile);
    together(comm, [&] {
      if (comm.rank() != 0) return;
      digest = seal(part);
      publish(part, path);
    });
  } catch (...) {
    if (comm.rank() == 0) std::remove(part.c_str());
    throw;
  }
  comm.broadcast(digest, 0);
  return digest;
}

bool is_checkpoint(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string start(std::strlen(magic), '\0');
  return file.read(start.data(), static_cast<std::streamsize>(start.size())) && start == magic;
}

void check_checkpoint(const std::string& path) {
  check_seal(path);
}

Checkpoint read_checkpoint(const Communicator& comm, const std::string& path, const Rect& tile,
                           std::string* digest, const WantedRun& wanted) {
  json fields;
  Checkpoint out = read_shared_part(comm, path, digest, fields, wanted);
  std::optional<H5File> file;
  together(comm, [&] { file.emplace(H5File::open(comm, path)); });
  for (const auto& [name, description] : fields.items()) {
    const auto extents = description.get<std::vector<std::int64_t>>();
    together(comm, [&, &name = name] {
      if (extents.size() != 4 || intersect(tile, {0, extents[1], 0, extents[2]}) != tile)
        refuse(path, "its field " + name + " belongs to another grid");
    });
    TiledField& field = out.fields[name];
    field.outer = extents[0], field.inner = extents[3];
    field.values.resize(
        static_cast<std::size_t>(tile.empty() ? 0 : field.outer * tile.cells() * field.inner));
    together(comm, [&, &name = name] {
      file->read("fields/" + name, tile_of_field(field.outer, field.inner, tile), field.values);
    });
  }
  return out;
}

Checkpoint read_checkpoint_header(const Communicator& comm, const std::string& path, std::string* digest) {
  json fields;
  return read_shared_part(comm, path, digest, fields, {});
}

} // namespace pluvia
