import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { BinaryFile } from '../../engine/formats/binary-file.js';
import { ggmlTypes } from '../../engine/formats/ggml-blocks.js';
import { quantizers, type QuantizedType } from '../../engine/formats/ggml-quantize.js';
import { readGgufHeader, type GgufHeader } from '../../engine/formats/gguf-header.js';
import { ggufName, huggingFaceName } from '../../engine/formats/gguf-names.js';
import { ggufProblems, writeGgufModel, type GgufMixture } from '../../engine/formats/gguf-write-model.js';
import { ggufTokenizer } from '../../engine/formats/gguf-write-tokenizer.js';
import { tokenKinds } from '../../engine/formats/gguf-vocabulary.js';
import type { GgufField } from '../../engine/formats/gguf-write.js';
import type { LlamaConfig } from '../../engine/formats/llama-config.js';
import { llamaTensors } from '../../engine/formats/llama-tensors.js';
import { openModel } from '../../engine/formats/open-model.js';
import { readSafetensors, type SafetensorsTensor } from '../../engine/formats/safetensors.js';
import type { Tokenizer } from '../../engine/formats/tokenizer.js';
import { goldenPath, relativeError } from '../kit/golden.js';
import { goldenTokenizer, randomModel, smallConfig } from '../kit/random-model.js';
import { temporaryDirectory } from '../kit/temporary.js';

const directory = temporaryDirectory();

describe('quantising to GGML blocks', () => {
  let golden: Map<string, SafetensorsTensor>;
  let values: Float32Array;
  beforeAll(async () => {
    golden = await readSafetensors(goldenPath('ggml-quantize.safetensors'));
    values = golden.get('values')!.data as Float32Array;
  });
  const decoded = (type: QuantizedType, bytes: Uint8Array, count: number): Float32Array => {
    const out = new Float32Array(count);
    ggmlTypes.get(quantizers[type].type)!.decode(bytes.slice(), out);
    return out;
  };

  it.each(['F16', 'Q5_0', 'Q8_0'] as const)('%s is ggml\'s, byte for byte', (type) =>
    expect(Buffer.from(quantizers[type].encode(values)).equals(Buffer.from(golden.get(type)!.data as Uint8Array))).toBe(true));

  it.each(['Q4_K', 'Q6_K'] as const)('%s is as close to the values as ggml\'s', (type) => {
    const [ours, theirs] = [quantizers[type].encode(values), golden.get(type)!.data as Uint8Array];
    expect(ours).toHaveLength(theirs.length);
    const error = (bytes: Uint8Array, from = 0, to = values.length) => relativeError(decoded(type, bytes, values.length).subarray(from, to), values.subarray(from, to));
    expect(error(ours)).toBeLessThan(1.003 * error(theirs));
    for (const [from, to] of [[0, 12], [12, 24], [24, 32]].map((rows) => rows.map((row) => row * 512))) expect(error(ours, from, to)).toBeLessThan(1.005 * error(theirs, from, to));
  });

  it('keeps zeros, and refuses what a half float cannot hold', () => {
    for (const type of ['F16', 'Q5_0', 'Q8_0', 'Q4_K', 'Q6_K'] as const) expect(decoded(type, quantizers[type].encode(new Float32Array(256)), 256).every((value) => value === 0)).toBe(true);
    expect(() => quantizers.F16.encode(Float32Array.of(1, 70_000))).toThrow('F16: expected values within ±65504, got 70000');
  });
});

describe('tensor names', () => {
  it('lead from one world to the other and back', () => {
    const config: LlamaConfig = { ...smallConfig, qkNorm: true, biases: ['q_proj', 'down_proj'] };
    const names = [...llamaTensors(config).keys()];
    expect(new Set(names.map(ggufName)).size).toBe(names.length);
    expect(names.map((name) => huggingFaceName(ggufName(name)))).toEqual(names);
    expect([ggufName('model.layers.1.self_attn.q_proj.bias'), ggufName('lm_head.weight')]).toEqual(['blk.1.attn_q.bias', 'output.weight']);
  });
});

async function headerOf(path: string): Promise<GgufHeader> {
  const file = await BinaryFile.open(path);
  return readGgufHeader(file).finally(() => file.close());
}
const typesOf = ({ tensors }: GgufHeader): Record<string, string> => Object.fromEntries([...tensors].map(([name, { type }]) => [name, ggmlTypes.get(type)!.name]));

