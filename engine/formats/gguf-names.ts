/** Names of a model's tensors in GGUF and in Hugging Face's files; the same for every supported architecture. */

const whole: Record<string, string> = { 'token_embd.weight': 'model.embed_tokens.weight', 'output_norm.weight': 'model.norm.weight', 'output.weight': 'lm_head.weight' };

/** Parts of a block, in the order of llama.cpp's converter. */
const blockParts: Record<string, string> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_q_norm: 'self_attn.q_norm',
  attn_k_norm: 'self_attn.k_norm',
  attn_output: 'self_attn.o_proj',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};

const invert = (names: Record<string, string>): Record<string, string> => Object.fromEntries(Object.entries(names).map(([ours, theirs]) => [theirs, ours]));
const wholeInGguf = invert(whole);
const partsInGguf = invert(blockParts);

/** Hugging Face's name for a tensor of a GGUF; other names stay as they are. */
export function huggingFaceName(name: string): string {
  if (Object.hasOwn(whole, name)) return whole[name];
  const [, layer, part, kind] = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(name) ?? [];
  return part !== undefined && Object.hasOwn(blockParts, part) ? `model.layers.${layer}.${blockParts[part]}.${kind}` : name;
}

/** GGUF's name for a tensor of a Hugging Face model; other names stay as they are. */
export function ggufName(name: string): string {
  if (Object.hasOwn(wholeInGguf, name)) return wholeInGguf[name];
  const [, layer, part, kind] = /^model\.layers\.(\d+)\.([\w.]+)\.(weight|bias)$/.exec(name) ?? [];
  return part !== undefined && Object.hasOwn(partsInGguf, part) ? `blk.${layer}.${partsInGguf[part]}.${kind}` : name;
}
