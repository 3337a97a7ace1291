/** Dropout draws 15 bits an element, so that one Philox block serves sixteen. */
const DRAWS = 2 ** 15;

/** Draws below this are dropped: the rate in steps of 1/32768, so that 0.05 drops 1638 of 32768. */
export const dropoutThreshold = (rate: number): number => Math.min(DRAWS - 1, Math.round(rate * DRAWS));

/** What the kept are multiplied by: one over the exact share of them, so that the mean stays. */
export const dropoutInflation = (rate: number): number => Math.fround(DRAWS / (DRAWS - dropoutThreshold(rate)));

/** Rounds of Philox for dropout's stream: `engine/random/philox.ts` says why seven. */
export const DROPOUT_ROUNDS = 7;

/** So many elements draw from a quarter as many words of the stream: the second half of them from the words of the first half, rotated by a byte. */
export const DROPOUT_SPAN = 64;
