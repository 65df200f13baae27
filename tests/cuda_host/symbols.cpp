#include "symbols.h"

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <memory>

namespace cuda_host {
namespace {

// What addr2line says of the code; empty where it is not installed.
std::string ask(const char* options, const void* code, int back) {
  Dl_info found{};
  if (dladdr(code, &found) == 0) return "";
  const auto offset = reinterpret_cast<uintptr_t>(code) - reinterpret_cast<uintptr_t>(found.dli_fbase) - back;
  char command[4096];
  snprintf(
      command, sizeof(command), "addr2line -C -s %s -e '%s' %#lx 2>/dev/null", options, found.dli_fname,
      static_cast<unsigned long>(offset));
  const std::unique_ptr<FILE, int (*)(FILE*)> output(popen(command, "r"), pclose);
  std::string text;
  for (int c; output != nullptr && (c = fgetc(output.get())) != EOF;) text += static_cast<char>(c);
  return text;
}

}  // namespace

std::string line_of(const void* code) {
  std::string found, lines = ask("-i", code, 1);  // before where the call returns to
  for (size_t begin = 0, end; (end = lines.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string line = lines.substr(begin, end - begin);
    found += (found.empty() ? "" : " in ") + line.substr(0, line.find(" (disc"));
  }
  return found;
}

std::string function_of(const void* code) {
  const std::string lines = ask("-f", code, 0);
  return lines.substr(0, lines.find('\n'));
}

}  // namespace cuda_host
