import { biasSwitches, flag, type Architecture, type ArchitectureFacts } from './architecture.js';
import { readSlidingLayers, writeSlidingLayers } from './sliding-layers.js';

const facts = (attentionBias: boolean): ArchitectureFacts => ({
  qkNorm: true,
  ...(attentionBias ? { biases: ['q_proj', 'k_proj', 'v_proj', 'o_proj'] } : {}),
});

/** Qwen3, the dense ones: queries and keys normalised, heads of a width of their own. */
export const qwen3: Architecture = {
  modelType: 'qwen3',
  className: 'Qwen3ForCausalLM',
  defaults: { max_position_embeddings: 32768, num_key_value_heads: 32, head_dim: 128, sliding_window: 4096, max_window_layers: 28 },
  read: (json, problems) => ({
    ...facts(flag(json, 'attention_bias', problems)),
    ...readSlidingLayers(json, problems, (layer) => layer >= Number(json.max_window_layers)),
  }),
  write: (config) => ({ attention_bias: biasSwitches(config).attention_bias, ...writeSlidingLayers(config) }),
  gguf: { name: 'qwen3', rotatesNeighbours: false, facts: (has) => facts(has('blk.0.attn_q.bias')) },
};
