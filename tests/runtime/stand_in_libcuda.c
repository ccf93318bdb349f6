/* A CUDA driver on host memory, for pycuda and cuda-bindings on machines without a GPU: tests/runtime/test_pycuda_memory.py.

   Device memory is malloc. A queued copy is done immediately, or collected during stream capture. Functions that need a context
   fail without one, like the driver's. It counts contexts, buffers and graphs, so that tests detect leaks. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, NOT_FOUND = 500,
       CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
enum { INTEGRATED = 18, CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76, NON_BLOCKING = 1, THREAD_LOCAL = 1, MAX_DEPTH = 16,
       MAX_COPIES = 64, FREE_BYTES = 1 << 29 };

typedef struct { void *to; const void *from; size_t num_bytes; } Copy;
typedef struct { Copy copies[MAX_COPIES]; int num_copies; } Graph;

static __thread void *contexts[MAX_DEPTH];
static __thread int depth;
static int primary, references, buffers, graphs;
static Graph *capturing;

int stand_in_depth(void) { return depth; }
int stand_in_references(void) { return references; }
int stand_in_buffers(void) { return buffers; }
int stand_in_graphs(void) { return graphs; }
int stand_in_refuses_capture, stand_in_is_integrated;

static int made(void **where, size_t num_bytes) {
  if (!depth) return INVALID_CONTEXT;
  if (num_bytes > FREE_BYTES) return OUT_OF_MEMORY;
  *where = calloc(1, num_bytes ? num_bytes : 1);
  buffers++;
  return SUCCESS;
}

static int freed(void *where) {
  if (!depth) return INVALID_CONTEXT;
  free(where);
  buffers--;
  return SUCCESS;
}

static int copied(void *to, const void *from, size_t num_bytes) {
  if (!depth) return INVALID_CONTEXT;
  if (!capturing) memmove(to, from, num_bytes);
  else if (stand_in_refuses_capture) return CAPTURE_UNSUPPORTED;
  else capturing->copies[capturing->num_copies++] = (Copy){to, from, num_bytes};
  return SUCCESS;
}

int cuInit(unsigned flags) { return getenv("STAND_IN_NO_DEVICE") ? NO_DEVICE : SUCCESS; }
int cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cuGetErrorName(int error, const char **name) { *name = "CUDA_ERROR"; return SUCCESS; }
int cuGetErrorString(int error, const char **text) {
  *text = error == OUT_OF_MEMORY ? "out of memory" : error == NO_DEVICE ? "no CUDA-capable device is detected" : "error";
  return SUCCESS;
}
int cuDeviceGet(int *device, int number) { *device = number; return SUCCESS; }
int cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
int cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "Stand-in"); return SUCCESS; }
int cuDeviceComputeCapability(int *major, int *minor, int device) { *major = 8; *minor = 7; return SUCCESS; }
int cuDeviceTotalMem_v2(size_t *total, int device) { *total = FREE_BYTES; return SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == CAPABILITY_MAJOR ? 8 : attribute == CAPABILITY_MINOR ? 7
         : attribute == INTEGRATED && stand_in_is_integrated;
  return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &primary; references++; return SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int device) { references--; return SUCCESS; }
int cuCtxPushCurrent_v2(void *context) { contexts[depth++] = context; return SUCCESS; }
int cuCtxPopCurrent_v2(void **context) {
  if (!depth) return INVALID_CONTEXT;
  *context = contexts[--depth];
  return SUCCESS;
}
int cuCtxGetCurrent(void **context) { *context = depth ? contexts[depth - 1] : NULL; return SUCCESS; }

int cuMemAlloc_v2(void **address, size_t num_bytes) { return made(address, num_bytes); }
int cuMemFree_v2(void *address) { return freed(address); }
int cuMemHostAlloc(void **address, size_t num_bytes, unsigned flags) { return made(address, num_bytes); }
int cuMemFreeHost(void *address) { return freed(address); }
int cuMemHostGetDevicePointer_v2(void **address, void *host, unsigned flags) { *address = host; return SUCCESS; }
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t num_bytes, void *stream) { return copied(to, from, num_bytes); }
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t num_bytes, void *stream) { return copied(to, from, num_bytes); }

int cuStreamCreate(void **stream, unsigned flags) { return flags == NON_BLOCKING ? made(stream, 1) : INVALID_VALUE; }
int cuStreamDestroy_v2(void *stream) { return freed(stream); }
int cuStreamSynchronize(void *stream) { return capturing ? CAPTURE_UNSUPPORTED : SUCCESS; }
int cuEventCreate(void **event, unsigned flags) { return made(event, sizeof(double)); }
int cuEventDestroy_v2(void *event) { return freed(event); }
int cuEventRecord(double *event, void *stream) { static double now_ms; *event = now_ms += 2.5; return SUCCESS; }
int cuEventElapsedTime(float *ms, double *start, double *end) { *ms = (float)(*end - *start); return SUCCESS; }
int cuEventElapsedTime_v2(float *ms, double *start, double *end) { *ms = (float)(*end - *start); return SUCCESS; }

int cuStreamBeginCapture_v2(void *stream, int mode) {
  if (capturing) return CAPTURE_INVALIDATED;
  capturing = calloc(1, sizeof(Graph));
  graphs++;
  return mode == THREAD_LOCAL ? SUCCESS : INVALID_VALUE;
}
int cuStreamEndCapture(void *stream, Graph **graph) {
  if (!capturing) return CAPTURE_INVALIDATED;
  *graph = capturing;
  capturing = NULL;
  return SUCCESS;
}
int cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long flags) {
  *executable = memcpy(malloc(sizeof(Graph)), graph, sizeof(Graph));
  graphs++;
  return SUCCESS;
}
int cuGraphDestroy(Graph *graph) { free(graph); graphs--; return SUCCESS; }
int cuGraphExecDestroy(Graph *executable) { free(executable); graphs--; return SUCCESS; }
int cuGraphLaunch(Graph *executable, void *stream) {
  for (int i = 0; i < executable->num_copies; i++)
    copied(executable->copies[i].to, executable->copies[i].from, executable->copies[i].num_bytes);
  return SUCCESS;
}

/* cuda-bindings looks up every function by its name without a version. */
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
  char versioned[128];
  snprintf(versioned, sizeof versioned, "%s_v2", name);
  *function = dlsym(RTLD_DEFAULT, versioned);
  if (!*function) *function = dlsym(RTLD_DEFAULT, name);
  if (!strcmp(name, "cuGraphInstantiate")) *function = cuGraphInstantiateWithFlags;
  if (status) *status = *function ? 0 : 1;
  return *function ? SUCCESS : NOT_FOUND;
}
