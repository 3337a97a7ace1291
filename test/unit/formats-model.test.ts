import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../../engine/formats/half-floats.js';
import { describeModel, openModel } from '../../engine/formats/open-model.js';
import { openTokenizer } from '../../engine/formats/open-tokenizer.js';
import { readSafetensors, SafetensorsFile, writeSafetensors } from '../../engine/formats/safetensors.js';
import { writeHuggingFaceModel, type HuggingFaceModelOptions } from '../../engine/formats/write-huggingface-model.js';
import { temporaryDirectory } from '../kit/temporary.js';

const gguf = 'test/golden/formats-model.gguf';
const expected = await readSafetensors('test/golden/formats-model.safetensors');
const floats = (name: string) => expected.get(name)!.data as Float32Array;

/** The golden GGUF written as a Hugging Face directory. */
async function convert(options?: HuggingFaceModelOptions) {
  const directory = temporaryDirectory();
  const source = await openModel(gguf);
  const files = await writeHuggingFaceModel(directory, { config: source.config, read: (name) => source.read(name), tokenizer: await openTokenizer(gguf) }, options);
  await source.close();
  return { directory, files };
}
const edit = (directory: string, change: (config: Record<string, unknown>) => void) => {
  const path = join(directory, 'config.json');
  const config = JSON.parse(readFileSync(path, 'utf8'));
  change(config);
  writeFileSync(path, JSON.stringify(config));
};

describe('writeHuggingFaceModel', () => {
  it.each([
    ['bf16', (values: Float32Array) => bf16ToF32(f32ToBf16(values))],
    ['f16', (values: Float32Array) => f16ToF32(f32ToF16(values))],
    ['f32', (values: Float32Array) => values],
  ] as const)('gives the weights back, rounded to %s', async (dtype, round) => {
    const { directory } = await convert({ dtype });
    const model = await openModel(directory);
    expect(model.names().sort()).toEqual([...expected.keys()].sort());
    for (const name of model.names()) expect(await model.read(name), name).toEqual(round(floats(name)));
    await model.close();
  });

  it('writes what transformers looks for, and progress', async () => {
    const seen: [number, number][] = [];
    const { directory, files } = await convert({ onTensor: (done, total) => void seen.push([done, total]) });
    expect(files).toEqual(['config.json', 'generation_config.json', 'model.safetensors', 'special_tokens_map.json', 'tokenizer.json', 'tokenizer_config.json']);
    expect(seen.at(-1)).toEqual([20, 20]);
    const weights = await SafetensorsFile.open(join(directory, 'model.safetensors'));
    await weights.close();
    expect(weights.metadata).toEqual({ format: 'pt' });
  });

  it('keeps the configuration', async () => {
    const { directory } = await convert();
    expect(await describeModel(directory)).toEqual({ ...(await describeModel(gguf)), format: 'safetensors' });
  });

  it('cuts into shards with an index, whole as one file', async () => {
    const { directory, files } = await convert({ dtype: 'f32', maxShardBytes: 60_000 });
    const shards = files.filter((name) => name.endsWith('.safetensors'));
    expect(shards.length).toBeGreaterThan(1);
    expect(shards[0]).toBe(`model-00001-of-0000${shards.length}.safetensors`);
    const index = JSON.parse(readFileSync(join(directory, 'model.safetensors.index.json'), 'utf8'));
    expect(index.metadata.total_size).toBe([...expected.values()].reduce((total, { data }) => total + data.byteLength, 0));
    const model = await openModel(directory);
    for (const name of expected.keys()) expect(await model.read(name), name).toEqual(floats(name));
    await model.close();
  });

  it('gives the same bytes every time', async () => {
    const [first, second] = [await convert(), await convert()];
    for (const name of first.files) expect(readFileSync(join(first.directory, name)).equals(readFileSync(join(second.directory, name))), name).toBe(true);
  });
});

