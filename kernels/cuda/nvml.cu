/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/nvml.h"

#include <dlfcn.h>
#include <stdio.h>

#include "kernels/cuda/device.cuh"

namespace
{

/* --- the library ----------------------------------------------------------------------------- */

/* Of NVIDIA's NVML reference. Its header is no part of every toolkit; enumerations and handles are
 * an int and a pointer here. Functions return 0 when they did what they were asked. */
enum { CLOCK_SM = 1, CLOCK_MEMORY = 2, SENSOR_OF_DIE = 0 };

typedef int question(void *device, unsigned *ret);
typedef int question_of(void *device, int which, unsigned *ret);
typedef int question_of_mode(void *device, unsigned *ret_now, unsigned *ret_next);
typedef int question_of_reasons(void *device, unsigned long long *ret);

struct nvml {
    char why[200]; /* empty: it is there */
    void *device;
    int (*driver)(char *text, unsigned size);
    /* NULL where the driver is too old for one of them. */
    question_of_reasons *reasons;
    question_of *clock, *most_clock; /* MHz */
    question_of *temperature;        /* degrees Celsius */
    question *power, *power_limit;   /* mW */
    question *persistence;
    question_of_mode *ecc, *mig;
};

template <class F> void take(void *from, const char *name, F **ret)
{
    *ret = (F *)dlsym(from, name);
}

void take_all(void *from, struct nvml *n)
{
    take(from, "nvmlSystemGetDriverVersion", &n->driver);
    take(from, "nvmlDeviceGetCurrentClocksEventReasons", &n->reasons);
    if (!n->reasons) // its name before driver 535
        take(from, "nvmlDeviceGetCurrentClocksThrottleReasons", &n->reasons);
    take(from, "nvmlDeviceGetClockInfo", &n->clock);
    take(from, "nvmlDeviceGetMaxClockInfo", &n->most_clock);
    take(from, "nvmlDeviceGetTemperature", &n->temperature);
    take(from, "nvmlDeviceGetPowerUsage", &n->power);
    take(from, "nvmlDeviceGetEnforcedPowerLimit", &n->power_limit);
    take(from, "nvmlDeviceGetPersistenceMode", &n->persistence);
    take(from, "nvmlDeviceGetEccMode", &n->ecc);
    take(from, "nvmlDeviceGetMigMode", &n->mig);
}

/* The handle of the device that CUDA uses: the two libraries count differently, the bus is one. */
void open_device(void *from, struct nvml *n)
{
    int (*init)(void), (*find)(const char *, void **), device = 0, error;
    const char *(*text)(int);
    char bus[32];
    take(from, "nvmlInit_v2", &init);
    take(from, "nvmlDeviceGetHandleByPciBusId_v2", &find);
    take(from, "nvmlErrorString", &text);
    if (!init || !find || !text) {
        snprintf(n->why, sizeof n->why, "NVML is too old");
        return;
    }
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess)
        e = cudaDeviceGetPCIBusId(bus, sizeof bus, device);
    if (e != cudaSuccess)
        snprintf(n->why, sizeof n->why, "the device's place: %s", cudaGetErrorString(e));
    else if ((error = init()) != 0 || (error = find(bus, &n->device)) != 0)
        snprintf(n->why, sizeof n->why, "NVML says: %s", text(error));
}

struct nvml find_nvml(void)
{
    struct nvml n = {};
    void *from = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!from) {
        const char *why = dlerror();
        snprintf(n.why, sizeof n.why, "no NVML: %s", why ? why : "libnvidia-ml.so.1");
        return n;
    }
    open_device(from, &n);
    if (!n.why[0])
        take_all(from, &n);
    return n;
}

const struct nvml *the_nvml(void)
{
    static const struct nvml n = find_nvml();
    return &n;
}

/* --- answers --------------------------------------------------------------------------------- */

/* NaN where there is none. */
double ask(question *f)
{
    unsigned answer = 0;
    return f && f(the_nvml()->device, &answer) == 0 ? (double)answer : (double)NAN;
}

double ask(question_of *f, int which)
{
    unsigned answer = 0;
    return f && f(the_nvml()->device, which, &answer) == 0 ? (double)answer : (double)NAN;
}

double ask_mode(question_of_mode *f)
{
    unsigned now = 0, next;
    return f && f(the_nvml()->device, &now, &next) == 0 ? (double)now : (double)NAN;
}

/* The bits of nvmlClocksEventReasons for clocks that the device has lowered by itself, not because
 * it is idle or somebody has set them. */
unsigned ask_reasons(void)
{
    static const struct {
        unsigned bit, why;
    } known[] = {{0x04, QG_LOWERED_POWER_CAP},    // SwPowerCap
                 {0x08, QG_LOWERED_HARDWARE},     // HwSlowdown, with one of the last two or alone
                 {0x20, QG_LOWERED_THERMAL},      // SwThermalSlowdown
                 {0x40, QG_LOWERED_THERMAL},      // HwThermalSlowdown
                 {0x80, QG_LOWERED_POWER_BRAKE}}; // HwPowerBrakeSlowdown
    const struct nvml *n = the_nvml();
    unsigned long long bits = 0;
    unsigned why = 0;
    if (!n->reasons || n->reasons(n->device, &bits) != 0)
        return 0;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        why |= bits & known[i].bit ? known[i].why : 0;
    return why;
}

/* --- settings in words ----------------------------------------------------------------------- */

void add(char *text, size_t size, const char *format, double x)
{
    const size_t n = strlen(text);
    if (x == x)
        snprintf(text + n, size - n, format, x);
}

void add_mode(char *text, size_t size, const char *name, double mode)
{
    const size_t n = strlen(text);
    if (mode == 0 || mode == 1)
        snprintf(text + n, size - n, ", %s %s", name, mode == 1 ? "on" : "off");
}

} // namespace

void qg_nvml_look(bool all, struct qg_device_state *ret)
{
    const struct nvml *n = the_nvml();
    *ret = {NAN, NAN, NAN, NAN, ask_reasons()};
    if (!all)
        return;
    ret->sm_mhz = ask(n->clock, CLOCK_SM);
    ret->memory_mhz = ask(n->clock, CLOCK_MEMORY);
    ret->celsius = ask(n->temperature, SENSOR_OF_DIE);
    ret->watts = 1e-3 * ask(n->power);
}

void qg_nvml_settings(char *text, size_t size)
{
    const struct nvml *n = the_nvml();
    char driver[96] = "?";
    if (n->why[0]) {
        snprintf(text, size, "unknown: %s", n->why);
        return;
    }
    if (n->driver)
        (void)n->driver(driver, sizeof driver);
    snprintf(text, size, "driver %s", driver);
    add_mode(text, size, "persistence mode", ask(n->persistence));
    add(text, size, ", SM clock up to %.0f MHz", ask(n->most_clock, CLOCK_SM));
    add(text, size, ", power limit %.0f W", 1e-3 * ask(n->power_limit));
    add_mode(text, size, "ECC", ask_mode(n->ecc));
    add_mode(text, size, "MIG", ask_mode(n->mig));
}
