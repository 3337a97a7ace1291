/**
 * What torch.save writes since 1.6: a zip archive of `<name>/data.pkl`, which describes the tensors, and of their bytes, one
 * uncompressed entry `<name>/data/<key>` a storage. https://pytorch.org/docs/stable/notes/serialization.html
 */
import yauzl from 'yauzl';
import { BinaryFile } from './binary-file.js';
import { FormatError } from './format-error.js';
import { bf16ToF32, f16ToF32 } from './half-floats.js';
import { maxPickleBytes } from './pickle.js';
import { readPickledTensors, type PickledTensor } from './pytorch-pickle.js';
import { countElements, elementBytes } from './safetensors-header.js';
import { readStrided } from './strided.js';

/** More than any model's shard has. */
const maxEntries = 1_000_000;

interface ZipEntry {
  start: number;
  bytes: number;
}

/** A PyTorch file with its pickle read; tensor bytes stay on disk until asked for. */
export class PytorchFile {
  private constructor(
    private readonly file: BinaryFile,
    readonly entries: ReadonlyMap<string, PickledTensor>,
    /** Where each storage begins in the file. */
    private readonly storages: ReadonlyMap<string, number>,
    private readonly bigEndian: boolean,
  ) {}

  static async open(path: string): Promise<PytorchFile> {
    const file = await BinaryFile.open(path);
    try {
      await requireZip(file);
      const entries = await zipEntries(file);
      const root = [...entries.keys()].find((name) => /^[^/]+\/data\.pkl$/.test(name))?.slice(0, -'data.pkl'.length);
      if (root === undefined) throw new FormatError('bad_header', path, 'file: expected data.pkl in the archive, got none');
      if (entries.has(`${root}constants.pkl`)) throw new FormatError('unsupported', path, 'file: expected weights (torch.save of a state dict), got a TorchScript program');
      const pickle = await readEntry(file, entries.get(`${root}data.pkl`)!, maxPickleBytes);
      const byteOrder = entries.get(`${root}byteorder`);
      const order = byteOrder ? Buffer.from(await readEntry(file, byteOrder, 16)).toString('latin1') : 'little';
      if (order !== 'little' && order !== 'big') throw new FormatError('bad_header', path, `byteorder: expected little or big, got ${JSON.stringify(order)}`);

      const { tensors, storages } = readPickledTensors(pickle, path);
      const starts = new Map<string, number>();
      for (const [key, bytes] of storages) {
        const entry = entries.get(`${root}data/${key}`);
        if (entry?.bytes !== bytes) throw new FormatError('bad_header', path, `storage ${key.slice(0, 80)}: expected ${bytes} bytes, got ${entry?.bytes ?? 'none'}`);
        starts.set(key, entry.start);
      }
      return new PytorchFile(file, tensors, starts, order === 'big');
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  get path(): string {
    return this.file.path;
  }

  /** Reads an F32, F16 or BF16 tensor as float32, in row-major order. */
  async readFloats(name: string): Promise<Float32Array> {
    const tensor = this.entries.get(name);
    if (!tensor) throw new FormatError('missing_tensor', this.path, `tensor ${name}: expected to exist, got none`);
    const { dtype, shape, storage } = tensor;
    if (dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16') throw new FormatError('unsupported', this.path, `tensor ${name}: expected F32, F16 or BF16, got ${dtype}`);
    const bytes = Buffer.from(new ArrayBuffer(countElements(shape) * elementBytes[dtype]));
    await readStrided(this.file, { ...tensor, start: this.storages.get(storage)!, elementBytes: elementBytes[dtype] }, bytes);
    if (this.bigEndian) swapBytes(bytes, elementBytes[dtype]);
    if (dtype === 'F32') return new Float32Array(bytes.buffer);
    const bits = new Uint16Array(bytes.buffer);
    return dtype === 'F16' ? f16ToF32(bits) : bf16ToF32(bits);
  }

  close(): Promise<void> {
    return this.file.close();
  }
}

const swapBytes = (bytes: Buffer, width: 2 | 4): Buffer => (width === 4 ? bytes.swap32() : bytes.swap16());

async function requireZip(file: BinaryFile): Promise<void> {
  if (file.size < 22) throw new FormatError('truncated', file.path, `file: expected at least 22 bytes, got ${file.size}`);
  const start = Buffer.alloc(22);
  await file.fill(start, 0);
  if (start.readUInt32LE(0) === 0x04034b50) return;
  // Before 1.6 a file was several pickles of protocol 2, the first of which is a magic number.
  if (start.readUInt16BE(0) === 0x8002) {
    throw new FormatError('unsupported', file.path,
      'file: expected a zip archive, as torch.save writes it since PyTorch 1.6, got its older format; '
      + `convert it with: python -c 'import sys, torch; f = sys.argv[1]; torch.save(torch.load(f, map_location="cpu", weights_only=True), f)' FILE`);
  }
  throw new FormatError('wrong_magic', file.path, `magic: expected a zip archive (PK), got ${start.subarray(0, 4).toString('hex')}`);
}

/** Where the bytes of each entry lie. None may be compressed, and all lie within the file. */
async function zipEntries(file: BinaryFile): Promise<Map<string, ZipEntry>> {
  const broken = (error: unknown) => new FormatError('bad_header', file.path, `zip: expected an archive that can be read, got a mistake in it: ${(error as Error).message}`);
  const zip = await yauzl.openPromise(file.path, { lazyEntries: true, autoClose: false }).catch((error: unknown) => Promise.reject(broken(error)));
  const entries = new Map<string, ZipEntry>();
  try {
    if (zip.entryCount > maxEntries) throw new Error(`${zip.entryCount} entries`);
    for await (const entry of zip.eachEntry()) {
      if (entry.compressionMethod !== 0 || entry.isEncrypted()) throw new Error(`${entry.fileName}: compressed or encrypted, which torch.save does not do`);
      if (entries.has(entry.fileName)) throw new Error(`${entry.fileName}: twice`);
      const { fileDataStart: start } = await zip.readLocalFileHeaderPromise(entry, { minimal: true });
      if (start + entry.compressedSize > file.size) throw new Error(`${entry.fileName}: ${entry.compressedSize} bytes from ${start} on, past the end of the file`);
      entries.set(entry.fileName, { start, bytes: entry.compressedSize });
    }
  } catch (error) {
    throw broken(error);
  } finally {
    zip.close();
  }
  return entries;
}

async function readEntry(file: BinaryFile, { start, bytes }: ZipEntry, most: number): Promise<Uint8Array> {
  if (bytes > most) throw new FormatError('bad_header', file.path, `file: expected at most ${most} bytes of description, got ${bytes}`);
  const target = new Uint8Array(bytes);
  await file.fill(target, start);
  return target;
}
