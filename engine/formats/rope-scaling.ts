/** How a model's rotary frequencies are changed for longer contexts, as transformers computes it (modeling_rope_utils.py). */
export type RopeScaling =
  /** All frequencies divided by `factor`. */
  | { type: 'linear'; factor: number; originalContextLength: number }
  /** A larger base for rows longer than `originalContextLength`, growing with the row (NTK-aware). */
  | { type: 'dynamic'; factor: number; originalContextLength: number }
  /**
   * Slow frequencies divided by `factor`, fast ones left, those between interpolated: slow are those that turn fewer than
   * `lowFreqFactor` times in the original context, fast those that turn more than `highFreqFactor` times.
   */
  | { type: 'llama3'; factor: number; lowFreqFactor: number; highFreqFactor: number; originalContextLength: number };

/** Of pair i: theta^(-2i / headDim). */
export const rotaryFrequencies = (ropeTheta: number, headDim: number): number[] =>
  Array.from({ length: headDim / 2 }, (_, i) => ropeTheta ** ((-2 * i) / headDim));

/** What each frequency is divided by under `llama3` scaling. */
export function llama3Factors(frequencies: readonly number[], { factor, lowFreqFactor, highFreqFactor, originalContextLength }: Extract<RopeScaling, { type: 'llama3' }>): number[] {
  return frequencies.map((frequency) => {
    const turns = (originalContextLength * frequency) / (2 * Math.PI);
    if (turns > highFreqFactor) return 1;
    if (turns < lowFreqFactor) return factor;
    const fast = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
    return 1 / ((1 - fast) / factor + fast);
  });
}

/** Of LLaMA 3.1 to 3.3. */
const published = { lowFreqFactor: 1, highFreqFactor: 4, originalContextLength: 8192 };

/**
 * The `llama3` scaling that gives these factors, which is all that a GGUF keeps of it; undefined when there is none. Only the
 * products of `originalContextLength` with the two bounds can be told from them: `lowFreqFactor` is taken to be 1.
 */
export function llama3ScalingOf(factors: ArrayLike<number>, frequencies: readonly number[]): RopeScaling | undefined {
  const factor = Math.max(...Array.from(factors));
  const fits = (scaling: Extract<RopeScaling, { type: 'llama3' }>): boolean =>
    factors.length === frequencies.length && llama3Factors(frequencies, scaling).every((value, i) => Math.abs(value / factors[i] - 1) < 1e-4);
  const known = { type: 'llama3' as const, factor, ...published };
  if (fits(known)) return known;
  // Between the bounds, the share of the fast frequency is a line over the number of turns; two points give it.
  const between = frequencies.map((frequency, i) => ({ frequency, fast: (1 / factors[i] - 1 / factor) / (1 - 1 / factor) })).filter(({ fast }) => fast > 1e-4 && fast < 1 - 1e-4);
  if (between.length < 2) return undefined;
  const [first, last] = [between[0], between[between.length - 1]];
  const slope = (first.fast - last.fast) / (first.frequency - last.frequency);
  const zero = first.frequency - first.fast / slope;
  const originalContextLength = Math.round((2 * Math.PI) / zero);
  const fitted = { type: 'llama3' as const, factor, lowFreqFactor: 1, highFreqFactor: Number((1 + 1 / (slope * zero)).toPrecision(4)), originalContextLength };
  return fits(fitted) ? fitted : undefined;
}
