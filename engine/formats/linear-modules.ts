import { blockModules, type BlockModule, type LlamaConfig } from './llama-config.js';

export { blockModules, type BlockModule };

/** What an adapter may target, by the last part of its name. */
export const targetModules = [...blockModules, 'lm_head'] as const;
export type TargetModule = (typeof targetModules)[number];

/** A linear layer of a model. */
export interface Module {
  /** Where it is: `model.layers.0.self_attn.q_proj`, `lm_head`. */
  path: string;
  target: TargetModule;
  /** [out, in]. */
  shape: [number, number];
  /** Block it is in; undefined for the head. */
  layer?: number;
}

const attention = new Set<TargetModule>(['q_proj', 'k_proj', 'v_proj', 'o_proj']);

/** Path of a block's linear layer, as transformers names it; the weight's name is this and `.weight`. */
export const modulePath = (layer: number, module: BlockModule): string =>
  `model.layers.${layer}.${attention.has(module) ? 'self_attn' : 'mlp'}.${module}`;

/** [out, in] of a linear layer. */
export function moduleShape(config: LlamaConfig, target: TargetModule): [number, number] {
  const { hiddenSize, intermediateSize, heads, kvHeads, headDim, vocabSize } = config;
  switch (target) {
    case 'q_proj':
      return [heads * headDim, hiddenSize];
    case 'k_proj':
    case 'v_proj':
      return [kvHeads * headDim, hiddenSize];
    case 'o_proj':
      return [hiddenSize, heads * headDim];
    case 'gate_proj':
    case 'up_proj':
      return [intermediateSize, hiddenSize];
    case 'down_proj':
      return [hiddenSize, intermediateSize];
    case 'lm_head':
      return [vocabSize, hiddenSize];
  }
}

/** Every linear layer, block by block, the head last. */
export function modules(config: LlamaConfig): Module[] {
  const list: Module[] = [];
  for (let layer = 0; layer < config.layers; layer++) {
    for (const target of blockModules) list.push({ path: modulePath(layer, target), target, shape: moduleShape(config, target), layer });
  }
  list.push({ path: 'lm_head', target: 'lm_head', shape: moduleShape(config, 'lm_head') });
  return list;
}
