// Names for messages, as binutils read them from the library.
#pragma once

#include <string>

namespace cuda_host {

std::string line_of(const void* code);      // the lines of the functions inlined there, innermost first
std::string function_of(const void* code);  // with its template's arguments

}  // namespace cuda_host
