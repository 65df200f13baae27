// hyperloader._C: loading it registers the operators. To Python it tells how it was built.
#include <pybind11/pybind11.h>
#include <torch/version.h>

#include <string>

namespace py = pybind11;

namespace {

// hyperloader/ops/native.py looks for this text in the file, before loading it into another release of torch.
constexpr char kBuiltAgainst[] = "hyperloader compiled against torch " TORCH_VERSION;

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

// Those that every function may use; functions that are chosen at run time name theirs beside them.
py::list instruction_sets() {
  py::list names;
#if defined(__x86_64__)
  names.append("x86-64");
#elif defined(__aarch64__)
  names.append("aarch64");
#endif
#if defined(__AVX2__) && defined(__FMA__)
  names.append("avx2");
#endif
#if defined(__AVX512F__)
  names.append("avx512f");
#endif
  return names;
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = compiler();
  info["flags"] = HYPERLOADER_FLAGS;
  info["cxx_standard"] = (__cplusplus / 100) % 100;  // 17, 20, ...
  info["torch"] = std::string(kBuiltAgainst).substr(std::string(kBuiltAgainst).rfind(' ') + 1);
  info["instruction_sets"] = instruction_sets();
#if defined(HYPERLOADER_CUDA)
  info["cuda"] = HYPERLOADER_CUDA;
#else
  info["cuda"] = py::none();
#endif
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) { m.def("build_info", &build_info); }
