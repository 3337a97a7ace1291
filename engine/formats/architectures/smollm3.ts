import type { LlamaConfig } from '../llama-config.js';
import { biasesOf, biasSwitches, flag, optionalCount, type Architecture, type ArchitectureFacts, type Json } from './architecture.js';
import { readSlidingLayers, writeSlidingLayers } from './sliding-layers.js';

/** SmolLM3: a LLaMA in which every fourth layer is not rotated; those have the sliding window when it is switched on. */
export const smollm3: Architecture = {
  modelType: 'smollm3',
  className: 'SmolLM3ForCausalLM',
  defaults: { max_position_embeddings: 32768, num_key_value_heads: 4, rope_theta: 2_000_000, tie_word_embeddings: true, no_rope_layer_interval: 4 },
  read: (json, problems) => {
    const unrotated = unrotatedOf(json, problems);
    return {
      unrotatedLayers: unrotated,
      ...biasesOf({ attention: flag(json, 'attention_bias', problems), feedForward: flag(json, 'mlp_bias', problems) }),
      ...readSlidingLayers(json, problems, (layer) => unrotated.includes(layer)),
    };
  },
  // Left out, the padding would be token 128004, which a smaller vocabulary has not.
  write: (config) => ({ pad_token_id: null, no_rope_layers: rotated(config), no_rope_layer_interval: 4, ...biasSwitches(config), ...writeSlidingLayers(config) }),
  gguf: {
    name: 'smollm3',
    rotatesNeighbours: true,
    facts: (has, layers): ArchitectureFacts => ({
      unrotatedLayers: everyNth(layers, 4),
      ...biasesOf({ attention: has('blk.0.attn_q.bias'), feedForward: has('blk.0.ffn_down.bias') }),
    }),
  },
};

const everyNth = (layers: number, interval: number): number[] => Array.from({ length: layers }, (_, layer) => layer).filter((layer) => (layer + 1) % interval === 0);

/** `no_rope_layers` has a 1 for a layer that is rotated, a 0 for one that is not. */
function unrotatedOf(json: Json, problems: string[]): number[] {
  const layers = Number(json.num_hidden_layers);
  const list = json.no_rope_layers ?? undefined;
  if (list === undefined) return everyNth(layers, optionalCount(json, 'no_rope_layer_interval', problems) ?? 4);
  if (!Array.isArray(list) || list.length < layers || list.some((entry) => entry !== 0 && entry !== 1)) {
    problems.push(`no_rope_layers: expected ${layers} of 0 and 1, got ${JSON.stringify(list).slice(0, 80)}`);
    return [];
  }
  return list.slice(0, layers).flatMap((entry, layer) => (entry === 0 ? [layer] : []));
}

const rotated = ({ layers, unrotatedLayers = [] }: LlamaConfig): number[] => Array.from({ length: layers }, (_, layer) => Number(!unrotatedLayers.includes(layer)));
