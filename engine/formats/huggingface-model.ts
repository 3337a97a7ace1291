import { readdir } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { requireFinite } from './finite.js';
import { FormatError } from './format-error.js';
import { parseHuggingFaceConfig } from './huggingface-config.js';
import { readJsonFile, readOptionalJsonFile } from './json-file.js';
import type { LlamaConfig } from './llama-config.js';
import { requireLlamaTensors } from './llama-tensors.js';
import { PytorchFile } from './pytorch-file.js';
import { SafetensorsFile } from './safetensors.js';
import type { StoredTensor, WeightSource } from './weight-source.js';

/** A file of tensors with its header read. */
interface TensorFile {
  readonly path: string;
  readonly entries: ReadonlyMap<string, { readonly shape: readonly number[] }>;
  readFloats(name: string): Promise<Float32Array>;
  /** Absent where a file's bytes are not plain values in a row. */
  stored?(name: string): StoredTensor | undefined;
  close(): Promise<void>;
}

/**
 * A directory with config.json and the weights in model.safetensors or pytorch_model.bin, or in shards with an index beside them.
 * Where there are both, safetensors is read. Headers are read and checked.
 */
export class HuggingFaceModel implements WeightSource {
  private constructor(
    readonly config: LlamaConfig,
    private readonly directory: string,
    private readonly files: readonly TensorFile[],
    private readonly places: ReadonlyMap<string, TensorFile>,
  ) {}

  static async open(directory: string): Promise<HuggingFaceModel> {
    const configPath = join(directory, 'config.json');
    const generation = (await readOptionalJsonFile(join(directory, 'generation_config.json'))) ?? {};
    const config = parseHuggingFaceConfig(await readJsonFile(configPath), generation, configPath);
    const files: TensorFile[] = [];
    try {
      const { path, names } = await weightFiles(directory);
      for (const name of names) files.push(await (name.endsWith('.bin') ? PytorchFile : SafetensorsFile).open(join(directory, name)));
      const places = new Map<string, TensorFile>();
      for (const file of files) {
        for (const name of file.entries.keys()) {
          if (places.has(name)) throw new FormatError('bad_header', file.path, `tensor ${name}: expected once in the model, got another in ${places.get(name)!.path}`);
          if (!isUnused(name, config)) places.set(name, file);
        }
      }
      requireLlamaTensors(config, new Map([...places].map(([name, file]) => [name, file.entries.get(name)!.shape])), path);
      return new HuggingFaceModel(config, directory, files, places);
    } catch (error) {
      for (const file of files) await file.close();
      throw error;
    }
  }

  names(): string[] {
    return [...this.places.keys()];
  }

  shape(name: string): number[] {
    return [...this.place(name).entries.get(name)!.shape];
  }

  async read(name: string): Promise<Float32Array> {
    const file = this.place(name);
    const values = await file.readFloats(name);
    requireFinite(values, file.path, name);
    return values;
  }

  stored(name: string): StoredTensor | undefined {
    return this.place(name).stored?.(name);
  }

  async close(): Promise<void> {
    for (const file of this.files) await file.close();
  }

  private place(name: string): TensorFile {
    const file = this.places.get(name);
    if (!file) throw new FormatError('missing_tensor', this.directory, `tensor ${name}: expected to exist, got none`);
    return file;
  }
}

/** Tensors that transformers ignores too: rotation tables of old exports, and a copy of a tied embedding. */
const isUnused = (name: string, { tiedEmbeddings }: LlamaConfig) =>
  name.endsWith('.rotary_emb.inv_freq') || (tiedEmbeddings && name === 'lm_head.weight');

/** The forms that weights come in, the one that is preferred first. */
const forms = [
  { format: 'safetensors', single: 'model.safetensors', pattern: /^[\w.-]+\.safetensors$/ },
  { format: 'pytorch', single: 'pytorch_model.bin', pattern: /^[\w.-]+\.bin$/ },
] as const;

/** The form of a directory's weights, by its files' names: safetensors unless it has PyTorch's alone. */
export function weightForm(names: readonly string[]): (typeof forms)[number] {
  return forms.find(({ single }) => names.includes(single) || names.includes(`${single}.index.json`)) ?? forms[0];
}

/** The names of the files that hold the weights, and the one to blame when a tensor is missing. */
async function weightFiles(directory: string): Promise<{ path: string; names: string[] }> {
  const { single, pattern } = weightForm(await readdir(directory));
  const path = join(directory, `${single}.index.json`);
  const index = await readOptionalJsonFile(path);
  if (!index) return { path: join(directory, single), names: [single] };
  const map = index.weight_map;
  const names = typeof map === 'object' && map !== null ? [...new Set<unknown>(Object.values(map))] : [];
  if (names.length === 0) throw new FormatError('bad_header', path, 'weight_map: expected tensor names with their files, got none');
  for (const name of names) {
    if (typeof name !== 'string' || !pattern.test(name)) {
      throw new FormatError('bad_header', path, `weight_map: expected names of ${extname(single)} files in the directory, got ${JSON.stringify(name)}`);
    }
  }
  return { path, names: (names as string[]).sort() };
}
