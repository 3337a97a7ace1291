/** Dropout draws 15 bits an element, so that one Philox block serves eight. */
const DRAWS = 2 ** 15;

/** Draws below this are dropped: the rate in steps of 1/32768, so that 0.05 drops 1638 of 32768. */
export const dropoutThreshold = (rate: number): number => Math.min(DRAWS - 1, Math.round(rate * DRAWS));

/** What the kept are multiplied by: one over the exact share of them, so that the mean stays. */
export const dropoutInflation = (rate: number): number => Math.fround(DRAWS / (DRAWS - dropoutThreshold(rate)));
