// Kernels that were compiled at run time: registered by key, launched on the stream that torch works on.
//
// The driver is opened when it is first needed, so that nothing here asks for CUDA to be installed. Kernels may also be
// a library of C++ functions, which run on tensors of the CPU: that is how they are tested without a GPU.

#pragma once

#include <ATen/ATen.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace {

struct Driver {
  int (*current)(void**) = nullptr;
  int (*retain)(void**, int) = nullptr;
  int (*make_current)(void*) = nullptr;
  int (*load)(void**, const void*) = nullptr;
  int (*function)(void**, void*, const char*) = nullptr;
  int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                void**) = nullptr;
  int (*describe)(int, const char**) = nullptr;
  int (*device)(int*, int) = nullptr;
  int (*attribute)(int*, int, int) = nullptr;

  Driver() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    TORCH_CHECK(library != nullptr, "halberd: libcuda.so.1 cannot be opened: ", dlerror());
    find(library, "cuCtxGetCurrent", current);
    find(library, "cuDevicePrimaryCtxRetain", retain);
    find(library, "cuCtxSetCurrent", make_current);
    find(library, "cuModuleLoadData", load);
    find(library, "cuModuleGetFunction", function);
    find(library, "cuLaunchKernel", launch);
    find(library, "cuGetErrorString", describe);
    find(library, "cuDeviceGet", device);
    find(library, "cuDeviceGetAttribute", attribute);
  }

  template <typename F>
  static void find(void* library, const char* name, F& into) {
    into = reinterpret_cast<F>(dlsym(library, name));
    TORCH_CHECK(into != nullptr, "halberd: the CUDA driver has no ", name);
  }

  void check(int code, const char* doing) const {
    if (code == 0) return;
    const char* text = nullptr;
    describe(code, &text);
    TORCH_CHECK(false, "halberd: ", doing, " failed: ", text ? text : "unknown error");
  }

  // Major and minor number of what a device understands, as in names of architectures.
  std::string capability(int index) const {
    constexpr int MAJOR = 75, MINOR = 76;
    int found = 0, major = 0, minor = 0;
    check(device(&found, index), "looking for a GPU");
    check(attribute(&major, MAJOR, found), "asking a GPU for its kind");
    check(attribute(&minor, MINOR, found), "asking a GPU for its kind");
    return std::to_string(major) + std::to_string(minor);
  }
};

const Driver& driver() {
  static const Driver found;
  return found;
}

struct Kernels {
  std::vector<char> image;                                          // what the driver loads
  void* library = nullptr;                                          // or C++ functions
  std::map<void*, void*> modules;                                   // by context
  std::map<std::pair<void*, std::string>, void*> functions;         // by context and name
};

struct Registry {
  std::mutex lock;
  std::map<std::string, Kernels> kernels;
  // Where other processes left theirs: a folder, and how names of files end after the kind of GPU.
  std::string folder, ending;
};

Registry& registry() {
  static Registry all;
  return all;
}

// Kernels of a source in the precision of a tensor.
std::string in_precision(const std::string& key, const at::Tensor& like) {
  return key + (like.scalar_type() == at::kDouble ? "-double" : "-float");
}

// Whether a call is for kernels: where its tensors are on a GPU, or kernels of that key are to be tested.
bool on_kernels(const std::string& key, const at::Tensor& like) {
  if (like.is_cuda()) return true;
  if (key.empty()) return false;
  const std::lock_guard<std::mutex> guard(registry().lock);
  const auto found = registry().kernels.find(in_precision(key, like));
  return found != registry().kernels.end() && found->second.library != nullptr;
}

void register_image(const std::string& key, const at::Tensor& image) {
  const at::Tensor bytes = image.contiguous();
  const char* begin = reinterpret_cast<const char*>(bytes.data_ptr<uint8_t>());
  const std::lock_guard<std::mutex> guard(registry().lock);
  registry().kernels[key].image.assign(begin, begin + bytes.numel());
}

void look_for_kernels(const std::string& folder, const std::string& ending) {
  const std::lock_guard<std::mutex> guard(registry().lock);
  registry().folder = folder;
  registry().ending = ending;
}

void register_library(const std::string& key, const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  TORCH_CHECK(library != nullptr, "halberd: ", dlerror());
  const std::lock_guard<std::mutex> guard(registry().lock);
  registry().kernels[key].library = library;
}

// One program's kernels, ready to be launched where a tensor is.
class Program {
 public:
  Program(const std::string& key, const at::Tensor& like) : device_(like.device()) {
    const std::lock_guard<std::mutex> guard(registry().lock);
    auto found = registry().kernels.find(in_precision(key, like));
    if (found == registry().kernels.end() && device_.is_cuda()) found = from_cache(in_precision(key, like));
    TORCH_CHECK(found != registry().kernels.end(),
                "halberd: the CUDA kernels of a model are not there; load it with halberd.potentials.load on this machine");
    kernels_ = &found->second;
    if (!device_.is_cuda()) {
      TORCH_CHECK(kernels_->library != nullptr, "halberd: CUDA kernels were given tensors of a CPU");
      return;
    }
    const Driver& d = driver();
    d.check(d.current(&context_), "looking for the CUDA context");
    if (context_ == nullptr) {
      d.check(d.retain(&context_, device_.index()), "retaining the CUDA context");
      d.check(d.make_current(context_), "setting the CUDA context");
    }
    stream_ = c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getStream(device_).native_handle();
  }

  // Threads that can exchange numbers.
  int warp() const { return device_.is_cuda() ? 32 : 1; }

  // Run a kernel on columns x rows blocks; arguments by their addresses, of the types that it has.
  template <typename... A>
  void launch(const std::string& name, int64_t columns, int64_t rows, int threads, A... arguments) const {
    if (columns == 0 || rows == 0) return;
    void* given[] = {static_cast<void*>(&arguments)...};
    if (device_.is_cuda()) {
      driver().check(driver().launch(function(name), unsigned(columns), unsigned(rows), 1, unsigned(threads), 1, 1, 0,
                                     stream_, given, nullptr),
                     "launching a CUDA kernel");
      return;
    }
    using Emulated = void (*)(int, int, int, void**);
    const auto emulated = reinterpret_cast<Emulated>(dlsym(kernels_->library, ("emulated_" + name).c_str()));
    TORCH_CHECK(emulated != nullptr, "halberd: no kernel ", name);
    emulated(int(columns), int(rows), threads, given);
  }

 private:
  c10::Device device_;
  Kernels* kernels_;
  void *context_ = nullptr, *stream_ = nullptr;

  // Kernels that another process compiled, of a System that was read from XML, say.
  std::map<std::string, Kernels>::iterator from_cache(const std::string& name) const {
    Registry& all = registry();
    const std::string kind = driver().capability(device_.index());
    std::ifstream file(all.folder + "/" + name + "-" + kind + all.ending, std::ios::binary);
    if (all.folder.empty() || !file) return all.kernels.end();
    all.kernels[name].image.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    return all.kernels.find(name);
  }

  void* function(const std::string& name) const {
    const std::lock_guard<std::mutex> guard(registry().lock);
    void*& found = kernels_->functions[{context_, name}];
    if (found == nullptr) {
      void*& module = kernels_->modules[context_];
      if (module == nullptr) driver().check(driver().load(&module, kernels_->image.data()), "loading CUDA kernels");
      driver().check(driver().function(&found, module, name.c_str()), "finding a CUDA kernel");
    }
    return found;
  }
};

}  // namespace
