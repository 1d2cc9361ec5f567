// Runs a program of any signature on inputs made up here: what a study of programs needs, and no app.
#include <executorch/runtime/core/exec_aten/util/dim_order_util.h>
#include <executorch/runtime/core/exec_aten/util/scalar_type_util.h>
#include <executorch/runtime/executor/method.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "call.h"
#include "shim.h"

namespace {

using executorch::aten::DimOrderType;
using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::aten::StridesType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::Method;
using executorch::runtime::Tag;
using executorch::runtime::TensorInfo;

// Larger inputs are not worth a study's time.
constexpr size_t kInputBytesMax = size_t{64} << 20;

// One element in eight bytes, little-endian: small numbers of both signs, indices below three.
uint64_t element(ScalarType type, size_t position) {
  const int64_t small = static_cast<int64_t>(position % 3);
  const double number = static_cast<double>(position % 7) * 0.5 - 1.0;
  uint64_t bits = 0;
  const float single = static_cast<float>(number);
  switch (type) {
    case ScalarType::Float:
      std::memcpy(&bits, &single, sizeof single);
      return bits;
    case ScalarType::Double:
      std::memcpy(&bits, &number, sizeof number);
      return bits;
    case ScalarType::Half: {
      static constexpr uint16_t halves[3] = {0x3800, 0x3c00, 0xbc00};
      return halves[small];
    }
    case ScalarType::BFloat16: {
      static constexpr uint16_t halves[3] = {0x3f00, 0x3f80, 0xbf80};
      return halves[small];
    }
    case ScalarType::Bool:
      return position % 2;
    default:
      return static_cast<uint64_t>(small);
  }
}

// A tensor of a declared shape over memory of exactly its size.
struct Input {
  std::vector<SizesType> sizes;
  std::vector<DimOrderType> order;
  std::vector<StridesType> strides;
  std::unique_ptr<uint8_t[]> memory;
  std::unique_ptr<TensorImpl> tensor;

  Error make(const TensorInfo& info) {
    if (info.nbytes() > kInputBytesMax) return Error::NotSupported;
    sizes.assign(info.sizes().begin(), info.sizes().end());
    order.assign(info.dim_order().begin(), info.dim_order().end());
    strides.resize(sizes.size());
    if (!sizes.empty()) {
      const Error error = executorch::runtime::dim_order_to_stride(sizes.data(), order.data(), sizes.size(), strides.data());
      if (error != Error::Ok) return error;
    }
    memory.reset(new uint8_t[info.nbytes()]);
    const size_t width = executorch::runtime::elementSize(info.scalar_type());
    for (size_t at = 0, position = 0; width > 0 && at + width <= info.nbytes(); at += width, position++) {
      const uint64_t bits = element(info.scalar_type(), position);
      std::memcpy(memory.get() + at, &bits, std::min(width, sizeof bits));
    }
    tensor = std::make_unique<TensorImpl>(info.scalar_type(), static_cast<ssize_t>(sizes.size()), sizes.data(),
                                          memory.get(), order.data(), strides.data());
    return Error::Ok;
  }
};

// What comes out, up to a capacity; the length that it has goes on beyond it.
struct Output {
  uint8_t* bytes;
  size_t capacity, length = 0;

  void add(const void* from, size_t count) {
    if (length < capacity && count > 0) std::memcpy(bytes + length, from, std::min(count, capacity - length));
    length += count;
  }

  void add(const EValue& value) {
    const uint32_t tag = static_cast<uint32_t>(value.tag);
    add(&tag, sizeof tag);
    if (value.isTensor()) {
      const Tensor& tensor = value.toTensor();
      const int32_t type = static_cast<int32_t>(tensor.scalar_type());
      add(&type, sizeof type);
      add(tensor.sizes().data(), tensor.sizes().size() * sizeof(SizesType));
      if (tensor.const_data_ptr() != nullptr) add(tensor.const_data_ptr(), tensor.nbytes());
    } else if (value.isInt()) {
      const int64_t number = value.toInt();
      add(&number, sizeof number);
    } else if (value.isDouble()) {
      const double number = value.toDouble();
      add(&number, sizeof number);
    } else if (value.isBool()) {
      const bool truth = value.toBool();
      add(&truth, sizeof truth);
    }
  }
};

}  // namespace

Error engine_call_method(Method& method, uint8_t* bytes, size_t* count) {
  const auto meta = method.method_meta();
  std::vector<Input> inputs(meta.num_inputs());
  for (size_t i = 0; i < inputs.size(); i++) {
    const auto tag = meta.input_tag(i);
    if (!tag.ok()) return tag.error();
    EValue value;
    if (*tag == Tag::Tensor) {
      const auto info = meta.input_tensor_meta(i);
      if (!info.ok()) return info.error();
      const Error error = inputs[i].make(*info);
      if (error != Error::Ok) return error;
      value = EValue(Tensor(inputs[i].tensor.get()));
    } else if (*tag == Tag::Int) {
      value = EValue(int64_t{2});
    } else if (*tag == Tag::Double) {
      value = EValue(1.5);
    } else if (*tag == Tag::Bool) {
      value = EValue(true);
    } else {
      return Error::NotSupported;
    }
    const Error error = method.set_input(value, i);
    if (error != Error::Ok) return error;
  }
  const Error error = method.execute();
  if (error != Error::Ok) return error;
  Output output{bytes, *count};
  for (size_t i = 0; i < method.outputs_size(); i++) output.add(method.get_output(i));
  *count = output.length;
  return Error::Ok;
}
