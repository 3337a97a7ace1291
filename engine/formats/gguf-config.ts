import type { ArchitectureFacts } from './architectures/architecture.js';
import { ggufArchitectureOf } from './architectures/index.js';
import { mistral } from './architectures/mistral.js';
import { FormatError } from './format-error.js';
import type { GgufHeader } from './gguf-header.js';
import type { LlamaConfig } from './llama-config.js';
import { requireSaneConfig } from './llama-tensors.js';
import { llama3ScalingOf, rotaryFrequencies, type RopeScaling } from './rope-scaling.js';

/** A GGUF's tensor of what llama3 scaling divides the rotary frequencies by. */
export const ropeFactorsTensor = 'rope_freqs.weight';

/**
 * What a GGUF's metadata say about the model.
 * @param tensors of all parts of the file, by their names in it
 * @param ropeFactors values of `rope_freqs.weight`, when there is one
 */
export function ggufConfig({ metadata, tensors }: Pick<GgufHeader, 'metadata' | 'tensors'>, ropeFactors: Float32Array | undefined, path: string): LlamaConfig {
  const unsupported = (message: string) => new FormatError('unsupported', path, message);
  const family = ggufArchitectureOf(metadata.get('general.architecture'), path);
  const { name } = family.gguf;
  const integer = (key: string): number | undefined => {
    const value = metadata.get(key);
    // A per-layer list is a different architecture unless all its entries agree.
    const single = Array.isArray(value) && value.every((entry) => entry === value[0]) ? value[0] : value;
    if (single === undefined || typeof single === 'number') return single;
    throw unsupported(`${key}: expected one number, got ${JSON.stringify(single)?.slice(0, 80)}`);
  };
  const required = (key: string): number => {
    const value = integer(key);
    if (value === undefined) throw new FormatError('bad_header', path, `${key}: expected a number, got none`);
    return value;
  };

  const experts = integer(`${name}.expert_count`) ?? 0;
  if (experts > 0) throw unsupported(`${name}.expert_count: expected 0, got ${experts}`);
  const hiddenSize = required(`${name}.embedding_length`);
  const heads = required(`${name}.attention.head_count`);
  const headDim = integer(`${name}.attention.key_length`) ?? hiddenSize / heads;
  const rotated = integer(`${name}.rope.dimension_count`) ?? headDim;
  if (rotated !== headDim) throw unsupported(`${name}.rope.dimension_count: expected ${headDim}, got ${rotated}`);
  const embedding = tensors.get('token_embd.weight');
  if (!embedding) throw new FormatError('missing_tensor', path, 'tensor token_embd.weight: expected to exist, got none');

  const layers = required(`${name}.block_count`);
  if (layers > tensors.size) throw new FormatError('missing_tensor', path, `tensors: expected those of ${layers} layers, got ${tensors.size} in all`);
  const ropeTheta = integer(`${name}.rope.freq_base`) ?? 10000;
  const trained = required(`${name}.context_length`);
  const ropeScaling = ropeFactors ? llama3(ropeFactors) : scalingOf(trained);
  const window = integer(`${name}.attention.sliding_window`) ?? 0;
  if (window > 0 && name !== mistral.gguf.name) throw unsupported(`${name}.attention.sliding_window: expected 0, got ${window}`);
  const facts: ArchitectureFacts = family.gguf.facts((tensor) => tensors.has(tensor), layers);

  const ends = [integer('tokenizer.ggml.eos_token_id'), integer('tokenizer.ggml.eot_token_id'), integer('tokenizer.ggml.eom_token_id')];
  const config: LlamaConfig = {
    architecture: window > 0 ? mistral.modelType : family.modelType,
    vocabSize: embedding.shape[0],
    hiddenSize,
    intermediateSize: required(`${name}.feed_forward_length`),
    layers,
    heads,
    kvHeads: integer(`${name}.attention.head_count_kv`) ?? heads,
    headDim,
    contextLength: ropeScaling?.type === 'linear' ? Math.floor(trained * ropeScaling.factor) : trained,
    ropeTheta,
    ...(ropeScaling ? { ropeScaling } : {}),
    ...(window > 0 ? { slidingWindow: { size: window } } : {}),
    ...facts,
    rmsNormEps: shortest(required(`${name}.attention.layer_norm_rms_epsilon`)),
    tiedEmbeddings: !tensors.has('output.weight'),
    bosTokenId: integer('tokenizer.ggml.bos_token_id'),
    eosTokenIds: [...new Set(ends.filter((id) => id !== undefined))],
  };
  requireSaneConfig(config, path);
  return config;

  function llama3(factors: Float32Array): RopeScaling {
    const scaling = llama3ScalingOf(factors, rotaryFrequencies(ropeTheta, headDim));
    if (!scaling) throw unsupported(`tensor ${ropeFactorsTensor}: expected the factors of llama3's rope scaling, got others`);
    return scaling;
  }

  function scalingOf(originalContextLength: number): RopeScaling | undefined {
    const type = metadata.get(`${name}.rope.scaling.type`) ?? 'none';
    if (type === 'none') return undefined;
    if (type === 'linear') return { type, factor: required(`${name}.rope.scaling.factor`), originalContextLength };
    throw unsupported(`${name}.rope.scaling.type: expected one of none, linear, got ${String(type)}`);
  }
}

/** The decimal that a float32 stands for: 9.999999747378752e-06 in the file was 1e-05 in the configuration. */
const shortest = (value: number): number => Number(value.toPrecision(7));
