import type { Architecture, ArchitectureFacts } from './architecture.js';
import { readSlidingLayers, writeSlidingLayers } from './sliding-layers.js';

const always: ArchitectureFacts = { biases: ['q_proj', 'k_proj', 'v_proj'] };

/** Qwen2 and Qwen2.5: biases on q, k and v; a sliding window in the upper layers when it is switched on. */
export const qwen2: Architecture = {
  modelType: 'qwen2',
  className: 'Qwen2ForCausalLM',
  defaults: { max_position_embeddings: 32768, num_key_value_heads: 32, sliding_window: 4096, max_window_layers: 28 },
  read: (json, problems) => ({ ...always, ...readSlidingLayers(json, problems, (layer) => layer >= Number(json.max_window_layers)) }),
  write: writeSlidingLayers,
  gguf: { name: 'qwen2', rotatesNeighbours: false, facts: () => always },
};
