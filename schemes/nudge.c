/* SPDX-License-Identifier: MIT */
#include "schemes/num/nudge.h"

_Thread_local uint64_t qg_nudge_state;
