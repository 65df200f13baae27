// hyperloader._C: loading it registers the operators. Python can ask it how it was built.
#include <pybind11/pybind11.h>
#include <torch/version.h>

#include <string>

#include "cpu/loops/loops.h"
#include "lora_linear.h"

namespace py = pybind11;

namespace {

// hyperloader/ops/native.py looks for this text in the file, before loading it into another release of torch.
[[gnu::used]] constexpr char kBuiltAgainst[] = "hyperloader compiled against torch " TORCH_VERSION;

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

py::list instruction_sets() {
  py::list names;
  for (auto name = hyperloader::cpu::kInstructionSets; *name != nullptr; ++name) names.append(*name);
  return names;
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = compiler();
  info["flags"] = HYPERLOADER_FLAGS;
  info["cxx_standard"] = (__cplusplus / 100) % 100;  // 17, 20, ...
  info["torch"] = std::string(kBuiltAgainst).substr(std::string(kBuiltAgainst).rfind(' ') + 1);
  info["instruction_sets"] = instruction_sets();
  info["instruction_set"] = hyperloader::cpu::loops<float>().name;
  info["multiplies_bfloat16"] = hyperloader::cpu::multiplies_bfloat16();
#if defined(HYPERLOADER_CUDA)
  info["cuda"] = HYPERLOADER_CUDA;
#else
  info["cuda"] = py::none();
#endif
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("build_info", &build_info);
  m.def("lora_folds", &hyperloader::cpu::lora_folds);
}
