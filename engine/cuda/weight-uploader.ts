import { engine, keep, type Tensor, type Tensor1D, type Tensor2D } from '@tensorflow/tfjs-core';
import { nf4Block } from '../quant/nf4.js';
import { levelOfCells, meanScale, nestedBlock } from '../quant/nested-absmax.js';
import type { BaseDtype } from '../tensor/frozen-weight.js';
import type { StoredValues, WeightUploader } from '../tensor/weight-upload.js';
import type { FrozenWeight, Nf4Weight } from '../tensor/weight-types.js';
import type { CudaBackend } from './backend.js';
import { HostMemory, StreamEvent } from './host-memory.js';
import type { Block } from './memory.js';
import { ceilDiv, type Format } from './program.js';
import { convertStoredProgram, findNonFiniteProgram, nestAbsmaxProgram, quantizeInt8Program, quantizeNf4Program } from './programs/quantize.cu.js';

const storedBytes = { f32: 4, f16: 2, bf16: 2 } as const;
/** Of one read; small enough that several of one matrix are under way at once. */
const PIECE_BYTES = 4 << 20;
/** Reads under way at once, each into page-locked memory of its own: Node reads files on four threads. */
const PIECES = 8;

/** A piece of page-locked memory, free once the copy from it has ended. */
interface Piece {
  host: HostMemory;
  copied: StreamEvent;
}

/** Reads straight into page-locked memory, uploads the file's bytes as they are, and converts and quantises on the device. */
export class CudaWeightUploader implements WeightUploader {
  private readonly free: Piece[] = [];
  private readonly waiting: ((piece: Piece) => void)[] = [];
  private readonly all: Piece[] = [];
  private readonly cells: Block;
  /** For each matrix, the first value that is not finite. */
  private readonly found: { values: StoredValues; cell: Block }[] = [];

  constructor(private readonly backend: CudaBackend) {
    const { device } = backend;
    for (let i = 0; i < PIECES; i++) this.all.push({ host: new HostMemory(device, PIECE_BYTES), copied: new StreamEvent(device) });
    this.free.push(...this.all);
    this.cells = device.memory.allocate(levelOfCells.length, 'the cells of 8-bit levels');
    device.upload(this.cells, levelOfCells);
  }

  async freeze(values: StoredValues, shape: [number, number], base: BaseDtype): Promise<FrozenWeight> {
    const { device } = this.backend;
    const raw = device.memory.allocate(values.count * storedBytes[values.dtype], `a matrix [${shape.join(',')}] as its file has it`);
    try {
      await this.upload(values, raw.address);
      const cell = device.memory.allocate(8, 'the place of a value that is not finite');
      device.fill(cell.address, 0xff, 8);
      this.backend.launch(findNonFiniteProgram(values.dtype, values.count), [{ pointer: cell.address }, { pointer: raw.address }, { i64: values.count }]);
      this.found.push({ values, cell });
      return this.store(values, raw.address, shape, base);
    } finally {
      device.memory.free(raw);
    }
  }

  check(): void {
    const { device } = this.backend;
    for (const { values, cell } of this.found.splice(0)) {
      const found = new BigUint64Array(1);
      device.download(cell.address, found);
      device.memory.free(cell);
      if (found[0] === 2n ** 64n - 1n) continue;
      throw values.notFinite([NaN, NaN, Infinity, -Infinity][Number(found[0] & 3n)], Number(found[0] >> 2n));
    }
  }

  dispose(): void {
    const { device } = this.backend;
    device.synchronize();
    for (const { host, copied } of this.all) {
      host.dispose();
      copied.dispose();
    }
    for (const block of [this.cells, ...this.found.map(({ cell }) => cell)]) device.memory.free(block);
  }

