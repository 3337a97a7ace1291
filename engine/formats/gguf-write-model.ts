import { EngineError } from '../errors.js';
import { architectureOf } from './architectures/index.js';
import type { QuantizedType } from './ggml-quantize.js';
import { quantizers } from './ggml-quantize.js';
import { ropeFactorsTensor } from './gguf-config.js';
import { ggufName } from './gguf-names.js';
import { ggufTokenizer } from './gguf-write-tokenizer.js';
import { f32, text, u32, writeGguf, type GgufField, type GgufTensorPlan } from './gguf-write.js';
import type { LlamaConfig } from './llama-config.js';
import { llamaTensors } from './llama-tensors.js';
import { llama3Factors, rotaryFrequencies } from './rope-scaling.js';
import type { Tokenizer } from './tokenizer.js';
import type { WeightSource } from './weight-source.js';

/** Half floats; 8 bits; llama.cpp's mixture of 4 to 6 bits. */
export type GgufMixture = 'f16' | 'q8_0' | 'q4_k_m';

/** `general.file_type` (enum llama_ftype). */
const fileTypes: Record<GgufMixture, number> = { f16: 1, q8_0: 7, q4_k_m: 15 };

export interface GgufModelInput {
  source: Pick<WeightSource, 'config' | 'read'>;
  tokenizer: Tokenizer;
  /** `general.name`. */
  name: string;
  /** `general.license`. */
  license?: string;
}

/**
 * Writes a model as one GGUF file that llama.cpp loads, tensor by tensor.
 * Throws `gguf_unsupported` for a model that llama.cpp computes differently.
 */
export async function writeGgufModel(
  path: string, { source, tokenizer, name, license }: GgufModelInput, mixture: GgufMixture, onTensor?: (done: number, total: number) => Promise<void>,
): Promise<void> {
  const { config } = source;
  requireGgufSupport(config);
  const metadata = new Map<string, GgufField>([
    ...ggufMetadata(config, name, license),
    ['general.file_type', u32(fileTypes[mixture])],
    ['general.quantization_version', u32(2)],
    ...(await ggufTokenizer(tokenizer, config.vocabSize, config.eosTokenIds)),
  ]);
  const names = new Map([...llamaTensors(config).keys()].map((tensor) => [ggufName(tensor), tensor]));
  const plan: GgufTensorPlan[] = [...llamaTensors(config)].map(([tensor, shape]) => ({ name: ggufName(tensor), shape, type: typeOf(ggufName(tensor), shape, mixture, config) }));
  if (config.ropeScaling?.type === 'llama3') plan.push({ name: ropeFactorsTensor, shape: [config.headDim / 2], type: 'F32' });
  let done = 0;
  await writeGguf(path, metadata, plan, async (tensor) => {
    const values = tensor.name === ropeFactorsTensor ? ropeFactors(config) : ggufOrder(tensor.name, await source.read(names.get(tensor.name)!), config);
    await onTensor?.(++done, plan.length);
    return values;
  });
}

/** What keeps a model from being a GGUF; empty for nearly all. */
export function ggufProblems({ architecture, ropeScaling, slidingWindow, unrotatedLayers, layers }: LlamaConfig): string[] {
  const problems: string[] = [];
  if (ropeScaling?.type === 'dynamic') problems.push('rope scaling dynamic: llama.cpp has none');
  if (slidingWindow && architecture !== 'mistral') problems.push(`a sliding window in layers of ${architecture}: llama.cpp has none`);
  if (unrotatedLayers) {
    const expected = Array.from({ length: layers }, (_, layer) => layer).filter((layer) => (layer + 1) % 4 === 0);
    if (expected.join() !== unrotatedLayers.join()) problems.push('layers without rotation other than every fourth: llama.cpp has none');
  }
  return problems;
}

function requireGgufSupport(config: LlamaConfig): void {
  const problems = ggufProblems(config);
  if (problems.length > 0) throw new EngineError('invalidInput', 'gguf_unsupported', `GGUF: ${problems.join('; ')}`);
}

