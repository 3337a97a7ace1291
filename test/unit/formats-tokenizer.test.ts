import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openTokenizer } from '../../engine/formats/open-tokenizer.js';
import type { Tokenizer } from '../../engine/formats/tokenizer.js';
import { ggufBytes, type GgufParts } from '../kit/gguf.js';
import { describeWithModel } from '../kit/model.js';
import { temporaryDirectory } from '../kit/temporary.js';

const json = (name: string) => JSON.parse(readFileSync(`test/golden/${name}.json`, 'utf8'));
const corpus: string[] = json('tokenizer-corpus');
const golden: Record<string, number[][]> = json('tokenizer-ids');
const gguf = 'test/golden/formats-model.gguf';

/** A Hugging Face directory around a golden tokenizer.json. */
function huggingFace(name: string, config: object, model: object = {}): string {
  const directory = temporaryDirectory();
  copyFileSync(`test/golden/${name}.json`, join(directory, 'tokenizer.json'));
  writeFileSync(join(directory, 'tokenizer_config.json'), JSON.stringify(config));
  writeFileSync(join(directory, 'config.json'), JSON.stringify(model));
  return directory;
}
const llama = (config: object = {}) => huggingFace('tokenizer-sentencepiece', { bos_token: { content: '<s>' }, eos_token: '</s>', unk_token: '<unk>', ...config });

/** The texts whose ids differ from the golden ones. */
async function mismatches(tokenizer: Tokenizer, expected: number[][], addBos = false) {
  const ids = await tokenizer.encodeBatch(corpus.slice(0, expected.length), { addBos });
  return ids.flatMap((row, i) => (row.join() === expected[i].join() ? [] : [{ text: corpus[i], got: row, expected: expected[i] }]));
}

describe('ids are those of the tokenizers package', async () => {
  const [bytes, sentence] = [await openTokenizer(huggingFace('tokenizer-bytelevel', { eos_token: '<|im_end|>' })), await openTokenizer(llama())];
  it('over a corpus of 620 texts', () => expect(corpus.length).toBe(620));
  it('for a byte-level tokenizer.json', async () => expect(await mismatches(bytes, golden.bytelevel)).toEqual([]));
  it('for a LLaMA-like tokenizer.json', async () => expect(await mismatches(sentence, golden.sentencepiece)).toEqual([]));
  it('for one with BOS in front', async () => {
    expect(sentence.addsBos).toBe(true);
    // A text that starts with <s> keeps one; the package would give two.
    const doubled = golden.sentencepieceWithBos.map((ids) => (ids[1] === 1 ? ids.slice(1) : ids));
    expect(await mismatches(sentence, doubled, true)).toEqual([]);
  });
  it('for the vocabulary inside a GGUF', async () => expect(await mismatches(await openTokenizer(gguf), golden.bytelevel)).toEqual([]));
});

describe('decode', async () => {
  const tokenizer = await openTokenizer(gguf);
  it('gives every text back', async () => {
    const texts = await tokenizer.decodeBatch(await tokenizer.encodeBatch(corpus));
    expect(texts.filter((text, i) => text !== corpus[i])).toEqual([]);
  });
  it('leaves special tokens out when asked', async () => {
    const ids = await tokenizer.encode('a<|im_end|>b');
    expect(ids).toContain(tokenizer.eosTokenId);
    expect(await tokenizer.decode(ids)).toBe('a<|im_end|>b');
    expect(await tokenizer.decode(Int32Array.from(ids), { skipSpecial: true })).toBe('ab');
  });
});

