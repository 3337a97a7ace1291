import { optionalCount, type Architecture } from './architecture.js';

/** Mistral 7B and its like: a LLaMA, in version 0.1 with a sliding window in all layers. A GGUF of one has the architecture `llama`. */
export const mistral: Architecture = {
  modelType: 'mistral',
  className: 'MistralForCausalLM',
  defaults: { max_position_embeddings: 131072, num_key_value_heads: 8, sliding_window: 4096 },
  read: (json, problems) => {
    const size = optionalCount(json, 'sliding_window', problems);
    return size === undefined ? {} : { slidingWindow: { size } };
  },
  write: ({ slidingWindow }) => ({ sliding_window: slidingWindow?.size ?? null }),
  gguf: { name: 'llama', rotatesNeighbours: true, facts: () => ({}) },
};
