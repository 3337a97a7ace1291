import { biasesOf, biasSwitches, flag, type Architecture } from './architecture.js';

/** LLaMA 1 to 3 and what is built like them: OpenLLaMA, Vicuna, TinyLlama, SmolLM and SmolLM2, DeepSeek-LLM … */
export const llama: Architecture = {
  modelType: 'llama',
  className: 'LlamaForCausalLM',
  defaults: { max_position_embeddings: 2048 },
  read: (json, problems) => biasesOf({ attention: flag(json, 'attention_bias', problems), feedForward: flag(json, 'mlp_bias', problems) }),
  write: biasSwitches,
  gguf: {
    name: 'llama',
    rotatesNeighbours: true,
    facts: (has) => biasesOf({ attention: has('blk.0.attn_q.bias'), feedForward: has('blk.0.ffn_down.bias') }),
  },
};
