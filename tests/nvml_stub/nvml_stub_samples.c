/* The part of the stand-in that keeps something from call to call: profile samples and events. */

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nvml_stub.h"

enum { MOST_SAMPLES = 4, PROFILE_METRICS = 16 };

/* Profile metrics. There are few samples: whoever does not free them runs out. */

typedef struct { int taken; double clock, counted[PROFILE_METRICS]; int there[PROFILE_METRICS]; } GpmSample;
typedef struct {
    unsigned id;
    Return code;
    double value;
    const char *names[3];
} GpmMetric;
typedef struct { unsigned version, count; GpmSample *before, *after; GpmMetric metrics[]; } GpmRequest;
typedef struct { unsigned version, supported; } GpmSupport;

static GpmSample gpm_samples[MOST_SAMPLES];

Return nvmlGpmQueryDeviceSupport(Device *device, GpmSupport *out) {
    char value[LINE];
    Return code = field(device, "gpm_clock", value);
    out->supported = code == SUCCESS;
    return code == NOT_SUPPORTED ? SUCCESS : code;
}

Return nvmlGpmSampleAlloc(GpmSample **out) {
    for (*out = gpm_samples; *out < gpm_samples + MOST_SAMPLES; ++*out)
        if (!(*out)->taken) return (*out)->taken = 1, SUCCESS;
    return INSUFFICIENT_RESOURCES;
}

Return nvmlGpmSampleFree(GpmSample *sample) {
    sample->taken = 0;
    return SUCCESS;
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

Return nvmlGpmSampleGet(Device *device, GpmSample *sample) {
    char key[LINE], value[LINE];
    Return code = field(device, "gpm_clock", value);
    if (code) return code;
    int real = strcmp(value, "real") == 0;
    sample->clock = real ? seconds_now() : strtod(value, NULL);
    for (unsigned id = 0; id < PROFILE_METRICS; id++) {
        snprintf(key, sizeof key, "gpm%u", id);
        sample->there[id] = field(device, key, value) == SUCCESS;
        sample->counted[id] = strtod(value, NULL) * (real ? sample->clock : 1.0);
    }
    return SUCCESS;
}

Return nvmlGpmMetricsGet(GpmRequest *request) {
    const GpmSample *before = request->before, *after = request->after;
    if (request->version != 1 || after->clock <= before->clock) return INVALID_ARGUMENT;
    for (GpmMetric *metric = request->metrics; metric < request->metrics + request->count; metric++) {
        unsigned id = metric->id;
        metric->code = id < PROFILE_METRICS && before->there[id] && after->there[id] ? SUCCESS : NOT_SUPPORTED;
        double rate = (after->counted[id] - before->counted[id]) / (after->clock - before->clock);
        metric->value = (double)(long long)(rate * 1e6 + 0.5) / 1e6; /* without the clock's rounding */
    }
    return SUCCESS;
}

/* Events: one set at a time, as the library's users here have. */

typedef struct { atomic_int open; unsigned next; } EventSet;
typedef struct { Device *device; unsigned long long type, data; unsigned instance, compute; } Event;

static EventSet events;

static int event(unsigned number, unsigned *gpu, unsigned *xid) {
    char key[32], value[LINE];
    snprintf(key, sizeof key, "event%u", number);
    return lookup(key, value) && sscanf(value, "%u %u", gpu, xid) == 2;
}

Return nvmlEventSetCreate(EventSet **out) {
    unsigned gpu, xid;
    char value[LINE];
    Return code = check_library();
    if (code) return code;
    lookup("event_sets", value);
    if (error_named(value)) return error_named(value);
    events.next = 1;
    while (!lookup("past_events", value) && event(events.next, &gpu, &xid)) events.next++;
    events.open++;
    *out = &events;
    return SUCCESS;
}

Return nvmlEventSetFree(EventSet *set) {
    set->open--;
    return check_library();
}

Return nvmlDeviceGetSupportedEventTypes(Device *device, unsigned long long *out) {
    return number(device, "events", out);
}

Return nvmlDeviceRegisterEvents(Device *device, unsigned long long types, EventSet *set) {
    char value[LINE];
    Return code = field(device, "register", value); /* a line names the error */
    if (code != NOT_SUPPORTED) return code;
    if (!set->open) return INVALID_ARGUMENT;
    device->watched |= types;
    return SUCCESS;
}

Return nvmlEventSetWait_v2(EventSet *set, Event *out, unsigned milliseconds) {
    const struct timespec pause = {0, 5 * 1000 * 1000};
    char value[LINE];
    unsigned gpu, xid;
    for (unsigned waited = 0; waited < milliseconds; waited += 5) {
        Return code = check_library();
        if (code) return code;
        if (lookup("wait", value) && error_named(value)) return error_named(value);
        if (event(set->next, &gpu, &xid) && gpu < MAX_GPUS) {
            set->next++;
            *out = (Event){&devices[generation][gpu], 8, xid, ~0u, ~0u};
            if (out->device->watched & 8) return SUCCESS;
        }
        nanosleep(&pause, NULL);
    }
    return TIMEOUT;
}
