// See engine_call in shim.h.
#pragma once

#include <executorch/runtime/core/error.h>

#include <stddef.h>
#include <stdint.h>

namespace executorch::runtime {
class Method;
}

// Runs the method on made-up inputs and writes its outputs, as far as `*count` bytes go; `*count` becomes their length.
executorch::runtime::Error engine_call_method(executorch::runtime::Method& method, uint8_t* bytes, size_t* count);
