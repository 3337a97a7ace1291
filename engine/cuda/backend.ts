import { DataStorage, KernelBackend, engine, util, type BackendValues, type DataType, type KernelConfig, type TensorInfo } from '@tensorflow/tfjs-core';
import { CublasLt, type MatrixOperand, type Product } from './cublas-lt.js';
import { CudaError } from './cuda-error.js';
import { CudaDevice, type DeviceOptions } from './device.js';
import type { Block, MemoryStatistics } from './memory.js';
import { CudaReplayer } from './replayer.js';
import { formatBytes, type CudaProgram, type Format, type KernelArgument } from './program.js';
import { castProgram } from './programs/elementwise.cu.js';
import { stridedCopyProgram } from './programs/layout.cu.js';

/** The data behind one or more tensors. */
interface Stored {
  dtype: DataType;
  format: Format;
  /** Number of values. */
  size: number;
  /** Absent until a kernel needs the values of a small upload. */
  block?: Block;
  /** Small uploads are kept, so that a scalar can be passed to a kernel by value. */
  host?: Float32Array | Int32Array | Uint8Array;
  refCount: number;
  /** Rows that lie apart: see `makeRoomy` and `makeColumns`. */
  rows?: RowsApart;
  /** The block belongs to a recording. */
  constant?: boolean;
  /** Memory derived from this data, freed with it: see `companion`. */
  companions?: Map<string, Block>;
}

interface RowsApart {
  count: number;
  columns: number;
  /** Values from one row to the next. */
  pitch: number;
  /** Of columns of a block that others have columns of too: the first one's number, and how many tensors still have some. */
  shared?: { from: number; users: { count: number } };
}

type TypedArray = Float32Array | Int32Array | Uint8Array;

export interface BackendOptions extends DeviceOptions {
  /** @default auto; see `CudaBackend.keepDequantized` */
  keepDequantized?: 'always' | 'never' | 'auto';
}

/** Stands for an address while memory is measured. */
const MEASURED_ADDRESS = 512;
/** Columns that a roomy matrix has room for beside its own. */
export const ROOM = 64;
export const roomyPitch = (columns: number): number => Math.ceil(columns / 64) * 64 + ROOM;

/** Values up to this many stay on the host too. */
const SMALL_UPLOAD = 16;

/**
 * tfjs's backend `cuda`. A float32 tensor is stored as float32 or, where a fused op made it, as bfloat16; kernels take
 * either, compute in float32, and say which they give. Reading converts back, so that callers see float32 only.
 */
export class CudaBackend extends KernelBackend {
  readonly device: CudaDevice;
  readonly products: CublasLt;
  readonly replayer: CudaReplayer;
  /** Set while a computation is recorded. */
  recording?: { constants: Block[]; drawCell: number };
  private data: DataStorage<Stored>;

  /**
   * Whether bf16 copies of quantised matrices are kept once made; the numbers are the same either way, but for rounding. `auto` keeps them
   * while half of the device's memory stays free.
   */
  keepDequantized: 'always' | 'never' | 'auto';

  constructor(options: BackendOptions = {}) {
    super();
    this.keepDequantized = options.keepDequantized ?? 'auto';
    this.device = new CudaDevice(options);
    this.products = new CublasLt(this.device, options.libraries);
    this.data = new DataStorage(this, engine());
    this.replayer = new CudaReplayer(this);
  }

  // --- tfjs's storage interface ---

  override write(values: BackendValues, shape: number[], dtype: DataType): object {
    const dataId = {};
    this.move(dataId, values, shape, dtype, 1);
    return dataId;
  }

  override move(dataId: object, values: BackendValues, shape: number[], dtype: DataType, refCount: number): void {
    const format = formatOf(dtype);
    const host = toTyped(values, format);
    const size = util.sizeFromShape(shape);
    const stored: Stored = { dtype, format, size, refCount };
    if (size <= SMALL_UPLOAD) stored.host = host.slice();
    else this.upload(stored, host);
    this.data.set(dataId, stored);
  }