const list = (metadata: ReadonlyMap<string, GgufField>, key: string) => (metadata.get(`tokenizer.ggml.${key}`) as Extract<GgufField, { type: 'strings' | 'i32s' | 'f32s' }>).value;

describe('a model as GGUF', () => {
  let tokenizer: Tokenizer;
  let count = 0;
  beforeAll(async () => {
    tokenizer = await goldenTokenizer(directory, 'bytelevel');
  });
  async function write(change: Partial<LlamaConfig>, mixture: GgufMixture, license?: string) {
    const source = randomModel(change);
    const path = join(directory, `${count++}.gguf`);
    const seen: [number, number][] = [];
    await writeGgufModel(path, { source, tokenizer, name: 'small', license }, mixture, async (done, total) => void seen.push([done, total]));
    return { source, path, seen };
  }

  it.each<[string, Partial<LlamaConfig>]>([
    ['llama', {}],
    ['llama of tied embeddings with llama3 scaling', { tiedEmbeddings: true, ropeTheta: 500_000, ropeScaling: { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContextLength: 8192 } }],
    ['llama with linear scaling', { contextLength: 256, ropeScaling: { type: 'linear', factor: 2, originalContextLength: 128 } }],
    ['mistral', { architecture: 'mistral', slidingWindow: { size: 64 } }],
    ['qwen2', { architecture: 'qwen2', biases: ['q_proj', 'k_proj', 'v_proj'] }],
    ['qwen3', { architecture: 'qwen3', qkNorm: true, headDim: 32 }],
    ['smollm3', { architecture: 'smollm3', layers: 4, unrotatedLayers: [3] }],
  ])('is read back as it was, to the precision of half floats: %s', async (_, change) => {
    const { source, path, seen } = await write(change, 'f16');
    const back = await openModel(path);
    expect(back.config).toEqual(source.config);
    expect(new Set(back.names())).toEqual(new Set(source.names()));
    for (const name of source.names()) expect(relativeError(await back.read(name), await source.read(name)), name).toBeLessThan(4e-4);
    await back.close();
    expect(seen.at(-1)![0]).toBe(seen.at(-1)![1]);
  });

  it('carries tokenizer, chat template, license and file type', async () => {
    const { metadata } = await headerOf((await write({ eosTokenIds: [2, 0] }, 'q8_0', 'apache-2.0')).path);
    expect(Object.fromEntries([...metadata].filter(([, value]) => !Array.isArray(value)))).toMatchObject({
      'general.architecture': 'llama', 'general.type': 'model', 'general.name': 'small', 'general.license': 'apache-2.0', 'general.file_type': 7, 'general.quantization_version': 2,
      'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.pre': 'smollm', 'tokenizer.ggml.bos_token_id': 1, 'tokenizer.ggml.eos_token_id': 2, 'tokenizer.ggml.eot_token_id': 0,
      'tokenizer.ggml.add_bos_token': false, 'tokenizer.ggml.add_eos_token': false, 'tokenizer.chat_template': tokenizer.chatTemplate,
    });
    expect(metadata.get('tokenizer.ggml.token_type')).toEqual([3, 3, 3, ...Array.from({ length: 637 }, () => 1)]);
  });

  it('mixes types as llama.cpp\'s Q4_K_M does', async () => {
    const wide: Partial<LlamaConfig> = { hiddenSize: 256, intermediateSize: 512, heads: 4, kvHeads: 2, headDim: 64, layers: 8 };
    const types = typesOf(await headerOf((await write(wide, 'q4_k_m')).path));
    expect([types['token_embd.weight'], types['output.weight'], types['output_norm.weight'], types['blk.0.attn_norm.weight']]).toEqual(['Q4_K', 'Q6_K', 'F32', 'F32']);
    for (const part of ['attn_v', 'ffn_down']) {
      expect(Array.from({ length: 8 }, (_, layer) => types[`blk.${layer}.${part}.weight`]), part).toEqual(['Q6_K', 'Q4_K', 'Q4_K', 'Q6_K', 'Q4_K', 'Q4_K', 'Q6_K', 'Q6_K']);
    }
    for (const part of ['attn_q', 'attn_k', 'attn_output', 'ffn_gate', 'ffn_up']) expect(types[`blk.3.${part}.weight`], part).toBe('Q4_K');
    expect(typesOf(await headerOf((await write({ ...wide, tiedEmbeddings: true }, 'q4_k_m')).path))['token_embd.weight']).toBe('Q6_K');
  });

  it('takes the types that fit where rows are not whole super-blocks', async () => {
    const types = typesOf(await headerOf((await write({ layers: 8 }, 'q4_k_m')).path));
    expect([types['blk.0.ffn_up.weight'], types['blk.0.attn_v.weight'], types['blk.1.attn_v.weight'], types['output.weight']]).toEqual(['Q5_0', 'Q8_0', 'Q5_0', 'Q8_0']);
  });

  it('pads the vocabulary to the embedding\'s rows with unused tokens', async () => {
    const metadata = await ggufTokenizer(tokenizer, 645, [2]);
    expect(list(metadata, 'tokens').slice(639)).toEqual([tokenizer.idToToken(639), '[PAD640]', '[PAD641]', '[PAD642]', '[PAD643]', '[PAD644]']);
    expect(list(metadata, 'token_type').slice(639)).toEqual([1, 5, 5, 5, 5, 5]);
    await expect(ggufTokenizer(tokenizer, 630, [2])).rejects.toThrow('expected an id below 630, the rows of the embedding, got 6');
  });

  it('ranks the pieces of SentencePiece by the merges that make them', async () => {
    const pieces = await goldenTokenizer(directory, 'sentencepiece');
    const metadata = await ggufTokenizer(pieces, 640, [2]);
    const [tokens, kinds, values] = ['tokens', 'token_type', 'scores'].map((key) => list(metadata, key));
    const scores = new Map(tokens.map((token, id) => [token, kinds[id] === tokenKinds.normal ? values[id] : undefined]));
    const { merges } = (JSON.parse(readFileSync(goldenPath('tokenizer-sentencepiece.json'), 'utf8')) as { model: { merges: (string | string[])[] } }).model;
    const made = [...new Set(merges.map((merge) => (typeof merge === 'string' ? merge.split(' ') : merge).join('')))];
    const normal = made.flatMap((token, place) => (scores.get(token) === undefined ? [] : [[scores.get(token), 0 - place]]));
    expect(normal.length).toBeGreaterThan(250);
    expect(normal.every(([score, expected]) => score === expected)).toBe(true);
    expect([metadata.get('tokenizer.ggml.add_space_prefix'), kinds.slice(0, 4)]).toEqual([{ type: 'bool', value: true }, [2, 3, 3, 6]]);
  });
});

