// What MinAtar's games have in common: fields of ten by ten.

export const SIZE = 10;

export function grid() {
  return Array.from({ length: SIZE }, () => new Array(SIZE).fill(0));
}
