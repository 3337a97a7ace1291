import type { Tokenizer } from '../formats/tokenizer.js';

/** Characters before a token that decide how it is written: some decoders drop the blank before a first token. */
const CONTEXT = 2;

/** The text that each token adds. A character of several tokens is the last one's; the others add nothing. */
export async function tokenTexts(tokenizer: Pick<Tokenizer, 'decodeBatch'>, ids: ArrayLike<number>): Promise<string[]> {
  const all = Array.from(ids);
  const texts: string[] = [];
  /** Where whole characters begin; the last is where the token to come begins one or goes on with it. */
  const starts = [0];
  for (let end = 1; end <= all.length; end++) {
    const from = starts[Math.max(0, starts.length - 1 - CONTEXT)];
    const [before, after] = await tokenizer.decodeBatch([all.slice(from, starts.at(-1)), all.slice(from, end)]);
    const whole = !after.endsWith('\ufffd') || end === all.length;
    texts.push(whole ? after.slice(before.length) : '');
    if (whole) starts.push(end);
  }
  return texts;
}