  override readSync(dataId: object): BackendValues {
    const stored = this.data.get(dataId);
    if (stored.rows) this.moveTogether(stored, stored.rows);
    const { format, size, block, host, dtype } = stored;
    if (host) return host.slice() as BackendValues;
    if (size === 0) return format === 'f32' || format === 'bf16' ? new Float32Array(0) : format === 'i32' ? new Int32Array(0) : new Uint8Array(0);
    if (format === 'bf16') {
      const bits = new Uint16Array(size);
      this.device.download(block!.address, bits);
      const words = new Uint32Array(size);
      for (let i = 0; i < size; i++) words[i] = bits[i] << 16;
      return new Float32Array(words.buffer);
    }
    const values = format === 'f32' ? new Float32Array(size) : format === 'i32' ? new Int32Array(size) : new Uint8Array(size);
    this.device.download(block!.address, values);
    return (dtype === 'int32' && format === 'u8' ? Int32Array.from(values) : values) as BackendValues;
  }

  override read(dataId: object): Promise<BackendValues> {
    return Promise.resolve(this.readSync(dataId));
  }

  override disposeData(dataId: object, force = false): boolean {
    if (!this.data.has(dataId)) return true;
    const stored = this.data.get(dataId);
    if (--stored.refCount > 0 && !force) return false;
    // A recorded graph reads its constants at every replay: they are freed with it.
    if (stored.block && !stored.constant) this.freeBlock(stored.block, stored.rows);
    for (const block of stored.companions?.values() ?? []) this.device.memory.free(block);
    this.data.delete(dataId);
    return true;
  }

  override refCount(dataId: object): number {
    return this.data.has(dataId) ? this.data.get(dataId).refCount : 0;
  }

  override incRef(dataId: object): void {
    this.data.get(dataId).refCount++;
  }

  override numDataIds(): number {
    return this.data.numDataIds();
  }

  override memory(): { unreliable: boolean; device: MemoryStatistics } {
    return { unreliable: false, device: this.device.memory.memory() };
  }

  /** As tfjs-node's backend has it. */
  readonly isUsingGpuDevice = true;

  override floatPrecision(): 16 | 32 {
    return 32;
  }

  override epsilon(): number {
    return 1e-7;
  }

  override timerAvailable(): boolean {
    return true;
  }

  override time(work: () => void): Promise<{ kernelMs: number }> {
    return Promise.resolve({ kernelMs: this.device.time(work) });
  }

  /** Memory goes back with the process; nothing else is to be closed. */
  override dispose(): void {
    this.device.synchronize();
  }

  // --- for kernels ---

  /** A tensor with memory of its own, not written yet. @param format @default the one of the dtype */
  make(shape: readonly number[], dtype: DataType, format: Format = formatOf(dtype), purpose = 'a tensor'): TensorInfo {
    const size = util.sizeFromShape(shape as number[]);
    const stored: Stored = { dtype, format, size, refCount: 1 };
    if (size > 0) stored.block = this.device.memory.allocate(size * formatBytes[format], `${purpose} [${shape.join(',')}]`);
    return this.register(stored, shape);
  }

  private register(stored: Stored, shape: readonly number[]): TensorInfo {
    const dataId = {};
    this.data.set(dataId, stored);
    return { dataId, shape: [...shape], dtype: stored.dtype };
  }

  /** Data of values in bf16, which so far one tensor has. */
  private registerBf16(shape: readonly number[], block: Block, rows?: RowsApart): TensorInfo {
    return this.register({ dtype: 'float32', format: 'bf16', size: util.sizeFromShape(shape as number[]), refCount: 1, block, rows }, shape);
  }

  /**
   * A bf16 matrix, not written yet, with room for `ROOM` more columns: its rows begin at multiples of 128 bytes. Who writes it leaves zeros
   * there. Kernels that know of the room take the matrix by `rowsOf`; `address` moves the rows together first.
   */
  makeRoomy([count, columns]: readonly [number, number], purpose: string): TensorInfo {
    const pitch = roomyPitch(columns);
    if (count * columns === 0) return this.make([count, columns], 'float32', 'bf16', purpose);
    const block = this.device.memory.allocate(2 * count * pitch, `${purpose} [${count},${columns}]`);
    return this.registerBf16([count, columns], block, { count, columns, pitch });
  }

