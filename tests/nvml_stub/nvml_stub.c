/* A stand-in for libnvidia-ml.so.1, whose GPUs are lines of a text file.
 *
 * The file is named by the environment variable NVML_STUB and read again at every call, so that a
 * test can change it while the library is in use (replace it by a rename, never write into it):
 *
 *     count=2                       GPUs on the node
 *     driver=555.42.02              version of the driver
 *     gpu0.temperature=41           a field; one that has no line is not supported
 *     gpu0.power=no_permission      a field that fails, by the name of the error
 *     gpu1.fault=lost               every call about this GPU fails; lost sticks until the next init
 *     init=driver_not_loaded        nvmlInit fails
 *     epoch=2                       another number than at init: the driver was reloaded since
 *     hang=1                        every call about a GPU waits until this line is gone
 *
 * To add a getter: one line in the tables at the end, NUMBER for one integer, TEXT for a string;
 * getters that fill a struct are functions of their own below them.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned int Return;
typedef struct { unsigned index; int lost; } Device;

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, GPU_IS_LOST = 15 };
enum { MAX_GPUS = 64, GENERATIONS = 16, LINE = 256 };

static const struct { const char *name; Return code; } ERRORS[] = {
    {"uninitialized", UNINITIALIZED},
    {"not_supported", NOT_SUPPORTED},
    {"no_permission", 4},
    {"insufficient_power", 8},
    {"driver_not_loaded", 9},
    {"function_not_found", 13},
    {"lost", GPU_IS_LOST},
    {"reset_required", 16},
    {"lib_rm_version_mismatch", 18},
    {"unknown", 999},
};

static Device devices[GENERATIONS][MAX_GPUS]; /* a handle of an earlier init is never valid again */
static unsigned generation;
static unsigned references;
static char epoch[LINE];

/* The text after "key=", or an empty string; 1 if there is such a line. */
static int lookup(const char *key, char *value) {
    const char *path = getenv("NVML_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[LINE];
    size_t length = strlen(key);
    int found = 0;
    value[0] = '\0';
    while (file && !found && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            line[strcspn(line, "\n")] = '\0';
            strcpy(value, line + length + 1);
            found = 1;
        }
    }
    if (file) fclose(file);
    return found;
}

static Return error_named(const char *value) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (strcmp(ERRORS[i].name, value) == 0) return ERRORS[i].code;
    return SUCCESS;
}

static Return check_library(void) {
    char now[LINE];
    lookup("epoch", now);
    if (references && strcmp(now, epoch) != 0) references = 0;
    return references ? SUCCESS : UNINITIALIZED;
}

static void wait_while_hung(void) {
    char value[LINE];
    const struct timespec pause = {0, 10 * 1000 * 1000};
    while (lookup("hang", value)) nanosleep(&pause, NULL);
}

static Return check_device(Device *device) {
    char key[LINE], value[LINE];
    Return code = check_library();
    if (code) return code;
    if (device < devices[generation] || device >= devices[generation] + MAX_GPUS) return INVALID_ARGUMENT;
    wait_while_hung();
    snprintf(key, sizeof key, "gpu%u.fault", device->index);
    lookup(key, value);
    code = error_named(value);
    if (code == GPU_IS_LOST) device->lost = 1;
    return device->lost ? GPU_IS_LOST : code;
}

/* The text of one field of a GPU, or the error that its line names. */
static Return field(Device *device, const char *name, char *value) {
    char key[LINE];
    Return code = check_device(device);
    if (code) return code;
    snprintf(key, sizeof key, "gpu%u.%s", device->index, name);
    return lookup(key, value) ? error_named(value) : NOT_SUPPORTED;
}

static Return number(Device *device, const char *name, unsigned long long *out) {
    char value[LINE];
    Return code = field(device, name, value);
    if (code == SUCCESS) *out = strtoull(value, NULL, 10);
    return code;
}

static Return small(Device *device, const char *name, unsigned *out) {
    unsigned long long value;
    Return code = number(device, name, &value);
    if (code == SUCCESS) *out = (unsigned)value;
    return code;
}

Return nvmlInitWithFlags(unsigned flags) {
    char value[LINE];
    (void)flags;
    lookup("init", value);
    if (error_named(value)) return error_named(value);
    check_library(); /* a reload ends what was open before */
    if (references++ == 0) {
        generation = (generation + 1) % GENERATIONS;
        for (unsigned i = 0; i < MAX_GPUS; i++) devices[generation][i] = (Device){i, 0};
        lookup("epoch", epoch);
    }
    return SUCCESS;
}

Return nvmlShutdown(void) {
    Return code = check_library();
    if (code == SUCCESS) references--;
    return code;
}

const char *nvmlErrorString(Return code) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) return ERRORS[i].name;
    return "other";
}

Return nvmlSystemGetDriverVersion(char *out, unsigned size) {
    char value[LINE];
    Return code = check_library();
    lookup("driver", value);
    if (code == SUCCESS) snprintf(out, size, "%s", value);
    return code;
}

Return nvmlDeviceGetCount_v2(unsigned *out) {
    char value[LINE];
    Return code = check_library();
    lookup("count", value);
    *out = (unsigned)strtoul(value, NULL, 10);
    return code;
}

Return nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **out) {
    if (index >= MAX_GPUS) return INVALID_ARGUMENT;
    *out = &devices[generation][index];
    return check_device(*out);
}

#define NUMBER(function, key) \
    Return function(Device *device, unsigned *out) { return small(device, key, out); }
#define TEXT(function, key) \
    Return function(Device *device, char *out, unsigned size) { \
        char value[LINE]; \
        Return code = field(device, key, value); \
        if (code == SUCCESS) snprintf(out, size, "%s", value); \
        return code; \
    }

TEXT(nvmlDeviceGetUUID, "uuid")
TEXT(nvmlDeviceGetName, "name")
NUMBER(nvmlDeviceGetPowerUsage, "power")                /* milliwatts */
NUMBER(nvmlDeviceGetEnforcedPowerLimit, "power_limit")  /* milliwatts */

Return nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *out) {
    return sensor == 0 ? small(device, "temperature", out) : INVALID_ARGUMENT; /* degrees Celsius */
}

typedef struct { unsigned gpu, memory; } Utilization;

Return nvmlDeviceGetUtilizationRates(Device *device, Utilization *out) {
    out->memory = 0;
    return small(device, "utilization", &out->gpu); /* percent */
}

/* As in the driver: the first version counts the driver's own reserve as used, the second does not. */
static Return memory(Device *device, unsigned long long *total, unsigned long long *reserved,
                     unsigned long long *used) {
    Return code = number(device, "memory_total", total);
    if (code == SUCCESS) code = number(device, "memory_used", used);
    if (code == SUCCESS && number(device, "memory_reserved", reserved)) *reserved = 0;
    return code;
}

typedef struct { unsigned long long total, free, used; } Memory;

Return nvmlDeviceGetMemoryInfo(Device *device, Memory *out) {
    unsigned long long reserved = 0;
    Return code = memory(device, &out->total, &reserved, &out->used);
    out->used += reserved;
    out->free = out->total - out->used;
    return code;
}

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;

Return nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *out) {
    char value[LINE];
    if (lookup("memory_v2", value) && error_named(value)) return error_named(value);
    Return code = memory(device, &out->total, &out->reserved, &out->used);
    out->free = out->total - out->reserved - out->used;
    return code;
}
