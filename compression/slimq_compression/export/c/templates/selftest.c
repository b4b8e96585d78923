/*
 * Compares the policy with golden vectors: recorded states, ONNX Runtime's Q-values for them, and
 * those of the same C on the machine that exported it. Exits with 0 if every action is the same
 * where the best two Q-values are no tie, every Q-value is within 1e-3 of their range, and every
 * bit is that of the machine of the export.
 *
 *     selftest [golden.bin]
 */

#include "@PREFIX@.h"

#include <stdio.h>
#include <string.h>

#define MAGIC 0x514d4c53u
#define TOLERANCE 1e-3f

enum { FRAMES = 1, STATES, STACK, FRAME_BYTES, ACTIONS, EXACT, HEADER };

typedef @ELEMENT@ element;

static @PREFIX@_state state;
static element frame[@UPPER@_FRAME_SIZE];

static int fail(const char *problem)
{
    printf("selftest: %s\n", problem);
    return 1;
}

static int read_at(FILE *file, uint32_t place, void *target, uint32_t bytes)
{
    return fseek(file, (long)place, SEEK_SET) == 0 && fread(target, 1, bytes, file) == bytes;
}

/* Shows the policy the frames of a state, oldest first. */
static int show(FILE *file, const uint32_t *header, uint32_t row)
{
    const uint32_t indices = 4 * HEADER + header[FRAMES] * header[FRAME_BYTES];
    @PREFIX@_reset(&state);
    for (uint32_t i = 0; i < header[STACK]; i++) {
        int32_t index;
        if (!read_at(file, indices + 4 * (row * header[STACK] + i), &index, 4)) {
            return 0;
        }
        if (index >= 0) {
            const uint32_t place = 4 * HEADER + (uint32_t)index * header[FRAME_BYTES];
            if (!read_at(file, place, frame, sizeof(frame))) {
                return 0;
            }
            @PREFIX@_observe(&state, frame);
        }
    }
    return 1;
}

static int32_t best_of(const float *values)
{
    int32_t best = 0;
    for (int32_t a = 1; a < @UPPER@_ACTIONS; a++) {
        best = values[a] > values[best] ? a : best;
    }
    return best;
}

/* The range of all Q-values of ONNX Runtime; below 0 if the file is too short. */
static float q_range(FILE *file, uint32_t place, uint32_t states)
{
    float low = 0.0f;
    float high = 0.0f;
    float values[@UPPER@_ACTIONS];
    for (uint32_t row = 0; row < states; row++) {
        if (!read_at(file, place + row * sizeof(values), values, sizeof(values))) {
            return -1.0f;
        }
        for (int32_t a = 0; a < @UPPER@_ACTIONS; a++) {
            low = values[a] < low || (row == 0 && a == 0) ? values[a] : low;
            high = values[a] > high || (row == 0 && a == 0) ? values[a] : high;
        }
    }
    return high - low;
}

int main(int argc, char **argv)
{
    FILE *file = fopen(argc > 1 ? argv[1] : "golden.bin", "rb");
    uint32_t header[HEADER];
    float values[@UPPER@_ACTIONS], wanted[@UPPER@_ACTIONS], exact[@UPPER@_ACTIONS];
    uint32_t other_actions = 0, other_bits = 0;
    float largest = 0.0f;
    if (file == NULL || !read_at(file, 0, header, sizeof(header)) || header[0] != MAGIC) {
        return fail("there are no golden vectors");
    }
    if (header[FRAME_BYTES] != sizeof(frame) || header[ACTIONS] != @UPPER@_ACTIONS) {
        return fail("the golden vectors are of another policy");
    }
    const uint32_t size = @UPPER@_ACTIONS * 4;
    const uint32_t reference = 4 * HEADER + header[FRAMES] * header[FRAME_BYTES]
                               + 4 * header[STATES] * header[STACK];
    const float range = q_range(file, reference, header[STATES]);
    const float tolerance = TOLERANCE * range;
    for (uint32_t row = 0; row < header[STATES]; row++) {
        const uint32_t place = reference + row * size;
        if (range < 0.0f || !show(file, header, row) || !read_at(file, place, wanted, size)) {
            return fail("the golden vectors are incomplete");
        }
        @PREFIX@_q_values(&state, values);
        for (int32_t a = 0; a < @UPPER@_ACTIONS; a++) {
            const float difference = values[a] > wanted[a] ? values[a] - wanted[a]
                                                           : wanted[a] - values[a];
            largest = difference > largest ? difference : largest;
            largest = difference >= 0.0f ? largest : 2.0f * tolerance + 1.0f;
        }
        const int32_t best = best_of(values);
        const int32_t right = best_of(wanted);
        other_actions += best != right && wanted[right] - wanted[best] > 2.0f * tolerance;
        if (header[EXACT]) {
            if (!read_at(file, place + header[STATES] * size, exact, size)) {
                return fail("the golden vectors are incomplete");
            }
            other_bits += memcmp(values, exact, size) != 0;
        }
    }
    fclose(file);
    printf("%lu states: %lu other actions, %lu with other bits than on the machine of the export, "
           "largest difference %.3g of a range of %.3g\n",
           (unsigned long)header[STATES], (unsigned long)other_actions, (unsigned long)other_bits,
           (double)largest, (double)range);
    return other_actions || other_bits || largest > tolerance;
}
