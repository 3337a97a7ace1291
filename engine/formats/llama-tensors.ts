import { FormatError } from './format-error.js';
import { blockModules, type LlamaConfig } from './llama-config.js';

/** Tensors of one block, at least. */
const tensorsPerLayer = 9;

/** Every tensor of a model with its shape, by Hugging Face's name. */
export function llamaTensors(config: LlamaConfig): Map<string, number[]> {
  const { vocabSize, hiddenSize: hidden, intermediateSize: wide, layers, heads, kvHeads, headDim, qkNorm, biases = [], tiedEmbeddings } = config;
  const tensors = new Map<string, number[]>([['model.embed_tokens.weight', [vocabSize, hidden]]]);
  for (let layer = 0; layer < layers; layer++) {
    const block = `model.layers.${layer}`;
    tensors.set(`${block}.input_layernorm.weight`, [hidden]);
    tensors.set(`${block}.self_attn.q_proj.weight`, [heads * headDim, hidden]);
    tensors.set(`${block}.self_attn.k_proj.weight`, [kvHeads * headDim, hidden]);
    tensors.set(`${block}.self_attn.v_proj.weight`, [kvHeads * headDim, hidden]);
    tensors.set(`${block}.self_attn.o_proj.weight`, [hidden, heads * headDim]);
    if (qkNorm) {
      tensors.set(`${block}.self_attn.q_norm.weight`, [headDim]);
      tensors.set(`${block}.self_attn.k_norm.weight`, [headDim]);
    }
    tensors.set(`${block}.post_attention_layernorm.weight`, [hidden]);
    tensors.set(`${block}.mlp.gate_proj.weight`, [wide, hidden]);
    tensors.set(`${block}.mlp.up_proj.weight`, [wide, hidden]);
    tensors.set(`${block}.mlp.down_proj.weight`, [hidden, wide]);
    for (const module of blockModules.filter((module) => biases.includes(module))) {
      const path = `${block}.${module === 'gate_proj' || module === 'up_proj' || module === 'down_proj' ? 'mlp' : 'self_attn'}.${module}`;
      tensors.set(`${path}.bias`, [tensors.get(`${path}.weight`)![0]]);
    }
  }
  tensors.set('model.norm.weight', [hidden]);
  if (!tiedEmbeddings) tensors.set('lm_head.weight', [vocabSize, hidden]);
  return tensors;
}

/** Elements of all tensors; a tied output matrix counts once. */
export function countParameters(config: LlamaConfig): number {
  let total = 0;
  for (const shape of llamaTensors(config).values()) total += shape.reduce((product, size) => product * size, 1);
  return total;
}

/** Names a few, counts the rest. */
function list(items: string[]): string {
  const shown = items.slice(0, 5).join('; ');
  return items.length > 5 ? `${shown}; and ${items.length - 5} more` : shown;
}

/** Throws unless the file has exactly the tensors that its configuration calls for. */
export function requireLlamaTensors(config: LlamaConfig, present: ReadonlyMap<string, readonly number[]>, path: string): void {
  if (config.layers * tensorsPerLayer > present.size) {
    throw new FormatError('missing_tensor', path, `tensors: expected at least ${config.layers * tensorsPerLayer} for ${config.layers} layers, got ${present.size}`);
  }
  const expected = llamaTensors(config);
  const missing = [...expected.keys()].filter((name) => !present.has(name));
  if (missing.length > 0) throw new FormatError('missing_tensor', path, `tensors: expected to exist, got none: ${list(missing)}`);
  const wrong = [...expected].flatMap(([name, shape]) => {
    const got = present.get(name)!;
    return got.length === shape.length && got.every((size, axis) => size === shape[axis]) ? [] : [`tensor ${name}: expected [${shape.join(',')}], got [${got.join(',')}]`];
  });
  if (wrong.length > 0) throw new FormatError('wrong_shape', path, list(wrong));
  const unknown = [...present.keys()].filter((name) => !expected.has(name));
  if (unknown.length > 0) throw new FormatError('unsupported', path, `tensors: expected those of ${config.architecture} alone, got others too: ${list(unknown)}`);
}

/** Throws, with every problem, unless the numbers can be a model's. */
export function requireSaneConfig(config: LlamaConfig, path: string): void {
  const problems: string[] = [];
  for (const key of ['vocabSize', 'hiddenSize', 'intermediateSize', 'layers', 'heads', 'kvHeads', 'headDim', 'contextLength'] as const) {
    if (!Number.isSafeInteger(config[key]) || config[key] < 1) problems.push(`${key}: expected a positive whole number, got ${config[key]}`);
  }
  for (const key of ['ropeTheta', 'rmsNormEps'] as const) {
    if (!(Number.isFinite(config[key]) && config[key] > 0)) problems.push(`${key}: expected a positive number, got ${config[key]}`);
  }
  if (config.heads % config.kvHeads !== 0) problems.push(`kvHeads: expected a divisor of ${config.heads} heads, got ${config.kvHeads}`);
  if (config.headDim % 2 !== 0) problems.push(`headDim: expected an even number, got ${config.headDim}`);
  for (const id of [...(config.bosTokenId === undefined ? [] : [config.bosTokenId]), ...config.eosTokenIds]) {
    if (!Number.isSafeInteger(id) || id < 0 || id >= config.vocabSize) problems.push(`special token: expected an id below ${config.vocabSize}, got ${id}`);
  }
  if (problems.length > 0) throw new FormatError('bad_header', path, problems.join('; '));
}
