import type { Tokenizer } from '../formats/tokenizer.js';

/** Tokens before one that decide how it is written: a character may take four, and some decoders drop the blank before a first token. */
const CONTEXT = 4;

/** The text that each token adds. A character of several tokens is the last one's; the others add nothing. */
export async function tokenTexts(tokenizer: Pick<Tokenizer, 'decodeBatch'>, ids: ArrayLike<number>): Promise<string[]> {
  const all = Array.from(ids);
  const windows = all.map((_, i) => all.slice(Math.max(0, i - CONTEXT), i + 1));
  const before = await tokenizer.decodeBatch(windows.map((window) => window.slice(0, -1)));
  const after = await tokenizer.decodeBatch(windows);
  return after.map((text, i) => withoutPartial(text).slice(withoutPartial(before[i]).length));
}

const withoutPartial = (text: string): string => text.replace(/\ufffd+$/u, '');
