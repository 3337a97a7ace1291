import { BinaryFile } from './binary-file.js';
import { requireFinite } from './finite.js';
import { FormatError } from './format-error.js';
import { ggmlTypes } from './ggml-blocks.js';
import { readGgufHeader, type GgufHeader, type GgufTensor } from './gguf-header.js';
import type { LlamaConfig } from './llama-config.js';
import { requireLlamaTensors, requireSaneConfig } from './llama-tensors.js';
import type { WeightSource } from './weight-source.js';

const blockNames: Record<string, string> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};

/** Hugging Face's name for a tensor of a GGUF of architecture `llama`; other names stay as they are. */
function huggingFaceName(name: string): string {
  if (name === 'token_embd.weight') return 'model.embed_tokens.weight';
  if (name === 'output_norm.weight') return 'model.norm.weight';
  if (name === 'output.weight') return 'lm_head.weight';
  const [, layer, part] = /^blk\.(\d+)\.(\w+)\.weight$/.exec(name) ?? [];
  return part !== undefined && Object.hasOwn(blockNames, part) ? `model.layers.${layer}.${blockNames[part]}.weight` : name;
}

/** Keys of the vocabulary, which the weights do not need. */
const isVocabulary = (key: string) => /^tokenizer\.(ggml\.(tokens|scores|token_type|merges|added_tokens|precompiled_charsmap)$|chat_template)/.test(key);

/** A GGUF file of a LLaMA with its header read and checked. */
export class GgufModel implements WeightSource {
  private constructor(
    private readonly file: BinaryFile,
    readonly config: LlamaConfig,
    private readonly tensors: ReadonlyMap<string, GgufTensor>,
  ) {}

  static async open(path: string): Promise<GgufModel> {
    const file = await BinaryFile.open(path);
    try {
      const header = await readGgufHeader(file, isVocabulary);
      const config = configOf(header, path);
      const tensors = new Map([...header.tensors].map(([name, tensor]) => [huggingFaceName(name), tensor]));
      requireLlamaTensors(config, new Map([...tensors].map(([name, { shape }]) => [name, shape])), path);
      return new GgufModel(file, config, tensors);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  names(): string[] {
    return [...this.tensors.keys()];
  }

  shape(name: string): number[] {
    return [...this.tensor(name).shape];
  }

  async read(name: string): Promise<Float32Array> {
    const { shape, type, start, end } = this.tensor(name);
    const { name: typeName, decode } = ggmlTypes.get(type)!;
    let values: Float32Array = new Float32Array(shape.reduce((product, size) => product * size, 1));
    if (typeName === 'F32') {
      await this.file.fill(new Uint8Array(values.buffer), start);
    } else {
      const bytes = new Uint8Array(end - start);
      await this.file.fill(bytes, start);
      decode(bytes, values);
    }
    requireFinite(values, this.file.path, name);
    if (/\.(q|k)_proj\.weight$/.test(name)) values = splitHalves(values, this.config.headDim, this.config.hiddenSize);
    return values;
  }

  close(): Promise<void> {
    return this.file.close();
  }

  private tensor(name: string): GgufTensor {
    const tensor = this.tensors.get(name);
    if (!tensor) throw new FormatError('missing_tensor', this.file.path, `tensor ${name}: expected to exist, got none`);
    return tensor;
  }
}

/**
 * A GGUF of architecture `llama` has the rows of q and k ordered for rotating neighbours (2i, 2i + 1) within a head;
 * Hugging Face rotates halves (i, i + headDim / 2). Moves row 2i + j of a head to j · headDim / 2 + i.
 */
function splitHalves(values: Float32Array, headDim: number, columns: number): Float32Array {
  const moved = new Float32Array(values.length);
  const half = headDim / 2;
  const rows = values.length / columns;
  for (let row = 0; row < rows; row++) {
    const inHead = row % headDim;
    const target = row - inHead + (inHead & 1) * half + (inHead >> 1);
    moved.set(values.subarray(row * columns, (row + 1) * columns), target * columns);
  }
  return moved;
}

function configOf({ metadata, tensors }: GgufHeader, path: string): LlamaConfig {
  const unsupported = (message: string) => new FormatError('unsupported', path, message);
  const architecture = metadata.get('general.architecture');
  if (architecture !== 'llama') throw unsupported(`general.architecture: expected llama, got ${String(architecture)}`);
  const integer = (key: string): number | undefined => {
    const value = metadata.get(key);
    // A per-layer list is a different architecture unless all its entries agree.
    const single = Array.isArray(value) && value.every((entry) => entry === value[0]) ? value[0] : value;
    if (single === undefined || typeof single === 'number') return single;
    throw unsupported(`${key}: expected one number, got ${JSON.stringify(single)?.slice(0, 80)}`);
  };
  const required = (key: string): number => {
    const value = integer(key);
    if (value === undefined) throw new FormatError('bad_header', path, `${key}: expected a number, got none`);
    return value;
  };

  const splits = integer('split.count') ?? 1;
  if (splits > 1) throw unsupported(`split.count: expected the whole model in one file, got ${splits} parts`);
  const experts = integer('llama.expert_count') ?? 0;
  if (experts > 0) throw unsupported(`llama.expert_count: expected 0, got ${experts}`);
  const scaling = metadata.get('llama.rope.scaling.type') ?? 'none';
  if (scaling !== 'none' || tensors.has('rope_freqs.weight')) {
    throw unsupported(`llama.rope.scaling.type: expected none, got ${scaling === 'none' ? 'rope_freqs.weight' : String(scaling)}`);
  }

  const hiddenSize = required('llama.embedding_length');
  const heads = required('llama.attention.head_count');
  const headDim = integer('llama.attention.key_length') ?? hiddenSize / heads;
  const rotated = integer('llama.rope.dimension_count') ?? headDim;
  if (rotated !== headDim) throw unsupported(`llama.rope.dimension_count: expected ${headDim}, got ${rotated}`);
  const embedding = tensors.get('token_embd.weight');
  if (!embedding) throw new FormatError('missing_tensor', path, 'tensor token_embd.weight: expected to exist, got none');

  const ends = [integer('tokenizer.ggml.eos_token_id'), integer('tokenizer.ggml.eot_token_id'), integer('tokenizer.ggml.eom_token_id')];
  const config: LlamaConfig = {
    architecture,
    vocabSize: embedding.shape[0],
    hiddenSize,
    intermediateSize: required('llama.feed_forward_length'),
    layers: required('llama.block_count'),
    heads,
    kvHeads: integer('llama.attention.head_count_kv') ?? heads,
    headDim,
    contextLength: required('llama.context_length'),
    ropeTheta: integer('llama.rope.freq_base') ?? 10000,
    rmsNormEps: shortest(required('llama.attention.layer_norm_rms_epsilon')),
    tiedEmbeddings: !tensors.has('output.weight'),
    bosTokenId: integer('tokenizer.ggml.bos_token_id'),
    eosTokenIds: [...new Set(ends.filter((id) => id !== undefined))],
  };
  requireSaneConfig(config, path);
  return config;
}

/** The decimal that a float32 stands for: 9.999999747378752e-06 in the file was 1e-05 in the configuration. */
const shortest = (value: number): number => Number(value.toPrecision(7));