describe('special tokens', () => {
  it('come from the GGUF', async () => {
    const tokenizer = await openTokenizer(gguf);
    expect(tokenizer).toMatchObject({ bosTokenId: 1, eosTokenId: 2, padTokenId: 2, addsBos: false, vocabSize: 640 });
    expect(tokenizer.idToToken(2)).toBe('<|im_end|>');
    expect(tokenizer.tokenToId('<|im_end|>')).toBe(2);
    expect(tokenizer.idToToken(640)).toBeUndefined();
    expect(await tokenizer.encode('', { addBos: true })).toEqual([1]);
  });
  it('come from config.json when tokenizer_config.json names none', async () =>
    expect((await openTokenizer(huggingFace('tokenizer-bytelevel', {}, { eos_token_id: [2, 0] }))).eosTokenId).toBe(2));
  it('must include an end', async () =>
    expect(openTokenizer(huggingFace('tokenizer-bytelevel', {}))).rejects.toThrow('tokenizer.json: eos_token: expected a token of the vocabulary, got none'));
  it('are left to the configuration where it says whether BOS is added', async () => expect((await openTokenizer(llama({ add_bos_token: false }))).addsBos).toBe(false));
});

describe('renderChat', () => {
  const messages = [{ role: 'user', content: 'hi' }];
  const render = async (template: unknown, addGenerationPrompt = false) => (await openTokenizer(llama({ chat_template: template }))).renderChat(messages, { addGenerationPrompt });

  it('renders the template inside a GGUF', async () =>
    expect((await openTokenizer(gguf)).renderChat(messages, { addGenerationPrompt: true })).toBe('<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n'));
  it('knows the special tokens and the generation prompt', async () =>
    expect(await render('{{ bos_token }}{{ messages[0].content }}{% if add_generation_prompt %}>{% endif %}{{ eos_token }}', true)).toBe('<s>hi></s>'));
  it('takes `default` of a list of templates', async () =>
    expect(await render([{ name: 'tool_use', template: 'no' }, { name: 'default', template: 'yes' }])).toBe('yes'));
  it('prefers chat_template.jinja', async () => {
    const directory = llama({ chat_template: 'old' });
    writeFileSync(join(directory, 'chat_template.jinja'), 'new');
    expect((await openTokenizer(directory)).renderChat(messages, { addGenerationPrompt: false })).toBe('new');
  });
  it('offers strftime_now', async () => expect(await render("{{ strftime_now('%Y') }}")).toMatch(/^\d{4}$/));
  it('says what a template raises', async () => {
    await expect(render("{{ raise_exception('roles must alternate') }}")).rejects.toMatchObject({
      failure: 'invalidInput', code: 'chat_template', message: 'chat template: expected to render 1 messages, got: roles must alternate',
    });
  });
  it('says when a template cannot be read', async () => expect(render('{% if %}')).rejects.toMatchObject({ code: 'chat_template' }));
  it('says when there is none', async () => expect(render(undefined)).rejects.toThrow('chat template: expected one, got none'));
});

describe('files', () => {
  it.each([['a GGUF', () => gguf], ['a Hugging Face directory', () => llama({ chat_template: 'x' })]])('of %s make a directory with the same tokenizer', async (_what, path) => {
    const original = await openTokenizer(path());
    const directory = temporaryDirectory();
    for (const [name, bytes] of await original.files()) writeFileSync(join(directory, name), bytes);
    writeFileSync(join(directory, 'config.json'), '{}');
    const copy = await openTokenizer(directory);
    expect(await copy.encodeBatch(corpus)).toEqual(await original.encodeBatch(corpus));
    for (const key of ['bosTokenId', 'eosTokenId', 'padTokenId', 'addsBos', 'vocabSize', 'chatTemplate'] as const) expect(copy[key], key).toBe(original[key]);
  });
});

