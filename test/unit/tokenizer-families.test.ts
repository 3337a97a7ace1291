import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { openTokenizer } from '../../engine/formats/open-tokenizer.js';
import type { Tokenizer } from '../../engine/formats/tokenizer.js';
import { goldenPath } from '../kit/golden.js';
import { temporaryDirectory } from '../kit/temporary.js';

const root = goldenPath('tokenizer-families');
const read = <T>(...path: string[]): T => JSON.parse(readFileSync(join(root, ...path), 'utf8')) as T;
const corpus = read<string[]>('corpus.json');
const families = readdirSync(root).filter((name) => existsSync(join(root, name, 'expected.json')));

/** As the script shortens what it keeps. */
const hash = (text: string): string => createHash('sha256').update(text).digest('hex').slice(0, 8);
const part = (hashes: string, i: number): string => hashes.slice(8 * i, 8 * i + 8);

/** The texts whose ids differ from Python's, with the ids. */
async function mismatches(tokenizer: Tokenizer, expected: string, addBos: boolean): Promise<unknown[]> {
  const texts = corpus.slice(0, expected.length / 8);
  const plain = await tokenizer.encodeBatch(texts);
  // A text that starts with BOS gets no second one; in Python it does.
  const rows = addBos ? plain.map((ids) => (tokenizer.addsBos ? [tokenizer.bosTokenId!, ...ids] : ids)) : plain;
  return texts.flatMap((text, i) => (hash(rows[i].join()) === part(expected, i) ? [] : [{ text, ids: rows[i], tokens: rows[i].map((id) => tokenizer.idToToken(id)) }]));
}

it('has a corpus of 2,200 texts', () => expect(corpus).toHaveLength(2200));

/** Models whose tokenizer.json is not exact, as nobody's is: Hugging Face's library lacks their normalisation or search. */
const approximate = new Set(['spm-bpe-nfkc', 'spm-unigram', 'spm-unigram-identity']);

describe.each(families)('%s', (name) => {
  const expected = read<{ plain: string; added: string; decoded?: string }>(name, 'expected.json');
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await openTokenizer(join(root, name));
  });

  it("gives Python's ids", async () => expect(await mismatches(tokenizer, expected.plain, false)).toEqual([]));

  it('puts BOS in front where Python does', async () => expect(await mismatches(tokenizer, expected.added, true)).toEqual([]));

  it('gives the same ids for one text as for many', async () => {
    const texts = corpus.slice(0, 100);
    expect(await Promise.all(texts.map((text) => tokenizer.encode(text)))).toEqual(await tokenizer.encodeBatch(texts));
  });

  it.runIf(expected.decoded)("decodes to Python's text, wherever the ids are cut off", async () => {
    const rows = (await tokenizer.encodeBatch(corpus)).map((ids, i) => ids.slice(0, (7 * i) % (ids.length + 1)));
    const [kept, skipped] = [await tokenizer.decodeBatch(rows), await tokenizer.decodeBatch(rows, { skipSpecial: true })];
    const texts = rows.map((_, i) => (i % 2 === 0 ? skipped : kept)[i]);
    expect(texts.filter((text, i) => hash(text) !== part(expected.decoded!, i))).toEqual([]);
  });

  it('is the same tokenizer when its files are written and read again', async () => {
    const directory = temporaryDirectory();
    for (const [file, bytes] of await tokenizer.files()) writeFileSync(join(directory, file), bytes);
    writeFileSync(join(directory, 'config.json'), '{}');
    const copy = await openTokenizer(directory);
    for (const key of ['bosTokenId', 'eosTokenId', 'padTokenId', 'addsBos', 'vocabSize'] as const) expect(copy[key], key).toBe(tokenizer[key]);
    if (!approximate.has(name)) expect(await mismatches(copy, expected.plain, false)).toEqual([]);
  });
});
