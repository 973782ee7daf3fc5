// SPDX-License-Identifier: MIT
//
// The stand-in for NVML, NVIDIA's management library, as the shared library that programs look for.
// Its functions are those of NVIDIA's NVML reference that kernels/cuda asks, of one device whose
// answers come from the environment.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT extern "C" __attribute__((visibility("default")))

enum nvmlReturn_t {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9
};
enum nvmlClockType_t {
    NVML_CLOCK_GRAPHICS = 0,
    NVML_CLOCK_SM = 1,
    NVML_CLOCK_MEM = 2,
    NVML_CLOCK_VIDEO = 3,
    NVML_CLOCK_COUNT
};
enum nvmlTemperatureSensors_t { NVML_TEMPERATURE_GPU = 0, NVML_TEMPERATURE_COUNT };
typedef struct nvmlDevice_st {
    char bus[16];
} * nvmlDevice_t;

// --- answers ------------------------------------------------------------------------------------

// What a variable of the environment says: a number, or several with commas between, one for each
// question and the last from then on. "none": the device does not say.
struct answers {
    const char *variable;
    double usual; // where the variable is not set; NaN: the device does not say
    unsigned asked;
};

static struct nvmlDevice_st the_device = {"0000:0A:00.0"};
static bool is_open;
static struct answers sm_mhz = {"QG_SIMT_SM_MHZ", 1980, 0},
                      memory_mhz = {"QG_SIMT_MEMORY_MHZ", 2619, 0},
                      celsius = {"QG_SIMT_CELSIUS", 45, 0}, watts = {"QG_SIMT_WATTS", 350.5, 0},
                      lowered = {"QG_SIMT_LOWERED", 0, 0},
                      persistence = {"QG_SIMT_PERSISTENCE", 1, 0}, ecc = {"QG_SIMT_ECC", 1, 0},
                      mig = {"QG_SIMT_MIG", NAN, 0}, power_limit = {"QG_SIMT_POWER_LIMIT", 700, 0};

static double next(struct answers *a)
{
    const char *at = getenv(a->variable);
    a->asked++;
    if (!at)
        return a->usual;
    for (unsigned i = 1; i < a->asked && strchr(at, ','); i++)
        at = strchr(at, ',') + 1;
    return strncmp(at, "none", 4) == 0 ? (double)NAN : strtod(at, NULL);
}

// What every question is refused for.
static nvmlReturn_t check(nvmlDevice_t device, const void *ret)
{
    if (!is_open)
        return NVML_ERROR_UNINITIALIZED;
    return device == &the_device && ret ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

template <class T>
static nvmlReturn_t tell(nvmlDevice_t device, struct answers *a, double unit, T *ret)
{
    const nvmlReturn_t e = check(device, ret);
    if (e != NVML_SUCCESS)
        return e;
    const double x = next(a);
    if (x != x)
        return NVML_ERROR_NOT_SUPPORTED;
    *ret = (T)llrint(x * unit);
    return NVML_SUCCESS;
}

static nvmlReturn_t tell_mode(nvmlDevice_t device, struct answers *a, unsigned *now, unsigned *then)
{
    const nvmlReturn_t e = then ? tell(device, a, 1, now) : NVML_ERROR_INVALID_ARGUMENT;
    if (e == NVML_SUCCESS)
        *then = *now;
    return e;
}

// --- the library --------------------------------------------------------------------------------

EXPORT nvmlReturn_t nvmlInit_v2(void)
{
    const char *driver = getenv("QG_SIMT_NVML");
    if (driver && strcmp(driver, "0") == 0)
        return NVML_ERROR_DRIVER_NOT_LOADED;
    is_open = true;
    return NVML_SUCCESS;
}

EXPORT const char *nvmlErrorString(nvmlReturn_t e)
{
    switch (e) {
    case NVML_SUCCESS:
        return "Success";
    case NVML_ERROR_UNINITIALIZED:
        return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT:
        return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED:
        return "Not Supported";
    case NVML_ERROR_NOT_FOUND:
        return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE:
        return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED:
        return "Driver Not Loaded";
    }
    return "Unknown Error";
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    static const char text[] = "580.65.06";
    if (!is_open)
        return NVML_ERROR_UNINITIALIZED;
    if (!version)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (length < sizeof text)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(version, text, sizeof text);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus, nvmlDevice_t *device)
{
    if (!is_open)
        return NVML_ERROR_UNINITIALIZED;
    if (!bus || !device)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (strcasecmp(bus, the_device.bus) != 0)
        return NVML_ERROR_NOT_FOUND;
    *device = &the_device;
    return NVML_SUCCESS;
}

// --- the device ---------------------------------------------------------------------------------

EXPORT nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned *mhz)
{
    if (type < 0 || type >= NVML_CLOCK_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    return tell(device, type == NVML_CLOCK_MEM ? &memory_mhz : &sm_mhz, 1, mhz);
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type,
                                              unsigned *mhz)
{
    const nvmlReturn_t e = check(device, mhz);
    if (type < 0 || type >= NVML_CLOCK_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (e == NVML_SUCCESS)
        *mhz = type == NVML_CLOCK_MEM ? 2619 : 1980;
    return e;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor,
                                             unsigned *degrees)
{
    if (sensor < 0 || sensor >= NVML_TEMPERATURE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    return tell(device, &celsius, 1, degrees);
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *milliwatts)
{
    return tell(device, &watts, 1000, milliwatts);
}

EXPORT nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned *milliwatts)
{
    return tell(device, &power_limit, 1000, milliwatts);
}

// A driver before 535 has this under its older name alone.
#ifndef QG_SIMT_OLD_NVML
EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device,
                                                           unsigned long long *bits)
{
    return tell(device, &lowered, 1, bits);
}
#endif

EXPORT nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device,
                                                              unsigned long long *bits)
{
    return tell(device, &lowered, 1, bits);
}

EXPORT nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, unsigned *mode)
{
    return tell(device, &persistence, 1, mode);
}

EXPORT nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, unsigned *now, unsigned *then)
{
    return tell_mode(device, &ecc, now, then);
}

EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *now, unsigned *then)
{
    return tell_mode(device, &mig, now, then);
}