/** What both a model and an adapter say of the architecture. */
export function ggufMetadata(config: LlamaConfig, name: string, license?: string): [string, GgufField][] {
  const { name: architecture } = architectureOf(config.architecture, name).gguf;
  const { ropeScaling, slidingWindow } = config;
  return [
    ['general.architecture', text(architecture)],
    ['general.type', text('model')],
    ['general.name', text(name)],
    ...(license === undefined ? [] : ([['general.license', text(license)]] as [string, GgufField][])),
    [`${architecture}.vocab_size`, u32(config.vocabSize)],
    [`${architecture}.context_length`, u32(ropeScaling?.type === 'linear' ? ropeScaling.originalContextLength : config.contextLength)],
    [`${architecture}.embedding_length`, u32(config.hiddenSize)],
    [`${architecture}.block_count`, u32(config.layers)],
    [`${architecture}.feed_forward_length`, u32(config.intermediateSize)],
    [`${architecture}.attention.head_count`, u32(config.heads)],
    [`${architecture}.attention.head_count_kv`, u32(config.kvHeads)],
    [`${architecture}.attention.key_length`, u32(config.headDim)],
    [`${architecture}.attention.value_length`, u32(config.headDim)],
    [`${architecture}.attention.layer_norm_rms_epsilon`, f32(config.rmsNormEps)],
    [`${architecture}.rope.dimension_count`, u32(config.headDim)],
    [`${architecture}.rope.freq_base`, f32(config.ropeTheta)],
    ...(ropeScaling?.type === 'linear'
      ? ([[`${architecture}.rope.scaling.type`, text('linear')], [`${architecture}.rope.scaling.factor`, f32(ropeScaling.factor)]] as [string, GgufField][])
      : []),
    ...(slidingWindow ? ([[`${architecture}.attention.sliding_window`, u32(slidingWindow.size)]] as [string, GgufField][]) : []),
  ];
}

const ropeFactors = ({ ropeScaling, ropeTheta, headDim }: LlamaConfig): Float32Array =>
  Float32Array.from(ropeScaling?.type === 'llama3' ? llama3Factors(rotaryFrequencies(ropeTheta, headDim), ropeScaling) : []);

/**
 * Values of a tensor, [rows, columns] or [rows], in GGUF's order: where llama.cpp rotates neighbours (2i, 2i + 1) within a head,
 * row j · headDim / 2 + i of q and k moves to 2i + j. Of an adapter, that is B.
 */
export function ggufOrder(name: string, values: Float32Array, config: LlamaConfig): Float32Array {
  const [, kind] = /\.attn_([qk])\.(?:weight|bias)/.exec(name) ?? [];
  if (kind === undefined || !architectureOf(config.architecture, name).gguf.rotatesNeighbours) return values;
  const rows = (kind === 'q' ? config.heads : config.kvHeads) * config.headDim;
  const columns = values.length / rows;
  const half = config.headDim / 2;
  const moved = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    const inHead = row % config.headDim;
    const target = row - inHead + 2 * (inHead % half) + Math.floor(inHead / half);
    moved.set(values.subarray(row * columns, (row + 1) * columns), target * columns);
  }
  return moved;
}

/** Where a row is not whole super-blocks, llama.cpp takes these instead. */
const fallbacks: Partial<Record<QuantizedType, QuantizedType>> = { Q4_K: 'Q5_0', Q6_K: 'Q8_0', Q5_0: 'F16', Q8_0: 'F16' };

/** The type of a tensor. Q4_K_M as llama.cpp mixes it: 6 bits for the output matrix, and for v and down in the outer layers and every third between. */
function typeOf(name: string, shape: readonly number[], mixture: GgufMixture, config: LlamaConfig): QuantizedType {
  if (shape.length === 1) return 'F32';
  let type: QuantizedType = mixture === 'f16' ? 'F16' : mixture === 'q8_0' ? 'Q8_0' : needsMoreBits(name, config) ? 'Q6_K' : 'Q4_K';
  while (shape[shape.length - 1] % quantizers[type].values !== 0) type = fallbacks[type]!;
  return type;
}

function needsMoreBits(name: string, { layers, tiedEmbeddings }: LlamaConfig): boolean {
  if (name === 'output.weight' || name === 'token_embd.weight') return name === 'output.weight' || tiedEmbeddings;
  const [, number, part] = /^blk\.(\d+)\.(\w+)\./.exec(name) ?? [];
  if (part !== 'attn_v' && part !== 'ffn_down') return false;
  const layer = Number(number);
  const eighth = Math.floor(layers / 8);
  return layer < eighth || layer >= Math.floor((7 * layers) / 8) || (layer - eighth) % 3 === 2;
}