describe('describeModel', () => {
  it('counts the parameters, a tied output once', async () => {
    const total = [...expected.values()].reduce((sum, { data }) => sum + data.length, 0);
    expect((await describeModel(gguf)).parameters).toBe(total);
  });

  it('takes the configuration of transformers 4 and 5', async () => {
    const { directory } = await convert();
    edit(directory, (config) => {
      delete config.rope_theta;
      delete config.head_dim;
      config.rope_parameters = { rope_theta: 500000, rope_type: 'default' };
      config.eos_token_id = [2, 0];
    });
    expect(await describeModel(directory)).toMatchObject({ ropeTheta: 500000, headDim: 8, eosTokenIds: [2, 0] });
  });

  it('takes ends of an answer from generation_config.json too', async () => {
    const { directory } = await convert();
    writeFileSync(join(directory, 'generation_config.json'), '{"eos_token_id": [0, 2]}');
    expect((await describeModel(directory)).eosTokenIds).toEqual([2, 0]);
  });

  it.each<[string, Record<string, unknown>, string]>([
    ['another architecture', { model_type: 'gemma3_text' }, 'config.json: model_type: expected one of the supported architectures (llama, mistral, qwen2, qwen3, smollm3), got "gemma3_text"'],
    ['everything that it cannot compute, at once', { rope_scaling: { rope_type: 'longrope' }, attention_dropout: 0.1, attention_bias: 1 },
      'config.json: attention_dropout: expected 0, got 0.1; attention_bias: expected true or false, got 1; rope_type: expected one of default, linear, dynamic, llama3, got "longrope"'],
    ['a rope scaling without its numbers', { rope_scaling: { type: 'llama3', factor: 8 } },
      'rope low_freq_factor: expected a positive number, got nothing; rope high_freq_factor: expected a positive number, got nothing'],
    ['a part of a head rotated', { partial_rotary_factor: 0.5 }, 'partial_rotary_factor: expected 1, got 0.5'],
    ['biases that are not there', { attention_bias: true }, 'tensors: expected to exist, got none: model.layers.0.self_attn.q_proj.bias'],
    ['layers of an unknown kind', { model_type: 'qwen3', use_sliding_window: true, layer_types: ['full_attention', 'chunked_attention'] }, 'layer_types: expected 2 of full_attention, sliding_attention, got ["full_attention","chunked_attention"]'],
    ['a list of rotated layers that is too short', { model_type: 'smollm3', no_rope_layers: [1] }, 'no_rope_layers: expected 2 of 0 and 1, got [1]'],
    ['more layers than any file has', { model_type: 'smollm3', num_hidden_layers: 4e9 }, 'tensors: expected at least 36000000000 for 4000000000 layers, got 20'],
    ['heads that do not divide', { num_key_value_heads: 3 }, 'config.json: kvHeads: expected a divisor of 4 heads, got 3'],
    ['a missing number', { hidden_size: undefined }, 'hidden_size: expected a number, got nothing'],
    ['a number that is text', { rope_theta: '10000' }, 'rope_theta: expected a positive number, got "10000"'],
    ['weights of another shape', { intermediate_size: 65 }, 'model.safetensors: tensor model.layers.0.mlp.gate_proj.weight: expected [65,32], got [64,32]'],
    ['a layer too many', { num_hidden_layers: 3 }, 'model.safetensors: tensors: expected at least 27 for 3 layers, got 20'],
    ['an output that is not there', { tie_word_embeddings: false }, 'model.safetensors: tensors: expected to exist, got none: lm_head.weight'],
    ['a layer too few', { num_hidden_layers: 1 }, 'model.safetensors: tensors: expected those of llama alone, got others too: model.layers.1'],
  ])('refuses %s', async (_what, change, message) => {
    const { directory } = await convert();
    edit(directory, (config) => Object.assign(config, change));
    const error = await describeModel(directory).then(() => undefined, (reason: Error) => reason);
    expect(error).toMatchObject({ failure: 'invalidInput', name: 'FormatError' });
    expect(error!.message).toContain(message);
  });

  it('names a shard that is missing', async () => {
    const { directory } = await convert();
    writeFileSync(join(directory, 'model.safetensors.index.json'), JSON.stringify({ weight_map: { a: 'model-00001-of-00002.safetensors' } }));
    await expect(describeModel(directory)).rejects.toThrow('model-00001-of-00002.safetensors: file: expected to exist, got none');
  });

  it('does not follow an index out of the directory', async () => {
    const { directory } = await convert();
    writeFileSync(join(directory, 'model.safetensors.index.json'), JSON.stringify({ weight_map: { a: '../secret.safetensors' } }));
    await expect(describeModel(directory)).rejects.toThrow('expected names of .safetensors files in the directory, got "../secret.safetensors"');
  });

  it('refuses what is no model', async () => {
    const directory = temporaryDirectory();
    await expect(describeModel(join(directory, 'none'))).rejects.toMatchObject({ code: 'missing_file' });
    await expect(describeModel(directory)).rejects.toThrow('model: expected config.json with safetensors or pytorch_model.bin, or one .gguf file, got an empty directory');
    for (const name of ['a.gguf', 'b.gguf']) copyFileSync(gguf, join(directory, name));
    await expect(describeModel(directory)).rejects.toThrow('got a.gguf, b.gguf');
    writeFileSync(join(directory, 'config.json'), '{');
    await expect(describeModel(directory)).rejects.toMatchObject({ code: 'bad_header' });
    writeFileSync(join(directory, 'config.json'), JSON.stringify({ model_type: 'llama' }));
    await expect(describeModel(directory)).rejects.toMatchObject({ code: 'unsupported' });
  });
});

it('a weight that is not finite is named', async () => {
  const { directory } = await convert({ dtype: 'f32' });
  const path = join(directory, 'model.safetensors');
  const tensors = await readSafetensors(path);
  (tensors.get('model.norm.weight')!.data as Float32Array)[3] = Infinity;
  await writeSafetensors(path, tensors);
  const model = await openModel(directory);
  await expect(model.read('model.norm.weight')).rejects.toMatchObject({
    code: 'nan_weights', message: 'model.safetensors: tensor model.norm.weight: expected finite values, got Infinity at index 3',
  });
  await expect(model.read('nothing')).rejects.toMatchObject({ code: 'missing_tensor' });
  await model.close();
});
