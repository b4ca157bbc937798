// c_array.hpp - a model as a C++ header, for firmware: its bytes as an array, its Config and its sizes.
// SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_C_ARRAY_HPP
#define SSM_TOOLS_C_ARRAY_HPP

namespace tool {

// Writes the header `to`, whose names begin like its own: model.h holds model[], model_bytes, model_config and so on.
// The exit status of `ssm convert MODEL --c-array model.h`; messages are out by then.
int write_c_array(const char* model, const char* to);

} // namespace tool
#endif
