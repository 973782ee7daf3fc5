/* SPDX-License-Identifier: MIT
 *
 * How many processors there are for work side by side.
 */
#ifndef QG_PROCESSORS_H
#define QG_PROCESSORS_H

/* Processors that this process may run on, at most 64. */
int qg_processors(void);

#endif