describe('what cannot be a GGUF', () => {
  it('is told by what llama.cpp lacks', () => {
    expect(ggufProblems(smallConfig)).toEqual([]);
    expect(ggufProblems({ ...smallConfig, ropeScaling: { type: 'dynamic', factor: 2, originalContextLength: 64 } })).toEqual(['rope scaling dynamic: llama.cpp has none']);
    expect(ggufProblems({ ...smallConfig, architecture: 'qwen2', slidingWindow: { size: 64, layers: [1] } })).toEqual(['a sliding window in layers of qwen2: llama.cpp has none']);
    expect(ggufProblems({ ...smallConfig, architecture: 'smollm3', layers: 4, unrotatedLayers: [1, 3] })).toEqual(['layers without rotation other than every fourth: llama.cpp has none']);
  });

  it('is a split that it has no name for', async () => {
    const tokenizer = await goldenTokenizer(directory, 'bytelevel');
    const json = JSON.parse(readFileSync(goldenPath('tokenizer-bytelevel.json'), 'utf8')) as object;
    const files = async () => new Map([['tokenizer.json', Buffer.from(JSON.stringify({ ...json, pre_tokenizer: { type: 'Whitespace' } }))]]);
    const strange = Object.assign(Object.create(tokenizer) as Tokenizer, { files });
    await expect(ggufTokenizer(strange, 640, [2])).rejects.toMatchObject({ code: 'gguf_unsupported', message: expect.stringContaining('expected a split that llama.cpp has a name for, got') });
  });
});
