import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { writeAtomically } from './binary-file.js';
import { f32ToBf16, f32ToF16 } from './half-floats.js';
import { generationConfig, huggingFaceConfig, type WeightDtype } from './huggingface-config.js';
import type { LlamaConfig } from './llama-config.js';
import { llamaTensors } from './llama-tensors.js';
import { streamSafetensors, type TensorPlan } from './safetensors.js';
import { elementBytes } from './safetensors-header.js';
import type { Tokenizer } from './tokenizer.js';

export interface HuggingFaceModelInput {
  config: LlamaConfig;
  /** One tensor by its Hugging Face name, row-major float32; called once for each, one held at a time. */
  read(name: string): Promise<Float32Array>;
  tokenizer: Pick<Tokenizer, 'files' | 'padTokenId'>;
}

export interface HuggingFaceModelOptions {
  /** Rounded to nearest, ties to even. @default bf16 */
  dtype?: WeightDtype;
  /** Shards are cut before they pass this many bytes of tensors, as transformers does. @default 5e9 */
  maxShardBytes?: number;
  /** Called after each tensor, for progress; a promise is awaited. */
  onTensor?(done: number, total: number): void | Promise<void>;
}

const dtypes = { bf16: 'BF16', f16: 'F16', f32: 'F32' } as const;
const convert = { bf16: f32ToBf16, f16: f32ToF16, f32: (values: Float32Array) => values } as const;

/**
 * Writes a directory that transformers' AutoModelForCausalLM and AutoTokenizer load: config.json, generation_config.json,
 * the weights (model.safetensors, or shards with an index) and the tokenizer's files. config.json is written last.
 * @returns the names of the files, sorted
 */
export async function writeHuggingFaceModel(directory: string, model: HuggingFaceModelInput, options: HuggingFaceModelOptions = {}): Promise<string[]> {
  const { dtype = 'bf16', maxShardBytes = 5e9, onTensor } = options;
  await mkdir(directory, { recursive: true });
  const plans = [...llamaTensors(model.config)].map(([name, shape]): TensorPlan => ({ name, dtype: dtypes[dtype], shape }));
  const shards = cutIntoShards(plans, maxShardBytes);
  const nameOf = (index: number) =>
    shards.length === 1 ? 'model.safetensors' : `model-${number(index + 1)}-of-${number(shards.length)}.safetensors`;
  const written: string[] = [];
  let done = 0;
  for (const [index, shard] of shards.entries()) {
    const read = async (name: string) => {
      const values = convert[dtype](await model.read(name));
      await onTensor?.(++done, plans.length);
      return values;
    };
    await streamSafetensors(join(directory, nameOf(index)), shard, read, { format: 'pt' });
    written.push(nameOf(index));
  }

  const texts = new Map<string, Uint8Array>(await model.tokenizer.files());
  if (shards.length > 1) {
    const weightMap = Object.fromEntries(shards.flatMap((shard, index) => shard.map(({ name }) => [name, nameOf(index)])).sort(([a], [b]) => (a < b ? -1 : 1)));
    const totalSize = plans.reduce((total, plan) => total + bytesOf(plan), 0);
    texts.set('model.safetensors.index.json', pretty({ metadata: { total_size: totalSize }, weight_map: weightMap }));
  }
  texts.set('generation_config.json', pretty(generationConfig(model.config, model.tokenizer.padTokenId)));
  texts.set('config.json', pretty(huggingFaceConfig(model.config, dtype)));
  for (const [name, bytes] of texts) {
    await writeAtomically(join(directory, name), (append) => append(bytes));
    written.push(name);
  }
  return written.sort();
}

const number = (value: number) => String(value).padStart(5, '0');
const pretty = (value: unknown) => Buffer.from(`${JSON.stringify(value, null, 2)}\n`);
const bytesOf = ({ dtype, shape }: TensorPlan) => shape.reduce((product, size) => product * size, 1) * elementBytes[dtype];

/** In order, each shard as full as it gets; a tensor larger than the limit has a shard of its own. */
function cutIntoShards(plans: TensorPlan[], maxBytes: number): TensorPlan[][] {
  const shards: TensorPlan[][] = [[]];
  let size = 0;
  for (const plan of plans) {
    const bytes = bytesOf(plan);
    if (size > 0 && size + bytes > maxBytes) {
      shards.push([]);
      size = 0;
    }
    shards[shards.length - 1].push(plan);
    size += bytes;
  }
  return shards;
}