  private async upload(values: StoredValues, address: number): Promise<void> {
    const { device } = this.backend;
    const bytes = values.count * storedBytes[values.dtype];
    const copy = device.driver.call('int cuMemcpyHtoDAsync_v2(uint64, uint64, size_t, uint64)');
    // All are waited for, also when one fails: a read under way goes on writing into its piece.
    const results = await Promise.allSettled(Array.from({ length: ceilDiv(bytes, PIECE_BYTES) }, async (_, i) => {
      const start = i * PIECE_BYTES, size = Math.min(PIECE_BYTES, bytes - start);
      const piece = await this.take();
      try {
        piece.copied.wait();
        await values.fill(piece.host.bytes.subarray(0, size), start);
        copy(address + start, piece.host.address, size, device.stream);
        piece.copied.record();
      } finally {
        this.give(piece);
      }
    }));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  private take(): Promise<Piece> {
    const piece = this.free.shift();
    return piece ? Promise.resolve(piece) : new Promise((resolve) => this.waiting.push(resolve));
  }

  private give(piece: Piece): void {
    const next = this.waiting.shift();
    if (next) next(piece);
    else this.free.push(piece);
  }

  private store({ dtype, count }: StoredValues, raw: number, shape: [number, number], base: BaseDtype): FrozenWeight {
    const { backend } = this;
    const [rows, columns] = shape;
    const from = { pointer: raw };
    switch (base.dtype) {
      case 'f32':
      case 'bf16': {
        // A bf16 file's values are the same in either.
        const to: Format & StoredValues['dtype'] = base.dtype === 'bf16' || dtype === 'bf16' ? 'bf16' : 'f32';
        const value = this.tensor(shape, 'float32', to);
        if (dtype === to) backend.device.copy(backend.address(value), raw, count * storedBytes[to]);
        else backend.launch(convertStoredProgram(dtype, to, count), [backend.pointer(value), from, { i64: count }]);
        return { kind: 'dense', shape, value: value as Tensor2D };
      }
      case 'int8': {
        const codes = this.words(count, 4), absmax = this.tensor([rows], 'float32', 'f32');
        if (count % 4 !== 0) backend.device.fill(backend.address(codes) + count - (count % 4), 0, 4);
        backend.launch(quantizeInt8Program(dtype, rows), [backend.pointer(codes), backend.pointer(absmax), from, { i64: columns }]);
        return { kind: 'int8', shape, codes, absmax: absmax as Tensor1D };
      }
      case 'nf4': {
        const blocks = ceilDiv(count, nf4Block);
        const codes = this.words(ceilDiv(count, 2), nf4Block / 2), scales = this.tensor([blocks], 'float32', 'f32');
        backend.launch(quantizeNf4Program(dtype, count), [backend.pointer(codes), backend.pointer(scales), from, { i64: count }]);
        if (!base.doubleQuant) return { kind: 'nf4', shape, codes, absmax: { nested: false, values: scales as Tensor1D } };
        return { kind: 'nf4', shape, codes, absmax: this.nest(scales, blocks) };
      }
    }
  }

  /** The mean is summed on the host, in the order in which engine/quant sums it. */
  private nest(scales: Tensor, blocks: number): Nf4Weight['absmax'] {
    const { backend } = this;
    const offset = meanScale(scales.dataSync<'float32'>());
    const codes = this.words(blocks, nestedBlock), absmax = this.tensor([ceilDiv(blocks, nestedBlock)], 'float32', 'f32');
    backend.launch(nestAbsmaxProgram(blocks), [backend.pointer(codes), backend.pointer(absmax), backend.pointer(scales), { pointer: this.cells.address }, { f32: offset }, { i64: blocks }]);
    scales.dispose();
    return { nested: true, codes, absmax: absmax as Tensor1D, offset };
  }

  /** Room for bytes, as int32 words padded to a multiple of `multiple` bytes. */
  private words(bytes: number, multiple: number): Tensor1D {
    return this.tensor([(ceilDiv(bytes, multiple) * multiple) / 4], 'int32', 'i32') as Tensor1D;
  }

  /** A kept tensor that is not written yet. */
  private tensor(shape: number[], dtype: 'float32' | 'int32', format: Format): Tensor {
    return keep(engine().makeTensorFromTensorInfo(this.backend.make(shape, dtype, format, 'a frozen matrix')) as Tensor);
  }
}
