import { dispose, engine, type Tensor } from '@tensorflow/tfjs-core';
import type { Shelved } from '../tensor/replay.js';
import type { CudaBackend } from './backend.js';
import { OutValue } from './driver.js';
import { formatBytes } from './program.js';

/** Page-locked memory is taken in pieces of this size; a larger tensor gets a piece of its own. */
const SLAB_BYTES = 256 << 20;
/** cuEventCreate: no time is measured. */
const DISABLE_TIMING = 2;

interface Slab {
  address: number;
  bytes: number;
}

/**
 * Puts tensors into page-locked memory of the host and brings them back, by copies on a stream of its own that run beside the
 * kernels. A tensor on its way out is freed when the next one is put away, so that nobody waits for the copy. Each computation
 * fills the same memory from its start, as recordings run one after another.
 */
export class Shelf {
  private readonly slabs: Slab[] = [];
  /** Where the next tensor goes. */
  private slab = 0;
  private offset = 0;
  /** Handed to the copy, not freed yet. */
  private leaving?: { x: Tensor; copied: number };
  private stream?: number;
  private readonly events: number[] = [];
  private readonly calls;

  constructor(private readonly backend: CudaBackend) {
    const { driver } = backend.device;
    this.calls = {
      toHost: driver.call('int cuMemcpyDtoHAsync_v2(uint64, uint64, size_t, uint64)'),
      toDevice: driver.call('int cuMemcpyHtoDAsync_v2(uint64, uint64, size_t, uint64)'),
      record: driver.call('int cuEventRecord(uint64, uint64)'),
      wait: driver.call('int cuStreamWaitEvent(uint64, uint64, uint32)'),
    };
  }

  /** A new computation begins. */
  reset(): void {
    this.slab = this.offset = 0;
    this.leaving = undefined;
  }

  put(x: Tensor): Shelved {
    const { backend } = this;
    const format = backend.format(x), bytes = x.size * formatBytes[format], { shape, dtype } = x;
    this.freeLeaving();
    const place = this.reserve(bytes);
    const copied = this.beside((stream) => this.calls.toHost(place, backend.address(x), bytes, stream));
    this.leaving = { x, copied };
    let back: { tensor: Tensor; arrived: number } | undefined;
    const fetch = () => {
      this.freeLeaving();
      const tensor = engine().makeTensorFromTensorInfo(backend.make(shape, dtype, format, 'a tensor from the host')) as Tensor;
      back = { tensor, arrived: this.beside((stream) => this.calls.toDevice(backend.address(tensor), place, bytes, stream)) };
    };
    return {
      fetch,
      take: () => {
        if (!back) fetch();
        const { tensor, arrived } = back!;
        this.join(arrived);
        return tensor;
      },
    };
  }

  /** Gives the host's memory back; nothing may be in flight or recorded. */
  dispose(): void {
    const free = this.backend.device.driver.call('int cuMemFreeHost(uint64)');
    for (const { address } of this.slabs.splice(0)) free(address);
    this.reset();
  }

  private freeLeaving(): void {
    if (!this.leaving) return;
    this.join(this.leaving.copied);
    dispose(this.leaving.x);
    this.leaving = undefined;
  }

  /** Queues a copy behind all that is queued by now. @returns an event that happens after it */
  private beside(copy: (stream: number) => void): number {
    if (this.backend.device.idle) return 0;
    const stream = (this.stream ??= this.newStream());
    const ready = this.takeEvent();
    this.calls.record(ready, this.backend.device.stream);
    this.calls.wait(stream, ready, 0);
    this.events.push(ready);
    copy(stream);
    const done = this.takeEvent();
    this.calls.record(done, stream);
    return done;
  }

  /** All that is queued from now on comes after the event. */
  private join(event: number): void {
    if (this.backend.device.idle) return;
    this.calls.wait(this.backend.device.stream, event, 0);
    this.events.push(event);
  }

  private takeEvent(): number {
    const known = this.events.pop();
    if (known !== undefined) return known;
    const out = new OutValue();
    this.backend.device.driver.call('int cuEventCreate(_Out_ void *, uint32)')(out.buffer, DISABLE_TIMING);
    return out.pointer;
  }

  private newStream(): number {
    const out = new OutValue();
    this.backend.device.driver.call('int cuStreamCreate(_Out_ void *, uint32)')(out.buffer, 1 /* non-blocking */);
    return out.pointer;
  }

  private reserve(bytes: number): number {
    if (this.backend.device.idle) return 0;
    while (this.slab < this.slabs.length && this.offset + bytes > this.slabs[this.slab].bytes) {
      this.slab++;
      this.offset = 0;
    }
    if (this.slab === this.slabs.length) this.slabs.push(this.newSlab(Math.max(SLAB_BYTES, bytes)));
    const address = this.slabs[this.slab].address + this.offset;
    this.offset += Math.ceil(bytes / 512) * 512;
    return address;
  }

  private newSlab(bytes: number): Slab {
    const out = new OutValue();
    this.backend.device.driver.call('int cuMemAllocHost_v2(_Out_ void *, size_t)')(out.buffer, bytes);
    return { address: out.pointer, bytes };
  }
}
