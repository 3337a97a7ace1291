import { copyFileSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { EngineError } from '../../engine/errors.js';
import { BinaryFile } from '../../engine/formats/binary-file.js';
import { ggmlTypes } from '../../engine/formats/ggml-blocks.js';
import { readGgufHeader } from '../../engine/formats/gguf-header.js';
import { GgufModel } from '../../engine/formats/gguf-model.js';
import { readSafetensors } from '../../engine/formats/safetensors.js';
import { openModel } from '../../engine/formats/open-model.js';
import { openTokenizer } from '../../engine/formats/open-tokenizer.js';
import { ggufBytes, type GgufParts } from '../kit/gguf.js';
import { architectureGolden } from '../kit/formula-models.js';
import { goldenPath } from '../kit/golden.js';
import { describeWithModel } from '../kit/model.js';
import { temporaryDirectory } from '../kit/temporary.js';

const directory = temporaryDirectory();
const golden = 'test/golden/formats-model.gguf';
const write = (name: string, bytes: Uint8Array) => (writeFileSync(join(directory, name), bytes), join(directory, name));
const failure = (promise: Promise<unknown>) => promise.then(() => undefined, (reason: unknown) => reason);

async function header(parts: GgufParts) {
  const file = await BinaryFile.open(write('header.gguf', ggufBytes(parts)));
  return readGgufHeader(file).finally(() => file.close());
}

describe('GGML blocks', async () => {
  const blocks = await readSafetensors('test/golden/formats-blocks.safetensors');
  const quantised = [...ggmlTypes.values()].filter((type) => type.values > 1);
  it.each(quantised.map((type) => [type.name, type] as const))('%s gives the values of the gguf package', (name, { decode }) => {
    const expected = blocks.get(`${name}.values`)!.data as Float32Array;
    const values = new Float32Array(expected.length);
    decode(blocks.get(`${name}.bytes`)!.data as Uint8Array, values);
    expect([...values].filter((value, i) => value !== expected[i])).toEqual([]);
  });
});

describe('a GGUF of a LLaMA', () => {
  it('gives the weights under Hugging Face names, with q and k in Hugging Face order', async () => {
    const expected = await readSafetensors('test/golden/formats-model.safetensors');
    const model = await GgufModel.open(golden);
    expect(model.names().sort()).toEqual([...expected.keys()].sort());
    for (const [name, { shape, data }] of expected) {
      expect(model.shape(name), name).toEqual(shape);
      expect(await model.read(name), name).toEqual(data);
    }
    await model.close();
  });

  it('gives the configuration', async () => {
    const model = await GgufModel.open(golden);
    await model.close();
    expect(model.config).toEqual({
      architecture: 'llama', vocabSize: 640, hiddenSize: 32, intermediateSize: 64, layers: 2, heads: 4, kvHeads: 2, headDim: 8, contextLength: 128,
      ropeTheta: 10000, rmsNormEps: 1e-5, tiedEmbeddings: true, bosTokenId: 1, eosTokenIds: [2],
    });
  });

  it('that is cut short names the file, the expected and the actual bytes', async () => {
    const bytes = readFileSync(golden);
    expect(await failure(GgufModel.open(write('short.gguf', bytes.subarray(0, bytes.length - 100))))).toMatchObject({
      code: 'truncated', failure: 'invalidInput', message: `short.gguf: file: expected ${bytes.length} bytes, got ${bytes.length - 100}`,
    });
  });

  it('with a NaN names the tensor and the place', async () => {
    const bytes = Buffer.from(readFileSync(golden));
    bytes.writeFloatLE(NaN, bytes.length - 4); // output_norm.weight is last
    const model = await GgufModel.open(write('nan.gguf', bytes));
    expect(await failure(model.read('model.norm.weight'))).toMatchObject({
      code: 'nan_weights', message: 'nan.gguf: tensor model.norm.weight: expected finite values, got NaN at index 31',
    });
    await model.close();
  });

  it('of another architecture or with scaled rotation is refused by name', async () => {
    const open = (metadata: GgufParts['metadata']) => failure(GgufModel.open(write('other.gguf', ggufBytes({ metadata }))));
    expect(await open([['general.architecture', 'gemma3']])).toMatchObject({
      code: 'unsupported', message: 'other.gguf: general.architecture: expected one of the supported architectures (llama, qwen2, qwen3, smollm3), got "gemma3"',
    });
    const bytes = Buffer.from(readFileSync(goldenPath('architectures/llama-linear-biases.gguf')));
    bytes.write('cosine', bytes.indexOf('linear'));
    expect(await failure(GgufModel.open(write('other.gguf', bytes)))).toMatchObject({
      code: 'unsupported', message: 'other.gguf: llama.rope.scaling.type: expected one of none, linear, got cosine',
    });
    expect(await open([['general.architecture', 'llama'], ['llama.expert_count', 8]])).toMatchObject({ code: 'unsupported' });
    expect(await open([['general.architecture', 'llama']])).toMatchObject({ code: 'bad_header', message: 'other.gguf: llama.embedding_length: expected a number, got none' });
  });

  it("with rotary factors that are not llama3's is refused", async () => {
    const bytes = Buffer.from(readFileSync(goldenPath('architectures/llama-llama3.gguf')));
    const file = await BinaryFile.open(write('factors.gguf', bytes));
    const { start } = (await readGgufHeader(file)).tensors.get('rope_freqs.weight')!;
    await file.close();
    bytes.writeFloatLE(1.5, start);
    expect(await failure(GgufModel.open(write('factors.gguf', bytes)))).toMatchObject({
      code: 'unsupported', message: "factors.gguf: tensor rope_freqs.weight: expected the factors of llama3's rope scaling, got others",
    });
  });

  it('in several files is read as one, whichever part or directory is named', async () => {
    const parts = join(directory, 'parts');
    mkdirSync(parts);
    const names = [1, 2, 3].map((part) => `qwen2-0000${part}-of-00003.gguf`);
    for (const name of names) copyFileSync(goldenPath(`architectures/${name}`), join(parts, name));
    for (const path of [parts, join(parts, names[0]), join(parts, names[2])]) {
      const model = await openModel(path);
      expect(model.names().sort()).toEqual(Object.keys(architectureGolden.models.qwen2.tensors).sort());
      await model.close();
    }
    rmSync(join(parts, names[1]));
    expect(await failure(openModel(parts))).toMatchObject({ code: 'missing_file', message: 'qwen2-00002-of-00003.gguf: file: expected to exist, got none' });
    renameSync(join(parts, names[0]), join(parts, 'alone.gguf'));
    expect(await failure(openModel(join(parts, 'alone.gguf')))).toMatchObject({
      code: 'bad_header', message: "alone.gguf: split.count: expected the number in the file's name (…-00001-of-0000N.gguf), got 3",
    });
  });

  it('with a huge layer count is refused before anything is built for it', async () => {
    const bytes = Buffer.from(readFileSync(golden));
    const at = bytes.indexOf('llama.block_count') + 'llama.block_count'.length + 4;
    bytes.writeUInt32LE(0xffffffff, at);
    expect(await failure(GgufModel.open(write('deep.gguf', bytes)))).toMatchObject({ code: 'missing_tensor' });
  });

  it('that was cut or flipped anywhere in its header is read or refused, never more', async () => {
    const good = readFileSync(golden);
    let refused = 0;
    for (let i = 0; i < 300; i++) {
      const bytes = Buffer.from(i % 3 ? good : good.subarray(0, (i * 7919) % good.length));
      if (i % 3) bytes[(i * 104729) % Math.min(bytes.length, 16000)] ^= 1 << i % 8;
      const path = write('bad.gguf', bytes);
      const read = async () => {
        const model = await GgufModel.open(path);
        try {
          for (const name of model.names()) await model.read(name);
        } finally {
          await model.close();
        }
        await openTokenizer(path);
      };
      const error = await failure(read());
      if (error === undefined) continue;
      expect(error).toBeInstanceOf(EngineError);
      refused++;
    }
    expect(refused).toBeGreaterThan(100);
  });
});

describe('a GGUF header', () => {
  const tensor = { name: 'x', dimensions: [4], type: 0, offset: 0 };
  const data = new Uint8Array(16);
  it('gives metadata of every kind', async () => {
    const { metadata, tensors, version } = await header({
      version: 2, metadata: [['a', 7], ['b', 1.5], ['c', 'ü'], ['d', true], ['e', ['x', 'y']], ['f', [1, 2]]], tensors: [{ ...tensor, dimensions: [2, 2] }], data,
    });
    expect(version).toBe(2);
    expect(Object.fromEntries(metadata)).toEqual({ a: 7, b: 1.5, c: 'ü', d: true, e: ['x', 'y'], f: [1, 2] });
    expect(tensors.get('x')).toMatchObject({ shape: [2, 2], type: 0 });
  });

  it.each<[string, GgufParts, string, string]>([
    ['another magic', { magic: 'GGML' }, 'wrong_magic', 'header.gguf: magic: expected GGUF, got "GGML"'],
    ['an old version', { version: 1 }, 'unsupported', 'version: expected 2 or 3, got 1'],
    ['the other byte order', { version: 0x03000000 }, 'unsupported', 'got a big-endian file'],
    ['more keys than the file holds', { keyCount: 2n ** 40n }, 'truncated', 'for its header'],
    ['a count beyond 2^53', { tensorCount: 2n ** 63n }, 'bad_header', 'tensor count: expected below 2^53'],
    ['a key twice', { metadata: [['a', 1], ['a', 2]] }, 'bad_header', 'metadata a: expected once, got twice'],
    ['a tensor twice', { tensors: [tensor, tensor], data }, 'bad_header', 'tensor x: expected once, got twice'],
    ['overlapping tensors', { tensors: [{ ...tensor, dimensions: [16] }, { ...tensor, name: 'y', offset: 32 }], data: new Uint8Array(64) }, 'bad_header', 'tensor y: expected bytes of its own'],
    ['an offset off the grid', { tensors: [{ ...tensor, offset: 4 }], data }, 'bad_header', 'expected an offset divisible by 32, got 4'],
    ['an offset behind the end', { tensors: [{ ...tensor, offset: 2 ** 40 }], data }, 'truncated', 'expected'],
    ['a size that overflows', { tensors: [{ ...tensor, dimensions: [2 ** 30, 2 ** 30] }], data }, 'bad_header', 'expected a size below 2^53'],
    ['a dimension beyond 2^53', { tensors: [{ ...tensor, dimensions: [2n ** 60n] }], data }, 'bad_header', 'dimension: expected below 2^53'],
    ['five dimensions', { tensors: [{ ...tensor, dimensions: [1, 1, 1, 1, 1] }], data }, 'bad_header', 'expected 1 to 4 dimensions, got 5'],
    ['rows that are not whole blocks', { tensors: [{ ...tensor, dimensions: [33], type: 8 }], data }, 'bad_header', 'expected rows of a multiple of 32 values for Q8_0, got 33'],
    ['an unknown tensor type', { tensors: [{ ...tensor, type: 99 }], data }, 'unsupported', 'got GGML type 99'],
    ['an odd alignment', { metadata: [['general.alignment', 24]] }, 'bad_header', 'expected a power of two'],
    ['alignment zero', { metadata: [['general.alignment', 0]] }, 'bad_header', 'expected a power of two'],
  ])('with %s is refused', async (_what, parts, code, message) => {
    const error = await failure(header(parts));
    expect(error).toMatchObject({ failure: 'invalidInput', code });
    expect((error as Error).message).toContain(message);
  });
});

await describeWithModel('SmolLM2-135M-Instruct', (model) => {
  it('has 134,515,008 finite parameters', async () => {
    const source = await openModel(model);
    let total = 0;
    for (const name of source.names()) total += (await source.read(name)).length;
    await source.close();
    expect(total).toBe(134_515_008);
  });
});