  /** bf16 tensors one after the other in memory, not written yet: those of one size lie at one distance, so that one product may write them. */
  makeTogether(shapes: readonly (readonly number[])[], purpose: string): TensorInfo[] {
    const sizes = shapes.map((shape) => util.sizeFromShape(shape as number[]));
    if (sizes.includes(0)) return shapes.map((shape) => this.make(shape, 'float32', 'bf16', purpose));
    const blocks = this.device.memory.allocateTogether(sizes.map((size) => 2 * size), `${purpose} [${shapes.join('], [')}]`);
    return shapes.map((shape, i) => this.registerBf16(shape, blocks[i]));
  }

  /**
   * bf16 matrices, not written yet, that lie beside each other as columns of one, for products that sum over the columns of all. Kernels
   * that know of it take them by `rowsOf`; `address` moves a matrix' rows together first. The memory is freed when none has columns of it.
   */
  makeColumns(count: number, widths: readonly number[], purpose: string): TensorInfo[] {
    const pitch = widths.reduce((a, b) => a + b, 0);
    if (count === 0 || widths.includes(0)) return widths.map((columns) => this.make([count, columns], 'float32', 'bf16', purpose));
    const block = this.device.memory.allocate(2 * count * pitch, `${purpose} [${count},${widths.join('+')}]`);
    const users = { count: widths.length };
    let end = 0;
    return widths.map((columns) => this.registerBf16([count, columns], block, { count, columns, pitch, shared: { from: (end += columns) - columns, users } }));
  }

  /** Frees the memory behind data, where nothing else has a part of it. */
  private freeBlock(block: Block, rows?: RowsApart): void {
    if (!rows?.shared || --rows.shared.users.count === 0) this.device.memory.free(block);
  }

  /** A second handle on the same data under another shape. */
  view(info: TensorInfo, shape: readonly number[], dtype: DataType = info.dtype): TensorInfo {
    this.incRef(info.dataId);
    return { dataId: info.dataId, shape: [...shape], dtype };
  }

  free(info: TensorInfo): void {
    this.disposeData(info.dataId);
  }

  format(info: TensorInfo): Format {
    return this.data.get(info.dataId).format;
  }

  /** Device address; 0 for an empty tensor. Uploads a small one that is still on the host. */
  address(info: TensorInfo): number {
    const stored = this.data.get(info.dataId);
    if (!stored.block && stored.host && stored.size > 0) {
      if (this.device.idle) return MEASURED_ADDRESS;
      this.upload(stored, stored.host);
    }
    if (stored.rows) this.moveTogether(stored, stored.rows);
    return stored.block?.address ?? 0;
  }

  /** A matrix of this many columns, its rows apart where it was made so. */
  rowsOf(info: TensorInfo, rows: number, columns: number): MatrixOperand {
    const { rows: apart, block, format } = this.data.get(info.dataId);
    if (apart?.columns !== columns || apart.count !== rows) return this.matrix(info, rows, columns);
    return { address: firstOf(block!, apart), format, rows, columns, stride: apart.pitch };
  }

  /**
   * The memory that a tensor takes, room at the ends of its rows included, and how to make another that lies like it, not written yet. Columns
   * beside others' are moved together first.
   */
  layoutOf(info: TensorInfo): { address: number; bytes: number; another: (purpose: string) => TensorInfo } {
    const { rows, block, format } = this.data.get(info.dataId), { shape, dtype } = info;
    if (rows && !rows.shared) {
      const { count, columns, pitch } = rows;
      return { address: block!.address, bytes: 2 * count * pitch, another: (purpose) => ({ ...this.makeRoomy([count, columns], purpose), shape }) };
    }
    return { address: this.address(info), bytes: util.sizeFromShape(shape) * formatBytes[format], another: (purpose) => this.make(shape, dtype, format, purpose) };
  }

  private moveTogether(stored: Stored, rows: RowsApart): void {
    const { count, columns, pitch } = rows;
    const { memory } = this.device, from = stored.block!;
    const to = memory.beside(from, () => memory.allocate(2 * count * columns, `rows moved together [${count},${columns}]`));
    this.launch(stridedCopyProgram('bf16', 2, count * columns), [
      { pointer: to.address }, { pointer: firstOf(from, rows) }, { i64: count * columns }, { i64: 0 }, { i64: count }, { i64: columns }, { i64: pitch }, { i64: 1 },
    ]);
    this.freeBlock(from, rows);
    Object.assign(stored, { block: to, rows: undefined });
  }

