/** Models whose weights are zeros that take no room on the disk: files with holes. Large enough to tell what a reader holds. */
import { mkdirSync, openSync, closeSync, ftruncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { llamaTensors } from '../../engine/formats/llama-tensors.js';
import { parseHuggingFaceConfig } from '../../engine/formats/huggingface-config.js';
import { ggufBytes } from './gguf.js';

const config = {
  architectures: ['LlamaForCausalLM'], model_type: 'llama', vocab_size: 32_768, hidden_size: 1024, intermediate_size: 4096, num_hidden_layers: 12,
  num_attention_heads: 16, num_key_value_heads: 16, hidden_act: 'silu', max_position_embeddings: 128, rms_norm_eps: 1e-5, tie_word_embeddings: false,
};

const tensors = [...llamaTensors(parseHuggingFaceConfig(config, {}, 'config.json'))].map(([name, shape]) => ({ name, shape, elements: shape.reduce((product, size) => product * size, 1) }));

/** Of the largest tensor and of all together, as float32. */
export const largestBytes = 4 * Math.max(...tensors.map(({ elements }) => elements));
export const allBytes = 4 * tensors.reduce((sum, { elements }) => sum + elements, 0);

type Format = 'safetensors' | 'pytorch' | 'gguf';

/** Writes the model in one of its formats, in half floats. @returns what a reader opens */
export function writeLargeModel(directory: string, format: Format): string {
  const folder = join(directory, format);
  mkdirSync(folder);
  if (format === 'gguf') return writeGguf(join(folder, 'model.gguf'));
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  if (format === 'safetensors') writeSafetensors(join(folder, 'model.safetensors'));
  else writePytorch(join(folder, 'pytorch_model.bin'));
  return folder;
}

/** Pieces of a file, a number being that many zeros. */
function writeHoles(path: string, pieces: (Buffer | number)[]): string {
  const file = openSync(path, 'w');
  let at = 0;
  for (const piece of pieces) at += typeof piece === 'number' ? piece : writeSync(file, piece, 0, piece.length, at);
  ftruncateSync(file, at);
  closeSync(file);
  return path;
}

function writeSafetensors(path: string): void {
  let at = 0;
  const header = Buffer.from(JSON.stringify(Object.fromEntries(tensors.map(({ name, shape, elements }) => [name, { dtype: 'F16', shape, data_offsets: [at, (at += 2 * elements)] }]))));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  writeHoles(path, [length, header, at]);
}

function writeGguf(path: string): string {
  const [layers, hidden] = [config.num_hidden_layers, config.hidden_size];
  const names: Record<string, string> = {
    'model.embed_tokens.weight': 'token_embd.weight', 'model.norm.weight': 'output_norm.weight', 'lm_head.weight': 'output.weight',
    input_layernorm: 'attn_norm', 'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output',
    post_attention_layernorm: 'ffn_norm', 'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down',
  };
  const ggufName = (name: string) => names[name] ?? name.replace(/^model\.layers\.(\d+)\.(.*)\.weight$/, (_, layer: string, part: string) => `blk.${layer}.${names[part]}.weight`);
  let at = 0;
  const listed = tensors.map(({ name, shape, elements }) => {
    const tensor = { name: ggufName(name), dimensions: [...shape].reverse(), type: 1, offset: at };
    at += Math.ceil((2 * elements) / 32) * 32;
    return tensor;
  });
  return writeHoles(path, [ggufBytes({
    metadata: [
      ['general.architecture', 'llama'], ['llama.block_count', layers], ['llama.embedding_length', hidden], ['llama.feed_forward_length', config.intermediate_size],
      ['llama.attention.head_count', config.num_attention_heads], ['llama.attention.head_count_kv', config.num_key_value_heads],
      ['llama.context_length', config.max_position_embeddings], ['llama.attention.layer_norm_rms_epsilon', config.rms_norm_eps],
    ],
    tensors: listed,
  }), at]);
}

/** A zip of stored entries, the bytes of a storage in each. Their checksums are left out, as no reader of weights looks at them. */
function writePytorch(path: string): void {
  const text = (value: string) => Buffer.concat([Buffer.from([0x58, value.length, 0, 0, 0]), Buffer.from(value)]);
  const number = (value: number) => Buffer.from([0x4a, ...Buffer.from(new Int32Array([value]).buffer)]);
  const tuple = (values: number[]) => Buffer.concat([Buffer.from('('), ...values.map(number), Buffer.from('t')]);
  const pickle = Buffer.concat([
    Buffer.from('\x80\x02}', 'latin1'),
    ...tensors.map(({ name, shape, elements }, i) => Buffer.concat([
      text(name), Buffer.from('ctorch._utils\n_rebuild_tensor_v2\n(('), text('storage'), Buffer.from('ctorch\nHalfStorage\n'), text(String(i)), text('cpu'), number(elements), Buffer.from('tQ'), number(0),
      tuple(shape), tuple(shape.map((_, axis) => shape.slice(axis + 1).reduce((product, size) => product * size, 1))), Buffer.from('\x89ccollections\nOrderedDict\n)RtRs', 'latin1'),
    ])),
    Buffer.from('.'),
  ]);
  const entries = [{ name: 'model/data.pkl', data: pickle, bytes: pickle.length }, ...tensors.map(({ elements }, i) => ({ name: `model/data/${i}`, data: 2 * elements, bytes: 2 * elements }))];
  const pieces: (Buffer | number)[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const { name, data, bytes } of entries) {
    const sizes = Buffer.alloc(12);
    sizes.writeUInt32LE(bytes, 4);
    sizes.writeUInt32LE(bytes, 8);
    const lengths = Buffer.from([name.length, 0, 0, 0]);
    const local = Buffer.concat([Buffer.from('504b03040a000000000000002100', 'hex'), sizes, lengths, Buffer.from(name)]);
    const offset = Buffer.alloc(4);
    offset.writeUInt32LE(at);
    directory.push(Buffer.concat([Buffer.from('504b01020a000a000000000000002100', 'hex'), sizes, lengths, Buffer.alloc(10), offset, Buffer.from(name)]));
    pieces.push(local, data);
    at += local.length + bytes;
  }
  const end = Buffer.alloc(22);
  end.write('504b0506', 'hex');
  end.writeUInt16LE(entries.length, 8);
  end.writeUInt16LE(entries.length, 10);
  end.writeUInt32LE(directory.reduce((sum, { length }) => sum + length, 0), 12);
  end.writeUInt32LE(at, 16);
  writeHoles(path, [...pieces, ...directory, end]);
}
