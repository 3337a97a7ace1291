import { describe, expect, it } from 'vitest';
import { tokenTexts } from '../../engine/data/token-texts.js';

/** Ids are bytes; the blank in front of a first token is dropped, and as many � as bytes stand for what is no character, as SentencePiece has it. */
const tokenizer = {
  decodeBatch: async (rows: ArrayLike<number>[]) =>
    rows.map((row) => {
      const latin = Buffer.from(Array.from(row)).toString('latin1');
      const text = latin.replace(/[\x80-\xff]+/g, (run) => {
        try {
          return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.from(run, 'latin1'));
        } catch {
          return '\ufffd'.repeat(run.length);
        }
      });
      return text.replace(/^ /, '');
    }),
};
const texts = (text: string) => tokenTexts(tokenizer, Buffer.from(text));

describe('tokenTexts', () => {
  it('gives a character of several tokens to the last of them', async () => {
    expect(await texts('aé🙂b')).toEqual(['a', '', 'é', '', '', '', '🙂', 'b']);
  });

  it('keeps blanks that decoders drop at a start', async () => {
    expect(await texts('a b')).toEqual(['a', ' ', 'b']);
  });

  it('adds up to the text, wherever characters of several tokens stand', async () => {
    for (const text of ['x🙂\n\n##', '日本 x', 'é é é', '🙂🙂🙂 end']) expect((await texts(text)).join('')).toBe(text);
  });
});
