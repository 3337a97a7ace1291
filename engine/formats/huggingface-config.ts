import type { LlamaConfig } from './llama-config.js';
import { FormatError } from './format-error.js';
import { requireSaneConfig } from './llama-tensors.js';

type Json = Record<string, unknown>;

/** `config.json` of a LlamaForCausalLM, as transformers 4 and 5 write it. Refuses what would be computed differently. */
export function parseHuggingFaceConfig(json: Json, generation: Json, path: string): LlamaConfig {
  const problems: string[] = [];
  const number = (key: string, fallback?: number): number => {
    const value = json[key] ?? fallback;
    if (typeof value === 'number') return value;
    problems.push(`${key}: expected a number, got ${show(value)}`);
    return NaN;
  };
  const only = (key: string, value: unknown, ...allowed: unknown[]) => {
    if (!allowed.includes(value ?? allowed[0])) problems.push(`${key}: expected ${show(allowed[0])}, got ${show(value)}`);
  };

  if (json.model_type !== 'llama') throw new FormatError('unsupported', path, `model_type: expected "llama", got ${show(json.model_type)}`);
  only('hidden_act', json.hidden_act, 'silu', 'swish');
  only('attention_bias', json.attention_bias, false);
  only('mlp_bias', json.mlp_bias, false);
  only('quantization_config', json.quantization_config, null);
  // transformers 5 keeps everything about rotation in rope_parameters; 4 has rope_theta beside rope_scaling.
  const rope = (json.rope_parameters ?? json.rope_scaling ?? {}) as Json;
  only('rope_type', rope.rope_type ?? rope.type, 'default');
  only('partial_rotary_factor', json.partial_rotary_factor ?? rope.partial_rotary_factor, 1);
  const ropeTheta = (rope.rope_theta ?? number('rope_theta', 10000)) as number;

  const hiddenSize = number('hidden_size');
  const heads = number('num_attention_heads');
  const ids = [json.eos_token_id, generation.eos_token_id].flat().filter((id): id is number => typeof id === 'number');
  const config: LlamaConfig = {
    architecture: 'llama',
    vocabSize: number('vocab_size'),
    hiddenSize,
    intermediateSize: number('intermediate_size'),
    layers: number('num_hidden_layers'),
    heads,
    kvHeads: number('num_key_value_heads', heads),
    headDim: number('head_dim', hiddenSize / heads),
    contextLength: number('max_position_embeddings', 2048),
    ropeTheta,
    rmsNormEps: number('rms_norm_eps', 1e-6),
    tiedEmbeddings: json.tie_word_embeddings === true,
    bosTokenId: typeof json.bos_token_id === 'number' ? json.bos_token_id : undefined,
    eosTokenIds: [...new Set(ids)],
  };
  if (problems.length > 0) throw new FormatError('unsupported', path, problems.join('; '));
  requireSaneConfig(config, path);
  return config;
}

const show = (value: unknown): string => JSON.stringify(value)?.slice(0, 80) ?? 'nothing';

const torchDtypes = { f32: 'float32', f16: 'float16', bf16: 'bfloat16' } as const;
export type WeightDtype = keyof typeof torchDtypes;

/** What transformers needs to build the model again. */
export function huggingFaceConfig(config: LlamaConfig, dtype: WeightDtype): Json {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.headDim,
    hidden_act: 'silu',
    max_position_embeddings: config.contextLength,
    rope_theta: config.ropeTheta,
    rope_scaling: null,
    rms_norm_eps: config.rmsNormEps,
    attention_bias: false,
    mlp_bias: false,
    tie_word_embeddings: config.tiedEmbeddings,
    ...specialTokens(config),
    torch_dtype: torchDtypes[dtype],
    use_cache: true,
  };
}

/** `generation_config.json`: where generation starts and ends. */
export function generationConfig(config: LlamaConfig): Json {
  return { _from_model_config: true, ...specialTokens(config) };
}

function specialTokens({ bosTokenId, eosTokenIds }: LlamaConfig): Json {
  return {
    bos_token_id: bosTokenId ?? null,
    eos_token_id: eosTokenIds.length > 1 ? eosTokenIds : (eosTokenIds[0] ?? null),
  };
}
