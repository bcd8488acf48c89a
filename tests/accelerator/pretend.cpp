// A device for tests: its memory is host memory, its operators are the CPU's, its rules are those of a GPU.
//
// Tensors of two devices do not meet in one operator, and each operation that makes the host wait for a GPU is counted
// by its name. Every operator without a kernel below runs on the CPU, on tensors that share the device's memory.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cmath>
#include <map>
#include <mutex>
#include <set>
#include <string>

namespace {

using c10::DataPtr, c10::Device, c10::DispatchKey, c10::DispatchKeySet, c10::IValue, c10::Storage;

constexpr auto KIND = c10::DeviceType::PrivateUse1;
const Device DEVICE(KIND, 0);

// ---- Waits of the host ----

std::mutex waits_mutex;
std::map<std::string, int64_t> waits;

void count(const std::string& name, int64_t times = 1) {
  std::lock_guard<std::mutex> lock(waits_mutex);
  waits[name] += times;
}

// Operators whose output size or result the host must know, as on CUDA.
const std::set<std::string> WAITING = {
    "aten::equal", "aten::masked_select", "aten::nonzero", "aten::bincount", "aten::_unique", "aten::_unique2",
    "aten::unique_dim", "aten::unique_consecutive", "aten::histc"};

bool is_mask(const IValue& index) {
  if (!index.isTensor() || !index.toTensor().defined()) return false;
  auto type = index.toTensor().scalar_type();
  return type == at::kBool || type == at::kByte;
}

void count_waits(const c10::FunctionSchema& schema, const std::vector<IValue>& arguments) {
  const auto& name = schema.name();
  if (WAITING.count(name)) count(name);
  if (name == "aten::multinomial") count(name, 2);  // two checks of the probabilities
  if (name == "aten::repeat_interleave" && arguments.back().isNone()) count(name);
  if (name == "aten::index_put_" || name == "aten::_index_put_impl_") {  // `index` calls `nonzero`
    for (const IValue& index : arguments[1].toListRef())
      if (is_mask(index)) count(name + " by a mask");
  }
  if (name == "aten::isin" && arguments[0].isTensor() && arguments[1].isTensor()) {
    auto elements = arguments[0].toTensor().numel(), tests = arguments[1].toTensor().numel();
    // Longer lists are sorted, and made unique first.
    if (elements && tests >= int64_t(10 * std::pow(double(elements), 0.145))) count(name, 2);
  }
}

// ---- Memory ----

// The memory of `storage` under another device; keeps it alive.
DataPtr shared(const Storage& storage, Device device) {
  auto* owner = new Storage(storage);
  return {storage.mutable_data(), owner, [](void* owner) { delete static_cast<Storage*>(owner); }, device};
}

struct Allocator final : c10::Allocator {
  DataPtr allocate(size_t bytes) override {
    auto memory = c10::GetDefaultCPUAllocator()->allocate(bytes);
    auto* data = memory.get();
    auto* owner = new DataPtr(std::move(memory));
    return {data, owner, [](void* owner) { delete static_cast<DataPtr*>(owner); }, DEVICE};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
} allocator;
REGISTER_ALLOCATOR(KIND, &allocator)

at::Tensor seen_from(const at::Tensor& tensor, Device device, DispatchKey key, c10::Allocator* grows_by) {
  Storage storage(
      Storage::use_byte_size_t(), tensor.storage().nbytes(), shared(tensor.storage(), device), grows_by, true);
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), DispatchKeySet(key), tensor.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return made;
}

at::Tensor on_host(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.device().type() != KIND) return tensor;
  return seen_from(tensor, at::kCPU, DispatchKey::CPU, c10::GetCPUAllocator());
}

at::Tensor on_device(const at::Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  TORCH_CHECK(tensor.layout() == at::kStrided, "the pretend device holds strided tensors only");
  return seen_from(tensor, DEVICE, DispatchKey::PrivateUse1, &allocator);
}

