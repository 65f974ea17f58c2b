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
 *     gpu0.field138=4096            a field of nvmlDeviceGetFieldValues; gpu0.field165.3 of scope 3
 *     gpu0.gpm5=250                 a profile metric: what the GPU has counted up to now ...
 *     gpu0.gpm_clock=10             ... at this time; a metric is the increase over the time between
 *     gpu0.gpm_clock=real           the clock of this machine; gpm5 then is the increase a second
 *     gpu0.mig0=MIG-1111            the UUID of a MIG instance; places without a line are empty
 *     gpu0.events=8                 kinds of events that the GPU tells
 *     event1=0 79                   the first event of all: an XID 79 of GPU 0
 *     past_events=1                 also events that were there before somebody waited are told
 *     wait=unknown                  waiting for events fails
 *
 * Profile samples and events are in nvml_stub_samples.c. To add a getter: one line with NUMBER or BIG for
 * an integer of 32 or 64 bits; getters that fill a struct are functions of their own.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nvml_stub.h"

enum { MOST_INSTANCES = 7 };

static const struct { const char *name; Return code; } ERRORS[] = {
    {"uninitialized", UNINITIALIZED},
    {"not_supported", NOT_SUPPORTED},
    {"no_permission", 4},
    {"not_found", 6},
    {"insufficient_power", 8},
    {"driver_not_loaded", 9},
    {"function_not_found", 13},
    {"lost", GPU_IS_LOST},
    {"reset_required", 16},
    {"lib_rm_version_mismatch", 18},
    {"unknown", 999},
};

Device devices[GENERATIONS][MAX_GPUS]; /* a handle of an earlier init is never valid again */
unsigned generation;
static unsigned references;
static char epoch[LINE];

/* The text after "key=", or an empty string; 1 if there is such a line. */
int lookup(const char *key, char *value) {
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

Return error_named(const char *value) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (strcmp(ERRORS[i].name, value) == 0) return ERRORS[i].code;
    return SUCCESS;
}

