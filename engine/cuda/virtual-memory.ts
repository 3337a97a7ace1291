import { OUT_OF_MEMORY, OutValue, type Driver } from './driver.js';

/** CUmemAllocationProp: pinned memory of one device. */
function allocationOf(ordinal: number): Buffer {
  const properties = Buffer.alloc(32);
  properties.writeInt32LE(1, 0); // type: pinned
  properties.writeInt32LE(1, 8); // location: a device
  properties.writeInt32LE(ordinal, 12);
  return properties;
}

/** CUmemAccessDesc: the device may read and write. */
function accessOf(ordinal: number): Buffer {
  const access = Buffer.alloc(12);
  access.writeInt32LE(1, 0);
  access.writeInt32LE(ordinal, 4);
  access.writeInt32LE(3, 8);
  return access;
}

/** Ranges of addresses that memory is put behind piece by piece, so that a range can grow where it is. */
export class VirtualMemory {
  private readonly mapped = new Map<number, { bytes: number; handle: number }>();
  private readonly calls;
  private readonly allocation: Buffer;
  private readonly access: Buffer;

  constructor(
    private readonly driver: Driver,
    ordinal: number,
  ) {
    this.allocation = allocationOf(ordinal);
    this.access = accessOf(ordinal);
    this.calls = {
      reserve: driver.call('int cuMemAddressReserve(_Out_ void *, size_t, size_t, uint64, uint64)'),
      create: driver.attempt('int cuMemCreate(_Out_ void *, size_t, const void *, uint64)'),
      map: driver.call('int cuMemMap(uint64, size_t, size_t, uint64, uint64)'),
      setAccess: driver.call('int cuMemSetAccess(uint64, size_t, const void *, size_t)'),
      unmap: driver.call('int cuMemUnmap(uint64, size_t)'),
      release: driver.call('int cuMemRelease(uint64)'),
    };
  }

  reserve(bytes: number): number {
    const out = new OutValue();
    this.calls.reserve(out.buffer, bytes, 0, 0, 0);
    return out.pointer;
  }

  /** @param bytes a multiple of 2 MiB. @returns false when the device has not that much left */
  map(address: number, bytes: number): boolean {
    const out = new OutValue();
    const code = this.calls.create(out.buffer, bytes, this.allocation, 0);
    if (code === OUT_OF_MEMORY) return false;
    if (code !== 0) throw this.driver.failure('cuMemCreate', code);
    this.calls.map(address, bytes, 0, out.pointer, 0);
    this.calls.setAccess(address, bytes, this.access, 1);
    this.mapped.set(address, { bytes, handle: out.pointer });
    return true;
  }

  /** Gives back all that was mapped in a range; no work in flight may use it. */
  unmap(address: number, bytes: number): void {
    for (const [place, piece] of [...this.mapped]) {
      if (place < address || place >= address + bytes) continue;
      this.calls.unmap(place, piece.bytes);
      this.calls.release(piece.handle);
      this.mapped.delete(place);
    }
  }
}
