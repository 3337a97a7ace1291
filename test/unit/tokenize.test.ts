import { describe, expect, it } from 'vitest';
import { tokenizeExamples } from '../../engine/data/tokenize.js';

const BOS = 1;
const EOS = 2;
/** One token a character (its code), but `ab` is one token of its own, and `<eos>` is EOS. */
const tokenizer = (addsBos = false) => ({
  addsBos,
  eosTokenId: EOS,
  encodeBatch: async (texts: string[], options?: { addBos?: boolean }) =>
    texts.map((text) => [
      ...(options?.addBos ? [BOS] : []),
      ...(text.match(/<eos>|ab|./gsu) ?? []).map((piece) => (piece === '<eos>' ? EOS : piece === 'ab' ? 300 : piece.charCodeAt(0))),
    ]),
});
const code = (text: string) => [...text].map((character) => character.charCodeAt(0));
const options = { maxLength: 10, eos: true, loss: 'response' as const };
const only = async (prompt: string, completion: string, change: Partial<{ maxLength: number; eos: boolean; loss: 'response' | 'all' }> = {}, addsBos = false) => {
  const { rows, promptTokens, truncated } = await tokenizeExamples(tokenizer(addsBos), [{ prompt, completion }], { ...options, ...change });
  return { ids: [...rows.ids(0)], mask: [...rows.mask(0)], promptTokens: promptTokens[0], truncated: truncated[0] === 1 };
};

describe('tokenizeExamples', () => {
  it('ends a row with EOS and counts completion and EOS', async () => {
    expect(await only('xy', 'z!')).toEqual({ ids: [...code('xyz!'), EOS], mask: [0, 0, 1, 1, 1], promptTokens: 2, truncated: false });
  });

  it('ends a row where its text does when EOS is not wanted', async () => {
    expect(await only('xy', 'z!', { eos: false })).toEqual({ ids: code('xyz!'), mask: [0, 0, 1, 1], promptTokens: 2, truncated: false });
  });

  it('counts the prompt too when asked, but not the first token, which nothing predicts', async () => {
    expect((await only('xy', 'z', { loss: 'all' })).mask).toEqual([0, 1, 1, 1]);
    expect((await only('xy', 'z', { loss: 'all' }, true)).mask).toEqual([0, 1, 1, 1, 1]);
  });

  it('puts BOS in front where the model was trained with it', async () => {
    expect((await only('x', 'y', {}, true)).ids).toEqual([BOS, ...code('xy'), EOS]);
  });

  it('keeps the prompt\'s own tokens where a token would straddle the boundary', async () => {
    expect((await only('xa', 'bz')).ids).toEqual([...code('xabz'), EOS]);
    expect((await only('x', 'abz')).ids).toEqual([...code('x'), 300, ...code('z'), EOS]);
  });

  it('does not double an EOS that the end marker writes', async () => {
    expect(await only('x', 'y<eos>')).toMatchObject({ ids: [...code('xy'), EOS], mask: [0, 1, 1] });
  });

  it('cuts a long row at its end, without EOS', async () => {
    expect(await only('xy', 'abcdefghijkl', { maxLength: 5 })).toEqual({
      ids: [...code('xy'), 300, ...code('cd')], mask: [0, 0, 1, 1, 1], promptTokens: 2, truncated: true,
    });
  });

  it('does not count a row as truncated that just fits with EOS', async () => {
    expect(await only('xy', 'cd', { maxLength: 5 })).toMatchObject({ truncated: false });
    expect(await only('xy', 'cd', { maxLength: 4 })).toMatchObject({ truncated: true, ids: code('xycd') });
  });

  it('names the rows that are left without a token to train', async () => {
    const examples = [{ prompt: 'x', completion: 'y' }, { prompt: 'x'.repeat(10), completion: 'y' }, { prompt: 'x'.repeat(12), completion: 'y' }];
    await expect(tokenizeExamples(tokenizer(), examples, options)).rejects.toThrow(
      'expected every row to keep a token of its response within 10 tokens, got none in row 2 (prompt of 10 tokens), row 3 (prompt of 12 tokens)',
    );
  });
});