describe('a vocabulary inside a GGUF', () => {
  const directory = temporaryDirectory();
  const open = (metadata: GgufParts['metadata']) => {
    writeFileSync(join(directory, 'v.gguf'), ggufBytes({ metadata }));
    return openTokenizer(directory);
  };
  const key = (name: string) => `tokenizer.ggml.${name}`;
  const bytes: GgufParts['metadata'] = [[key('model'), 'gpt2'], [key('pre'), 'smollm'], [key('tokens'), ['<e>', 'a', 'b', 'ab']], [key('token_type'), [3, 1, 1, 1]], [key('merges'), ['a b']], [key('eos_token_id'), 0]];
  const changed = (name: string, value: string | string[] | number[] | number) => open(bytes.map(([at, old]) => [at, at === key(name) ? value : old]));

  it('of SentencePiece merges by score and falls back to bytes', async () => {
    const hex = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
    const tokenizer = await open([
      [key('model'), 'llama'], [key('tokens'), ['<unk>', '<s>', '</s>', ...hex, '▁a', 'ab', '▁', 'a', 'b', '▁ab']],
      [key('token_type'), [2, 3, 3, ...hex.map(() => 6), 1, 1, 1, 1, 1, 1]],
      [key('scores'), [0, 0, 0, ...hex.map(() => 0), 5.5, 9.5, 1.5, 1.5, 1.5, 0.5]],
      [key('bos_token_id'), 1], [key('eos_token_id'), 2], [key('unknown_token_id'), 0],
    ]);
    const base = 3 + 256;
    expect(await tokenizer.encode('ab')).toEqual([base + 5]); // ab before ▁a, then ▁ab
    expect(await tokenizer.encode('aé')).toEqual([base, 3 + 0xc3, 3 + 0xa9]);
    expect(await tokenizer.decode([base, 3 + 0xc3, 3 + 0xa9])).toBe('aé');
    expect(tokenizer.addsBos).toBe(true);
  });
  it('with an unknown split is refused with those that are known', async () =>
    expect(changed('pre', 'falcon')).rejects.toThrow('v.gguf: tokenizer.ggml.pre: expected one of gpt-2, smollm, starcoder, refact, llama-bpe, llama-v3, llama3, smaug-bpe, qwen2, deepseek-r1-qwen, tekken, got falcon'));
  it('of another kind is refused', async () => expect(changed('model', 'bert')).rejects.toThrow('v.gguf: tokenizer.ggml.model: expected gpt2 or llama, got bert'));
  it('that is not there is refused', async () => expect(open([])).rejects.toMatchObject({ code: 'unsupported' }));
  it('with a merge of unknown tokens is refused', async () => expect(changed('merges', ['a c'])).rejects.toThrow('expected two tokens that make a third, got "a c"'));
  it('with an id outside is refused', async () => expect(changed('eos_token_id', 4)).rejects.toThrow('tokenizer.ggml.eos_token_id: expected an id below 4, got 4'));
  it('with a list of another length is refused', async () => expect(changed('token_type', [1])).rejects.toThrow('tokenizer.ggml.token_type: expected 4 entries, got 1'));
});

it('a tokenizer.json that is none is refused by name', async () => {
  const directory = llama();
  writeFileSync(join(directory, 'tokenizer.json'), '{"model":{}}');
  await expect(openTokenizer(directory)).rejects.toMatchObject({ code: 'bad_header', failure: 'invalidInput' });
});

await describeWithModel('the tokenizer of SmolLM2-135M-Instruct', (directory) => {
  it('gives the ids of one built with the tokenizers package', async () => expect(await mismatches(await openTokenizer(directory), golden.smollm2)).toEqual([]));
  it('gives every text back, but for control characters that its vocabulary lacks', async () => {
    const tokenizer = await openTokenizer(directory);
    const lacking = /[\u0004\u0006\u0013\u0014\u0016\u001d]/gu;
    const texts = await tokenizer.decodeBatch(await tokenizer.encodeBatch(corpus));
    expect(texts).toEqual(corpus.map((text) => text.replace(lacking, '')));
  });
  it('puts its system message before a chat', async () =>
    expect((await openTokenizer(directory)).renderChat([{ role: 'user', content: 'hi' }], { addGenerationPrompt: true })).toBe(
      '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n',
    ));
});