  pointer(info: TensorInfo): { pointer: number } {
    return { pointer: this.address(info) };
  }

  /** The value of a one-element tensor that is known without asking the device. */
  knownScalar(info: TensorInfo): number | undefined {
    const { host, size } = this.data.get(info.dataId);
    return size === 1 ? host?.[0] : undefined;
  }

  /** Values of a small tensor that never left the host. */
  knownValues(info: TensorInfo): TypedArray | undefined {
    return this.data.get(info.dataId).host;
  }

  /**
   * Memory derived from a tensor's data (its bf16 copy, its segments' bounds, what dropout kept of a branch's input), made
   * once and freed when the data is.
   */
  companion(info: TensorInfo, name: string, bytes: number, make: (block: Block) => void): Block {
    const known = this.data.get(info.dataId).companions?.get(name);
    if (known) return known;
    const [block] = this.newCompanions([info], name, [bytes]);
    if (this.findCompanion(info, name)) make(block); // else it was only measured
    return block;
  }

  /**
   * The same of several tensors that have no companion of the name, for each as many bytes as are given: one after the other in memory,
   * from where the first tensor's data came. They are still to be written.
   */
  newCompanions(infos: readonly TensorInfo[], name: string, bytes: readonly number[]): Block[] {
    const { memory, idle } = this.device, all = infos.map((info) => this.data.get(info.dataId)), { block } = all[0];
    if (idle && block && !memory.isMeasured(block)) {
      return all.map((stored, i) => {
        memory.measureLasting(stored, name, bytes[i]);
        return { address: MEASURED_ADDRESS, bytes: bytes[i] };
      });
    }
    const allocate = (): Block[] => memory.allocateTogether(bytes, name);
    const blocks = block ? memory.beside(block, allocate) : allocate();
    all.forEach((stored, i) => (stored.companions ??= new Map<string, Block>()).set(name, blocks[i]));
    return blocks;
  }

  /** Hands a companion, where there is one, to another tensor's data. */
  moveCompanion(from: TensorInfo, to: TensorInfo, name: string): void {
    const source = this.data.get(from.dataId), block = source.companions?.get(name);
    if (!block) return;
    source.companions!.delete(name);
    const target = this.data.get(to.dataId);
    (target.companions ??= new Map()).set(name, block);
  }

  findCompanion(info: TensorInfo, name: string): Block | undefined {
    return this.data.get(info.dataId).companions?.get(name);
  }

  /** Memory for the duration of `use`. */
  scratch<T>(bytes: number, purpose: string, use: (address: number) => T): T {
    return this.scratchTogether([bytes], purpose, ([address]) => use(address));
  }

  /** Several pieces, one after the other. */
  scratchTogether<T>(bytes: readonly number[], purpose: string, use: (addresses: number[]) => T): T {
    const blocks = this.device.memory.allocateTogether(bytes, purpose);
    try {
      return use(blocks.map(({ address }) => address));
    } finally {
      for (const block of blocks) this.device.memory.free(block);
    }
  }

  /** A tensor with the same values in memory of its own. */
  duplicate(info: TensorInfo): TensorInfo {
    const copy = this.make(info.shape, info.dtype, this.format(info), 'a copy');
    this.overwrite(copy, info);
    return copy;
  }

  /** Copies values between tensors of one shape and dtype. */
  overwrite(to: TensorInfo, from: TensorInfo): void {
    this.with(this.format(to), [from], (values) =>
      this.device.copy(this.writable(to), this.address(values), util.sizeFromShape(to.shape) * formatBytes[this.format(to)]));
  }

  /** Changes how a tensor's values are stored, for every handle on them. */
  convert(info: TensorInfo, format: Format): void {
    const stored = this.data.get(info.dataId);
    if (stored.format === format || this.device.idle) return;
    const convert = (): TensorInfo => this.as(info, format);
    const converted = stored.block ? this.device.memory.beside(stored.block, convert) : convert();
    const other = this.data.get(converted.dataId);
    if (stored.block) this.device.memory.free(stored.block);
    Object.assign(stored, { format, block: other.block, host: undefined });
    other.block = undefined;
    this.free(converted);
  }

