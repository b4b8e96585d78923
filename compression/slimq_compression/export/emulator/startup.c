/*
 * Start-up of the emulated boards, and a timer from which instructions are counted: with -icount
 * every instruction takes the same virtual time, however busy the machine that emulates it is.
 */

#include <stdint.h>
#include <stdlib.h>

#include "board.h"

extern uint32_t stack_top, data_load, data_start, data_end, bss_start, bss_end;
extern int main(int argc, char **argv);
extern void initialise_monitor_handles(void);

#define REGISTER(address) (*(volatile uint32_t *)(address))

#ifdef BOARD_MICROBIT
#define TIMER 0x40008000u /* TIMER0 of the nRF51: 16 MHz, 32 bits */

void board_start_timer(void)
{
    REGISTER(TIMER + 0x508) = 3; /* bit mode: 32 */
    REGISTER(TIMER + 0x510) = 0; /* prescaler: none */
    REGISTER(TIMER + 0x000) = 1; /* start */
}

uint32_t board_ticks(void)
{
    REGISTER(TIMER + 0x040) = 1; /* capture */
    return REGISTER(TIMER + 0x540);
}
#else
#define TIMER 0x40000000u /* TIMER0 of the CMSDK: 25 MHz, 32 bits, counts down */

void board_start_timer(void)
{
    REGISTER(TIMER + 0x8) = 0xffffffffu; /* reload */
    REGISTER(TIMER + 0x4) = 0xffffffffu; /* value */
    REGISTER(TIMER + 0x0) = 1;           /* enable */
}

uint32_t board_ticks(void)
{
    return 0xffffffffu - REGISTER(TIMER + 0x4);
}
#endif

void board_reset(void)
{
    static char name[] = "policy";
    static char *arguments[] = {name, NULL};
#ifdef __ARM_FP
    REGISTER(0xe000ed88) |= 0xfu << 20; /* CPACR: access to the floating-point unit */
#endif
    const uint32_t *from = &data_load;
    for (uint32_t *to = &data_start; to < &data_end; to++) {
        *to = *from++;
    }
    for (uint32_t *to = &bss_start; to < &bss_end; to++) {
        *to = 0;
    }
    initialise_monitor_handles();
    board_start_timer();
    exit(main(1, arguments));
}

static void board_fault(void)
{
    exit(3);
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    &stack_top,   (void *)board_reset, (void *)board_fault, (void *)board_fault,
    (void *)board_fault, (void *)board_fault, (void *)board_fault,
};
