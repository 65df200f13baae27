// Between PyTorch's dispatcher and our structs. PyTorch passes the arguments of an operator one by one, in the order of
// its schema. Here they are one struct per operator (<operator>.h), whose `flat()` is the only list of them.
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <torch/library.h>

#include <optional>
#include <string>
#include <tuple>

namespace hyperloader {

using at::Tensor;
using Optional = std::optional<Tensor>;

// How the dispatcher passes an argument: tensors and lists of numbers by reference, views and numbers by value.
template <typename T>
struct Passed {
  using type = T;
};
template <>
struct Passed<Tensor> {
  using type = const Tensor&;
};
template <>
struct Passed<Optional> {
  using type = const Optional&;
};
template <>
struct Passed<c10::List<bool>> {
  using type = const c10::List<bool>&;
};

template <typename... T>
std::tuple<typename Passed<T>::type...> in_order(const T&... arguments) {
  return {arguments...};
}

template <typename Arguments, typename Flat = decltype(std::declval<const Arguments&>().flat())>
struct Border;

template <typename Arguments, typename... Flat>
struct Border<Arguments, std::tuple<Flat...>> {
  using Result = typename Arguments::Result;

  template <Result (*kKernel)(const Arguments&)>
  static Result kernel(Flat... flat) {
    return kKernel(Arguments{flat...});
  }

  static Result call(const Arguments& arguments) {
    static const auto operation = c10::Dispatcher::singleton()
                                      .findSchemaOrThrow((std::string("hyperloader::") + Arguments::kName).c_str(), "")
                                      .template typed<Result(Flat...)>();
    return std::apply([](const Flat&... flat) { return operation.call(flat...); }, arguments.flat());
  }
};

// How many arguments the operator has.
template <typename Arguments>
constexpr size_t kCount = std::tuple_size_v<decltype(std::declval<const Arguments&>().flat())>;

// Calls the operator through the dispatcher.
template <typename Arguments>
typename Arguments::Result call(const Arguments& arguments) {
  return Border<Arguments>::call(arguments);
}

template <typename Result, typename Arguments>
Arguments arguments_of(Result (*)(const Arguments&));

// Registers `kKernel`, a function of an operator's arguments, for the dispatch key of `library`.
template <auto kKernel>
void implement(torch::Library& library) {
  using Arguments = decltype(arguments_of(kKernel));
  library.impl(Arguments::kName, &Border<Arguments>::template kernel<kKernel>);
}

}  // namespace hyperloader
