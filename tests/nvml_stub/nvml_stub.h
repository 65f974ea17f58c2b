/* What the parts of the stand-in share; nvml_stub.c says what it is. */

#ifndef NVML_STUB_H
#define NVML_STUB_H

/* Not seen outside the library: these names are everybody's. */
#define INTERNAL __attribute__((visibility("hidden")))

typedef unsigned int Return;
typedef struct Device { unsigned index; int lost; unsigned long long watched; int instance; } Device;

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10 };
enum { INSUFFICIENT_RESOURCES = 23, GPU_IS_LOST = 15 };
enum { MAX_GPUS = 64, GENERATIONS = 16, LINE = 256 };

INTERNAL extern Device devices[GENERATIONS][MAX_GPUS];
INTERNAL extern unsigned generation;

INTERNAL int lookup(const char *key, char *value);
INTERNAL Return error_named(const char *value);
INTERNAL Return check_library(void);
INTERNAL Return check_device(Device *device);
INTERNAL Return field(Device *device, const char *name, char *value);
INTERNAL Return number(Device *device, const char *name, unsigned long long *out);
INTERNAL Return small(Device *device, const char *name, unsigned *out);

#endif