Return check_library(void) {
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

static int is_gpu(const Device *device) {
    return device >= devices[generation] && device < devices[generation] + MAX_GPUS;
}

Return check_device(Device *device) {
    char key[LINE], value[LINE];
    Return code = check_library();
    if (code) return code;
    if (!is_gpu(device)) return INVALID_ARGUMENT;
    wait_while_hung();
    snprintf(key, sizeof key, "gpu%u.fault", device->index);
    lookup(key, value);
    code = error_named(value);
    if (code == GPU_IS_LOST) device->lost = 1;
    return device->lost ? GPU_IS_LOST : code;
}

/* The text of one field of a GPU, or the error that its line names. */
Return field(Device *device, const char *name, char *value) {
    char key[LINE];
    Return code = check_device(device);
    if (code) return code;
    snprintf(key, sizeof key, "gpu%u.%s", device->index, name);
    return lookup(key, value) ? error_named(value) : NOT_SUPPORTED;
}

Return number(Device *device, const char *name, unsigned long long *out) {
    char value[LINE];
    Return code = field(device, name, value);
    if (code == SUCCESS) *out = strtoull(value, NULL, 10);
    return code;
}

Return small(Device *device, const char *name, unsigned *out) {
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
        for (unsigned i = 0; i < MAX_GPUS; i++) devices[generation][i] = (Device){i, 0, 0, -1};
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
static Device instances[MAX_GPUS][MOST_INSTANCES];

static int is_instance(const Device *device) {
    return device >= &instances[0][0] && device < &instances[MAX_GPUS - 1][MOST_INSTANCES];
}

/* The text of a GPU, or of an instance: mig0 is its UUID, and its name that of the GPU with a profile. */
static Return described(Device *device, const char *key, char *out, unsigned size) {
    char value[LINE], place[LINE];
    Device *gpu = is_instance(device) ? &devices[generation][device->index] : device;
    snprintf(place, sizeof place, "mig%d", device->instance);
    Return code = field(gpu, is_instance(device) && strcmp(key, "uuid") == 0 ? place : key, value);
    if (code == SUCCESS)
        snprintf(out, size, "%s%s", value, is_instance(device) && strcmp(key, "name") == 0 ? " MIG 1g.10gb" : "");
    return code;
}

Return nvmlDeviceGetUUID(Device *device, char *out, unsigned size) {
    return described(device, "uuid", out, size);
}

Return nvmlDeviceGetName(Device *device, char *out, unsigned size) {
    return described(device, "name", out, size);
}

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

#define BIG(function, key) \
    Return function(Device *device, unsigned long long *out) { return number(device, key, out); }

BIG(nvmlDeviceGetTotalEnergyConsumption, "energy") /* millijoules */
BIG(nvmlDeviceGetCurrentClocksEventReasons, "event_reasons")
BIG(nvmlDeviceGetCurrentClocksThrottleReasons, "throttle_reasons")
NUMBER(nvmlDeviceGetPcieReplayCounter, "pcie_replays")

Return nvmlDeviceGetClockInfo(Device *device, unsigned type, unsigned *out) { /* megahertz */
    static const char *const NAMES[] = {"clock_graphics", "clock_sm", "clock_memory", "clock_video"};
    return type < 4 ? small(device, NAMES[type], out) : INVALID_ARGUMENT;
}

Return nvmlDeviceGetMaxClockInfo(Device *device, unsigned type, unsigned *out) { /* megahertz */
    return type == 1 ? small(device, "clock_sm_max", out) : INVALID_ARGUMENT;
}

Return nvmlDeviceGetTotalEccErrors(Device *device, unsigned kind, unsigned counter, unsigned long long *out) {
    static const char *const NAMES[2][2] = {{"ecc_corrected", "ecc_corrected_lifetime"},
                                            {"ecc_uncorrected", "ecc_uncorrected_lifetime"}};
    return kind < 2 && counter < 2 ? number(device, NAMES[kind][counter], out) : INVALID_ARGUMENT;
}

Return nvmlDeviceGetRemappedRows(Device *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                                 unsigned *failed) {
    Return code = small(device, "rows_corrected", corrected);
    if (code == SUCCESS) code = small(device, "rows_uncorrected", uncorrected);
    if (code == SUCCESS) code = small(device, "rows_pending", pending);
    return code ? code : small(device, "rows_failed", failed);
}

typedef struct {
    uint32_t id, scope;
    int64_t timestamp, latency;
    unsigned type;
    Return code;
    union { double number; unsigned small; unsigned long long big; } value;
} FieldValue;

enum { TYPE_DOUBLE = 0, TYPE_UNSIGNED_INT = 1, TYPE_UNSIGNED_LONG_LONG = 3 };

/* The type follows from the text: 1.5 is a double, 5u an unsigned int, all else an unsigned long long. */
static void give(FieldValue *out, const char *value) {
    out->type = strchr(value, '.')   ? TYPE_DOUBLE
                : strchr(value, 'u') ? TYPE_UNSIGNED_INT
                                     : TYPE_UNSIGNED_LONG_LONG;
    memset(&out->value, 0xA5, sizeof out->value); /* whoever reads the wrong member gets nonsense */
    if (out->type == TYPE_DOUBLE) out->value.number = strtod(value, NULL);
    else if (out->type == TYPE_UNSIGNED_INT) out->value.small = (unsigned)strtoul(value, NULL, 10);
    else out->value.big = strtoull(value, NULL, 10);
}

Return nvmlDeviceGetFieldValues(Device *device, int count, FieldValue *values) {
    char key[64], value[LINE];
    Return code = field(device, "fields", value); /* a line fails the whole call */
    if (code != NOT_SUPPORTED) return code;
    for (FieldValue *out = values; out < values + count; out++) {
        if (out->scope) snprintf(key, sizeof key, "field%u.%u", out->id, out->scope);
        else snprintf(key, sizeof key, "field%u", out->id);
        out->code = field(device, key, value);
        if (out->code == SUCCESS) give(out, value);
    }
    return SUCCESS;
}

/* MIG */

Return nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    *pending = 0;
    return small(device, "mig", current);
}

Return nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *out) {
    *out = MOST_INSTANCES;
    return check_device(device);
}

Return nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned place, Device **out) {
    char key[LINE], value[LINE];
    Return code = check_device(device);
    if (code) return code;
    if (place >= MOST_INSTANCES) return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "mig%u", place);
    if (field(device, key, value)) return NOT_FOUND;
    *out = &instances[device->index][place];
    **out = (Device){device->index, 0, 0, (int)place};
    return SUCCESS;
}