  /** Address of a tensor whose values a kernel is about to change in place. */
  writable(info: TensorInfo): number {
    const address = this.address(info);
    if (!this.device.idle) this.data.get(info.dataId).host = undefined;
    return address;
  }

  /** Bytes in device memory for the kernels that `use` launches; a recording keeps them for its replays. */
  constants(bytes: Uint8Array, purpose: string, use: (address: number) => void): void {
    if (this.recording) {
      const block = this.device.memory.outsideArena(() => this.device.memory.allocate(bytes.byteLength, purpose));
      this.device.uploadNow(block, bytes);
      this.recording.constants.push(block);
      return use(block.address);
    }
    const block = this.device.memory.allocate(bytes.byteLength, purpose);
    this.device.upload(block, bytes);
    use(block.address);
    this.device.memory.free(block);
  }

  launch(program: CudaProgram, args: readonly KernelArgument[]): void {
    this.device.launch(program, args);
  }

  multiply(product: Product): void {
    this.products.multiply(product);
  }

  /** The tensor in a wanted format: a second handle if it has it already, else a converted copy. The caller frees it. */
  as(info: TensorInfo, format: Format): TensorInfo {
    const from = this.format(info);
    if (from === format) return this.view(info, info.shape);
    const out = this.make(info.shape, format === 'i32' ? 'int32' : format === 'u8' ? 'bool' : 'float32', format);
    this.launch(castProgram(from, format, util.sizeFromShape(info.shape)), [this.pointer(out), this.pointer(info), { i64: util.sizeFromShape(info.shape) }]);
    return out;
  }

  /** Runs with tensors in the wanted format, and frees the copies. */
  with<T>(format: Format, infos: readonly TensorInfo[], use: (...converted: TensorInfo[]) => T): T {
    const converted = infos.map((info) => this.as(info, format));
    try {
      return use(...converted);
    } finally {
      for (const info of converted) this.free(info);
    }
  }

  /** A tensor as a row-major matrix of its last axis. */
  matrix(info: TensorInfo, rows: number, columns: number): MatrixOperand {
    return { address: this.address(info), format: this.format(info), rows, columns };
  }

  private upload(stored: Stored, values: TypedArray): void {
    if (stored.size === 0) return;
    const allocate = (): Block => this.device.memory.allocate(stored.size * formatBytes[stored.format], `an upload of ${stored.size} values`);
    stored.block = this.recording ? this.device.memory.outsideArena(allocate) : allocate();
    if (!this.recording) return this.device.upload(stored.block, values);
    this.device.uploadNow(stored.block, values);
    this.recording.constants.push(stored.block);
    stored.constant = true;
  }
}

/** What a kernel of this backend is given. */
export interface KernelCall<I, A> {
  inputs: I;
  attrs: A;
  backend: CudaBackend;
}

/** A registration for tfjs. The one place where its loose kernel types are cast. */
export const cudaKernel = <I = Record<string, TensorInfo>, A = object>(kernelName: string, run: (call: KernelCall<I, A>) => TensorInfo | TensorInfo[]): KernelConfig => ({
  kernelName,
  backendName: 'cuda',
  kernelFunc: ({ inputs, attrs, backend }) => run({ inputs: inputs as I, attrs: (attrs ?? {}) as A, backend: backend as CudaBackend }),
});

/** Address of the first value of rows that lie apart. */
const firstOf = ({ address }: Block, { shared }: RowsApart): number => address + 2 * (shared?.from ?? 0);

function formatOf(dtype: DataType): Format {
  if (dtype === 'float32') return 'f32';
  if (dtype === 'int32') return 'i32';
  if (dtype === 'bool') return 'u8';
  throw new CudaError('bad_dtype', `cuda backend: expected dtype float32, int32 or bool, got ${dtype}`);
}

function toTyped(values: BackendValues, format: Format): TypedArray {
  if (format === 'f32') return values instanceof Float32Array ? values : Float32Array.from(values as ArrayLike<number>);
  if (format === 'i32') return values instanceof Int32Array ? values : Int32Array.from(values as ArrayLike<number>);
  return values instanceof Uint8Array ? values : Uint8Array.from(values as ArrayLike<number>);
}