// A kernel wrote to `host`, which shares the memory of `original`, and may have resized it.
void adopt(const at::Tensor& original, const at::Tensor& host) {
  if (!original.defined() || original.device().type() != KIND) return;
  if (host.storage().data() != original.storage().data()) {
    original.storage().set_data_ptr_noswap(shared(host.storage(), DEVICE));
    original.storage().set_nbytes(host.storage().nbytes());
  }
  if (host.sizes() != original.sizes() || host.strides() != original.strides())
    original.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
}

// ---- Random numbers: a stream of the device, apart from the CPU's ----

struct Generator final : c10::GeneratorImpl {
  explicit Generator(at::Generator host) : c10::GeneratorImpl(DEVICE, DispatchKeySet(DispatchKey::PrivateUse1)), host(host) {}
  void set_current_seed(uint64_t seed) override { host.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { host.set_offset(offset); }
  uint64_t get_offset() const override { return host.get_offset(); }
  uint64_t current_seed() const override { return host.current_seed(); }
  uint64_t seed() override { return host.seed(); }
  void set_state(const c10::TensorImpl& state) override { host.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return host.unsafeGetGeneratorImpl()->get_state(); }
  Generator* clone_impl() const override { return new Generator(host.clone()); }
  at::Generator host;
};

at::Generator new_generator() { return at::make_generator<Generator>(at::detail::createCPUGenerator()); }

const at::Generator& default_generator() {
  static at::Generator generator = new_generator();
  return generator;
}

at::Generator host_generator(const IValue& given) {
  auto generator = given.isNone() ? default_generator() : given.toGenerator();
  TORCH_CHECK(
      generator.device().type() == KIND, "Expected a 'pretend' device type for generator but found '",
      generator.device(), "'");
  return static_cast<Generator*>(generator.unsafeGetGeneratorImpl())->host;
}

// ---- Operators ----

void check_device(const at::Tensor& tensor, const std::string& name) {
  // A number in a tensor of the CPU goes to the device as an argument of the kernel.
  TORCH_CHECK(
      !tensor.defined() || tensor.device().type() == KIND || tensor.dim() == 0,
      "Expected all tensors to be on the same device, but found ", tensor.device(), " beside ", DEVICE, " in ",
      name);
}

IValue argument_on_host(const IValue& given, const c10::Argument& argument, const c10::FunctionSchema& schema) {
  if (given.isTensor()) {
    check_device(given.toTensor(), schema.name());
    return on_host(given.toTensor());
  }
  if (given.isTensorList()) {
    std::vector<at::Tensor> tensors;
    for (const at::Tensor& tensor : given.toTensorList()) {
      check_device(tensor, schema.name());
      tensors.push_back(on_host(tensor));
    }
    return tensors;
  }
  if (given.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> tensors;
    for (std::optional<at::Tensor> tensor : given.toOptionalTensorList()) {
      if (tensor) check_device(*tensor, schema.name());
      tensors.push_back(tensor ? std::make_optional(on_host(*tensor)) : tensor);
    }
    return tensors;
  }
  if (given.isDevice()) return IValue(Device(at::kCPU));
  if (argument.type()->str() == "Generator?") return IValue(host_generator(given));
  return given;
}

bool writes(const c10::AliasInfo* alias) { return alias != nullptr && alias->isWrite(); }

void on_cpu(const c10::OperatorHandle& op, c10::Stack* stack) {
  const auto& schema = op.schema();
  const auto number = schema.arguments().size();
  std::vector<IValue> arguments(stack->end() - number, stack->end()), hosts;
  count_waits(schema, arguments);
  for (size_t i = 0; i < number; ++i) hosts.push_back(argument_on_host(arguments[i], schema.arguments()[i], schema));
  stack->erase(stack->end() - number, stack->end());
  stack->insert(stack->end(), hosts.begin(), hosts.end());
  op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
  for (size_t i = 0; i < number; ++i) {
    if (!writes(schema.arguments()[i].alias_info())) continue;
    if (arguments[i].isTensor()) {
      adopt(arguments[i].toTensor(), hosts[i].toTensor());
    } else if (arguments[i].isTensorList()) {
      auto originals = arguments[i].toTensorVector(), written = hosts[i].toTensorVector();
      for (size_t j = 0; j < originals.size(); ++j) adopt(originals[j], written[j]);
    }
  }
  const auto returned = schema.returns().size();
  for (size_t i = 0; i < returned; ++i) {
    IValue& value = (*stack)[stack->size() - returned + i];
    const auto* alias = schema.returns()[i].alias_info();
    TORCH_CHECK(!alias || writes(alias), "the pretend device has no kernel for the view ", schema.name());
    if (writes(alias)) {
      for (size_t j = 0; j < number; ++j) {
        const auto* other = schema.arguments()[j].alias_info();
        if (writes(other) && other->beforeSets() == alias->beforeSets()) value = arguments[j];
      }
    } else if (value.isTensor()) {
      value = on_device(value.toTensor());
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> tensors;
      for (const at::Tensor& tensor : value.toTensorList()) tensors.push_back(on_device(tensor));
      value = tensors;
    }
  }
}

at::Tensor empty(
    c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<Device>,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(
      size, &allocator, DispatchKeySet(DispatchKey::PrivateUse1), c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      size, stride, &allocator, DispatchKeySet(DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  // Copies within a device do not wait. Those from and to ordinary host memory do, whatever `non_blocking` says.
  if (to.device().type() != KIND) count("copy to the host");
  if (from.device().type() != KIND) count("copy to the device");
  on_host(to).copy_(on_host(from));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar local_scalar(const at::Tensor& tensor) {
  count("item");
  return on_host(tensor).item();
}

at::Tensor& set_storage(
    at::Tensor& tensor, Storage storage, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  auto* implementation = tensor.unsafeGetTensorImpl();
  implementation->set_storage_keep_dtype(std::move(storage));
  implementation->set_storage_offset(offset);
  stride.empty() ? implementation->set_sizes_contiguous(size)
                 : implementation->set_sizes_and_strides(size, stride);
  return tensor;
}

at::Tensor& set_whole_storage(at::Tensor& tensor, Storage storage) {
  int64_t items = storage.nbytes() / tensor.dtype().itemsize();
  return set_storage(tensor, std::move(storage), 0, {items}, {});
}

// PyTorch asks other devices than its own for convolutions under names of their own.
at::Tensor convolution(
    const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding,
    int64_t groups) {
  for (const at::Tensor& tensor : {input, weight, bias.value_or(at::Tensor())}) check_device(tensor, "aten::convolution");
  auto on_host_if_there = bias ? std::make_optional(on_host(*bias)) : bias;
  return on_device(at::convolution(
      on_host(input), on_host(weight), on_host_if_there, stride, padding, dilation, transposed, output_padding,
      groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& gradient, const at::Tensor& input, const at::Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding,
    int64_t groups, std::array<bool, 3> wanted) {
  auto [to_input, to_weight, to_bias] = at::convolution_backward(
      on_host(gradient), on_host(input), on_host(weight), at::IntArrayRef({weight.size(0)}), stride, padding, dilation,
      transposed, output_padding, groups, wanted);
  return {on_device(to_input), on_device(to_weight), on_device(to_bias)};
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>()); }
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", local_scalar);
  m.impl("set_.source_Storage", set_whole_storage);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
}

// ---- The device, for the rest of PyTorch ----

// One device with one stream, which is always done.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return KIND; }
  Device exchangeDevice(Device) const override { return DEVICE; }
  Device getDevice() const override { return DEVICE; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  c10::Stream getStream(Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return default_generator(); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return new_generator(); }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
};

TORCH_LIBRARY(pretend, m) {
  m.def("waits() -> Dict(str, int)", [] {
    std::lock_guard<std::mutex> lock(waits_mutex);
    c10::Dict<std::string, int64_t> found;
    for (const auto& [name, number] : waits) found.insert(name, number);
    waits.clear();
    return found;
  });
  m.def("seed(int seed) -> ()", [](int64_t seed) { at::Generator(default_generator()).set_current_seed(seed); });
  m.def("get_rng_state() -> Tensor", [] { return default_generator().get_state(); });
  m.def("set_rng_state(Tensor state) -> ()", [](const at::Tensor& state) { at::Generator(default_generator()).set_state(state); });
}

[[maybe_unused]] const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  return true;
}();

}  // namespace
