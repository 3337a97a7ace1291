import { architectureOf } from './architectures/index.js';
import type { Json } from './architectures/architecture.js';
import { FormatError } from './format-error.js';
import { ropeParameters, readRope } from './huggingface-rope.js';
import type { LlamaConfig } from './llama-config.js';
import { requireSaneConfig } from './llama-tensors.js';

/** `config.json` of a supported architecture, as transformers 4 and 5 write it. Refuses what would be computed differently. */
export function parseHuggingFaceConfig(json: Json, generation: Json, path: string): LlamaConfig {
  const architecture = architectureOf(json.model_type, path);
  const filled: Json = { ...architecture.defaults, ...json };
  const problems: string[] = [];
  const number = (key: string, fallback?: number): number => {
    const value = filled[key] ?? fallback;
    if (typeof value === 'number') return value;
    problems.push(`${key}: expected a number, got ${show(value)}`);
    return NaN;
  };
  const only = (key: string, value: unknown, ...allowed: unknown[]) => {
    if (!allowed.includes(value ?? allowed[0])) problems.push(`${key}: expected ${show(allowed[0])}, got ${show(value)}`);
  };

  only('hidden_act', filled.hidden_act, 'silu', 'swish');
  only('attention_dropout', filled.attention_dropout, 0);
  only('quantization_config', filled.quantization_config, null);
  const layers = number('num_hidden_layers');
  // Nothing is built for a number of layers that no file can have; the tensors are counted next.
  const facts = layers <= mostLayers ? architecture.read(filled, problems) : {};
  const rope = readRope(filled, problems);

  const hiddenSize = number('hidden_size');
  const heads = number('num_attention_heads');
  const ids = [filled.eos_token_id, generation.eos_token_id].flat().filter((id): id is number => typeof id === 'number');
  const config: LlamaConfig = {
    architecture: architecture.modelType,
    vocabSize: number('vocab_size'),
    hiddenSize,
    intermediateSize: number('intermediate_size'),
    layers,
    heads,
    kvHeads: number('num_key_value_heads', heads),
    headDim: number('head_dim', hiddenSize / heads),
    ...rope,
    ...facts,
    rmsNormEps: number('rms_norm_eps', 1e-6),
    tiedEmbeddings: filled.tie_word_embeddings === true,
    bosTokenId: typeof filled.bos_token_id === 'number' ? filled.bos_token_id : undefined,
    eosTokenIds: [...new Set(ids)],
  };
  if (problems.length > 0) throw new FormatError('unsupported', path, problems.join('; '));
  requireSaneConfig(config, path);
  return config;
}

const mostLayers = 10_000;

const show = (value: unknown): string => JSON.stringify(value)?.slice(0, 80) ?? 'nothing';

const torchDtypes = { f32: 'float32', f16: 'float16', bf16: 'bfloat16' } as const;
export type WeightDtype = keyof typeof torchDtypes;

/** What transformers needs to build the model again. */
export function huggingFaceConfig(config: LlamaConfig, dtype: WeightDtype): Json {
  const architecture = architectureOf(config.architecture, 'config.json');
  return {
    architectures: [architecture.className],
    model_type: architecture.modelType,
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.headDim,
    hidden_act: 'silu',
    ...ropeParameters(config),
    rms_norm_eps: config.rmsNormEps,
    ...architecture.write(config),
    tie_word_embeddings: config.tiedEmbeddings,
    ...specialTokens(config),
    torch_dtype: torchDtypes[dtype],
    use_cache: true,
  };
}

/** `generation_config.json`: where generation starts and ends, and what fills a batch's shorter rows. */
export function generationConfig(config: LlamaConfig, padTokenId: number | undefined): Json {
  return { _from_model_config: true, ...specialTokens(config), ...(padTokenId === undefined ? {} : { pad_token_id: padTokenId }) };
}

function specialTokens({ bosTokenId, eosTokenIds }: LlamaConfig): Json {
  return {
    bos_token_id: bosTokenId ?? null,
    eos_token_id: eosTokenIds.length > 1 ? eosTokenIds : (eosTokenIds[0] ?? null),
  };
}
