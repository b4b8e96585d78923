/* What start-up code of a board offers to programs. */

#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

void board_start_timer(void);

/* Ticks of the board's timer, which wraps around. */
uint32_t board_ticks(void);

#endif
