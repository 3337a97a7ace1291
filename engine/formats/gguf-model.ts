import { architectureOf } from './architectures/index.js';
import type { BinaryFile } from './binary-file.js';
import { requireFinite } from './finite.js';
import { FormatError } from './format-error.js';
import { ggmlTypes } from './ggml-blocks.js';
import { ggufConfig, ropeFactorsTensor } from './gguf-config.js';
import { huggingFaceName } from './gguf-names.js';
import { openGgufParts, type PlacedTensor } from './gguf-parts.js';
import type { LlamaConfig } from './llama-config.js';
import { requireLlamaTensors } from './llama-tensors.js';
import type { WeightSource } from './weight-source.js';

/** Keys of the vocabulary, which the weights do not need. */
const isVocabulary = (key: string) => /^tokenizer\.(ggml\.(tokens|scores|token_type|merges|added_tokens|precompiled_charsmap)$|chat_template)/.test(key);

/** A GGUF of a supported architecture, in one file or in several, with its headers read and checked. */
export class GgufModel implements WeightSource {
  private constructor(
    private readonly path: string,
    readonly config: LlamaConfig,
    private readonly files: readonly BinaryFile[],
    private readonly tensors: ReadonlyMap<string, PlacedTensor>,
  ) {}

  /** `path` is the first part of a model in several files. */
  static async open(path: string): Promise<GgufModel> {
    const { files, header } = await openGgufParts(path, isVocabulary);
    try {
      const factors = header.tensors.get(ropeFactorsTensor);
      const config = ggufConfig(header, factors && (await readValues(factors)), path);
      const tensors = new Map([...header.tensors].map(([name, tensor]) => [huggingFaceName(name), tensor]));
      tensors.delete(ropeFactorsTensor);
      requireLlamaTensors(config, new Map([...tensors].map(([name, { shape }]) => [name, shape])), path);
      return new GgufModel(path, config, files, tensors);
    } catch (error) {
      for (const file of files) await file.close();
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
    const tensor = this.tensor(name);
    const values = await readValues(tensor);
    requireFinite(values, tensor.file.path, name);
    if (!/\.(q|k)_proj\.(weight|bias)$/.test(name) || !architectureOf(this.config.architecture, this.path).gguf.rotatesNeighbours) return values;
    return splitHalves(values, this.config.headDim, tensor.shape.length === 1 ? 1 : this.config.hiddenSize);
  }

  async close(): Promise<void> {
    for (const file of this.files) await file.close();
  }

  private tensor(name: string): PlacedTensor {
    const tensor = this.tensors.get(name);
    if (!tensor) throw new FormatError('missing_tensor', this.path, `tensor ${name}: expected to exist, got none`);
    return tensor;
  }
}

/** A tensor's values, dequantised. */
async function readValues({ shape, type, start, end, file }: PlacedTensor): Promise<Float32Array> {
  const { name, decode } = ggmlTypes.get(type)!;
  const values = new Float32Array(shape.reduce((product, size) => product * size, 1));
  if (name === 'F32') {
    await file.fill(new Uint8Array(values.buffer), start);
  } else {
    const bytes = new Uint8Array(end - start);
    await file.fill(bytes, start);
    decode(bytes, values);
  }
  return values;
}

/**
 * Rows of q and k (or elements of their biases) of a GGUF may be ordered for rotating neighbours (2i, 2i + 1) within a head;
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
