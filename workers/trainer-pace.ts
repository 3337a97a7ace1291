/** Steps over which the speed is averaged. */
const WINDOW = 10;

export interface Pace {
  /** A step has ended; `tokens` counts all tokens so far. */
  step(tokens: number, stepsLeft: number): { tokensPerSecond: number; etaSeconds: number };
  /** Something that is not a step has ended: the time since the last step does not count. */
  resume(): void;
}

/** Measures the speed of the steps alone, over the last ten, so that it is right soon after a resume. */
export function createPace(tokensBefore: number, now: () => number = () => performance.now()): Pace {
  const window: { seconds: number; tokens: number }[] = [];
  let since = now();
  let seen = tokensBefore;
  return {
    step: (tokens, stepsLeft) => {
      const time = now();
      window.push({ seconds: (time - since) / 1000, tokens: tokens - seen });
      if (window.length > WINDOW) window.shift();
      since = time;
      seen = tokens;
      const seconds = window.reduce((sum, step) => sum + step.seconds, 0);
      const trained = window.reduce((sum, step) => sum + step.tokens, 0);
      return { tokensPerSecond: seconds > 0 ? trained / seconds : 0, etaSeconds: (seconds / window.length) * stepsLeft };
    },
    resume: () => (since = now()),
  };
}
