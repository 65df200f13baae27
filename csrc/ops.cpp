// The operators' schemas. Their checks and autograd are in csrc/<operator>.cpp, their kernels in csrc/<device>/.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include <string>
#include <string_view>

namespace hyperloader {
namespace {

// One paragraph per operator, the text that hyperloader/ops/_schema.py reads. It is compiled in: a program that loads
// the extension from C++ has no package.
constexpr std::string_view kSchemas =
#include "../hyperloader/ops/schemas.inc"
    ;

// Calls function(schema) for every paragraph, in one line.
template <typename Function>
void each_schema(const Function& function) {
  std::string schema;
  for (size_t begin = 0; begin < kSchemas.size();) {
    const size_t end = std::min(kSchemas.find('\n', begin), kSchemas.size());
    const std::string_view line = kSchemas.substr(begin, end - begin);
    if (!line.empty()) schema.append(schema.empty() ? "" : " ").append(line);
    begin = end + 1;
    if ((line.empty() || begin >= kSchemas.size()) && !schema.empty()) {
      function(schema);
      schema.clear();
    }
  }
}

}  // namespace

TORCH_LIBRARY(hyperloader, m) {
  each_schema([&](const std::string& schema) { m.def(schema.c_str(), {at::Tag::pt2_compliant_tag}); });
}

// Differentiable once: a second derivative raises instead of being silently zero.
TORCH_LIBRARY_IMPL(hyperloader, Autograd, m) {
  each_schema([&](const std::string& schema) {
    const std::string name = schema.substr(0, schema.find('('));
    if (name.find("_backward") == std::string::npos) return;
    m.impl(name.c_str(), torch::autograd::autogradNotImplementedFallback());
  });
}

}  // namespace hyperloader
