// The C interface between the Rust crate and the ExecuTorch runtime. src/ffi.rs mirrors it by hand.
//
// Every function that returns uint32_t returns a runtime error code (0 is success), leaves the reason in the
// calling thread's log (engine_log), never throws and never prints.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct EngineModel;

// A load-time option of a backend.
struct EngineOption {
  const char* backend;
  const char* key;
  int32_t kind;  // 0 bool, 1 int, 2 text
  int64_t number;
  const char* text;
};

enum { ENGINE_RANK_MAX = 8 };

// Type and upper-bound shape of a method's input or output; scalar_type is -1 for what is no tensor.
struct EngineTensorInfo {
  int32_t scalar_type;
  int32_t rank;
  int64_t sizes[ENGINE_RANK_MAX];
};

// A value that a metadata method returned.
struct EngineValue {
  int32_t kind;  // 0 int, 1 bool, 2 double
  int64_t integer;
  double real;
};

// Time spent under one name, of which some was spent in no other named event.
struct EngineEvent {
  const char* name;
  uint64_t calls;
  uint64_t nanoseconds;
};

// What is recorded while a model runs.
enum { ENGINE_RECORD_NOTHING = 0, ENGINE_RECORD_TIME = 1, ENGINE_RECORD_VALUES = 2 };

// A value that an instruction of `forward` computed, before the next one reads it: `data` may be changed in place.
// `argument` counts what the runtime logs of the instruction: all arguments of a delegate call, the outputs of a kernel.
typedef void (*EngineProbed)(void* context, uint32_t instruction, uint32_t argument, float* data, size_t count);

extern "C" {
// Starts the runtime, redirects its log and registers our kernels. Call once, before anything else.
uint32_t engine_init(void);

// Moves the calling thread's log into `text` (NUL-terminated) and clears it; returns its length.
size_t engine_log(char* text, size_t capacity);

// What is registered. Null past the end.
const char* engine_kernel_name(size_t index);
const char* engine_backend_name(size_t index);

uint32_t engine_threads(void);
uint32_t engine_performance_cores(void);
// Only while no model is loaded: delegates keep a pointer to the pool they were created with.
uint32_t engine_set_threads(uint32_t count);

// Which instruction set attention uses: 0 the widest that the processor has, 1 portable, 2 AVX2, 3 AVX-512 (NotSupported
// where the processor lacks it). Only while no model is loaded.
uint32_t engine_set_attention(int32_t variant);

// Loads a program and its `forward` method over memory that the caller keeps alive and unchanged until
// engine_free. `record` attaches an event tracer.
uint32_t engine_load(const void* data, size_t size, const EngineOption* options, size_t option_count,
                     int32_t record, EngineModel** model);
void engine_free(EngineModel* model);

// Names of methods. Null past the end.
const char* engine_method_name(const EngineModel* model, size_t index);
// Values of a metadata method: no inputs, no instructions. On entry *count is the capacity of `values`.
uint32_t engine_metadata(EngineModel* model, const char* method, EngineValue* values, size_t* count);
// Shapes of `forward`. On entry the counts are capacities, on return the true numbers.
uint32_t engine_signature(EngineModel* model, EngineTensorInfo* inputs, size_t* input_count,
                          EngineTensorInfo* outputs, size_t* output_count);

// Runs forward(tokens[1, count], position[1]). `logits` points into the model's own memory and is valid until
// the next call on this model.
uint32_t engine_forward(EngineModel* model, const int64_t* tokens, size_t count, int64_t position,
                        const float** logits, size_t* logit_count);

// Runs `forward`, whatever it takes and gives, on made-up inputs of its declared types. Writes its outputs, as far as
// `*count` bytes go; `*count` becomes their length.
uint32_t engine_call(EngineModel* model, uint8_t* bytes, size_t* count);
// Sets what is called for every fp32 value of a model loaded with ENGINE_RECORD_VALUES; null for nothing.
void engine_probe(EngineModel* model, EngineProbed probed, void* context);

// Largest resident set of this process so far, bytes, as getrusage tells it; 0 when it does not.
uint64_t engine_peak_rss_bytes(void);

// Recorded events of a model loaded with ENGINE_RECORD_TIME; reset clears them.
size_t engine_profile(const EngineModel* model, EngineEvent* events, size_t capacity);
void engine_profile_reset(EngineModel* model);

// Test hook: calls a registered operator on plain values, through the registry and its own validation.
enum {
  ENGINE_TEST_NONE = 0,
  ENGINE_TEST_INT = 1,
  ENGINE_TEST_BOOL = 2,
  ENGINE_TEST_DOUBLE = 3,
  ENGINE_TEST_TENSOR = 4,
  ENGINE_TEST_ARGUMENTS_MAX = 12,
};
struct EngineTestArgument {
  int32_t kind;
  int32_t scalar_type;  // of a tensor, as are rank, sizes and data; contiguous
  int32_t rank;
  int64_t sizes[ENGINE_RANK_MAX];
  void* data;
  int64_t integer;  // also a boolean
  double real;
};
// `variant` as for engine_set_attention, for this call on this thread alone.
uint32_t engine_test_call(const char* kernel, const EngineTestArgument* arguments, size_t count, int32_t variant);
}
