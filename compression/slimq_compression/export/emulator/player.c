/*
 * Plays a policy for another process: commands come from the file "commands", answers go to the
 * file "answers"; both are pipes of the machine that emulates the board.
 *
 *     r          reset
 *     o FRAME    observe
 *     q          Q-values: a float for each action
 *     a FRAME    act: the action, and the timer's ticks that it took, 32 bits each
 *     e          end
 */

#include <stdio.h>

#include "@PREFIX@.h"
#include "board.h"

static @PREFIX@_state state;
static @ELEMENT@ frame[@UPPER@_FRAME_SIZE];

static uint32_t ticks_of_nothing(void)
{
    const uint32_t start = board_ticks();
    return board_ticks() - start;
}

int main(void)
{
    FILE *commands = fopen("commands", "rb");
    FILE *answers = fopen("answers", "wb");
    if (commands == NULL || answers == NULL) {
        return 1;
    }
    for (;;) {
        const int command = fgetc(commands);
        if (command == 'e' || command == EOF) {
            return command != 'e';
        }
        if (command == 'o' || command == 'a') {
            if (fread(frame, 1, sizeof(frame), commands) != sizeof(frame)) {
                return 1;
            }
        }
        if (command == 'r') {
            @PREFIX@_reset(&state);
        } else if (command == 'o') {
            @PREFIX@_observe(&state, frame);
        } else if (command == 'q') {
            float values[@UPPER@_ACTIONS];
            @PREFIX@_q_values(&state, values);
            fwrite(values, 1, sizeof(values), answers);
            fflush(answers);
        } else if (command == 'a') {
            const uint32_t start = board_ticks();
            const int32_t action = @PREFIX@_act(&state, frame);
            const uint32_t ticks = board_ticks() - start - ticks_of_nothing();
            const int32_t answer[2] = {action, (int32_t)ticks};
            fwrite(answer, 1, sizeof(answer), answers);
            fflush(answers);
        } else {
            return 1;
        }
    }
}
