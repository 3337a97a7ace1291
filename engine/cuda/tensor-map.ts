import koffi from 'koffi';
import type { Driver } from './driver.js';

/** A bf16 tensor [depth, rows, columns] in device memory; rows start at multiples of 16 bytes. */
export interface BoxedTensor {
  address: number;
  depth: number;
  rows: number;
  columns: number;
}

const MAP_BYTES = 128;
const MAP_ALIGNMENT = 64;
/** Maps kept: about the tensors that attention meets in the steps of a few shapes. */
const LIMIT = 4096;

// Constants of cuda.h.
const BF16 = 9, NO_INTERLEAVE = 0, SWIZZLE_128_BYTES = 3, PROMOTE_TO_256_BYTES = 3, ZEROS_OUTSIDE = 0;

/** Descriptions of tensors for Hopper's copy engine, as kernel arguments (CUtensorMap): boxes of rows and columns, rows swizzled by 128 bytes. */
export class TensorMaps {
  private readonly known = new Map<string, Uint8Array>();
  private encode?: (...args: unknown[]) => void;
  private readonly memory = Buffer.alloc(MAP_BYTES + MAP_ALIGNMENT);
  /** The first multiple of the alignment in `memory`, which the driver insists on. */
  private readonly start: number;
  private readonly address: bigint;

  constructor(private readonly driver: Driver) {
    const address = koffi.address(this.memory);
    this.start = Number(-address & BigInt(MAP_ALIGNMENT - 1));
    this.address = address + BigInt(this.start);
  }

  /** @param box rows ≤ 256, columns ≤ 64 and a multiple of 8 */
  of({ address, depth, rows, columns }: BoxedTensor, box: { rows: number; columns: number }): { tensorMap: Uint8Array } {
    const key = [address, depth, rows, columns, box.rows, box.columns].join(' ');
    let tensorMap = this.known.get(key);
    if (!tensorMap) {
      this.encode ??= this.driver.call(
        'int cuTensorMapEncodeTiled(uint64, int, uint32, uint64, const void *, const void *, const void *, const void *, int, int, int, int)',
      );
      this.encode(
        this.address, BF16, 3, address, BigUint64Array.of(BigInt(columns), BigInt(rows), BigInt(depth)), BigUint64Array.of(BigInt(2 * columns), BigInt(2 * columns * rows)),
        Uint32Array.of(box.columns, box.rows, 1), Uint32Array.of(1, 1, 1), NO_INTERLEAVE, SWIZZLE_128_BYTES, PROMOTE_TO_256_BYTES, ZEROS_OUTSIDE,
      );
      if (this.known.size >= LIMIT) this.known.clear();
      this.known.set(key, (tensorMap = Uint8Array.from(this.memory.subarray(this.start, this.start + MAP_BYTES))));
    }
    return { tensorMap };
  }
}
