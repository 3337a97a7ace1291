import { dispose, engine, type Tensor } from '@tensorflow/tfjs-core';
import type { Shelved } from '../tensor/replay.js';
import type { CudaBackend } from './backend.js';
import { OutValue } from './driver.js';

/** Page-locked memory is taken in pieces of this size; a larger tensor gets a piece of its own. */
const SLAB_BYTES = 256 << 20;
/** Puttings-away that may be on their way out when the next one comes: a copy then has the time of two halves of a block. */
const LEAVING = 1;
/** cuEventCreate: no time is measured. */
const DISABLE_TIMING = 2;

interface Slab {
  address: number;
  bytes: number;
}

/**
 * Puts tensors into page-locked memory of the host and brings them back, by copies on a stream of its own that run beside the
 * kernels. Tensors on their way out are freed when the next ones but one are put away, so that nobody waits for the copy. Each
 * computation fills the same memory from its start, as recordings run one after another.
 */
export class Shelf {
  private readonly slabs: Slab[] = [];
  /** Where the next tensor goes. */
  private slab = 0;
  private offset = 0;
  /** Handed to the copy, not freed yet; the oldest first. */
  private leaving: { tensors: readonly Tensor[]; copied: number }[] = [];
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
    this.leaving = [];
  }

  put(tensors: readonly Tensor[]): Shelved {
    const { backend } = this;
    this.freeLeaving(LEAVING);
    const parcels = tensors.map((tensor) => {
      const layout = backend.layoutOf(tensor);
      return { ...layout, place: this.reserve(layout.bytes) };
    });
    const copied = this.beside((stream) => {
      for (const { address, bytes, place } of parcels) this.calls.toHost(place, address, bytes, stream);
    });
    this.leaving.push({ tensors, copied });
    let back: { tensors: Tensor[]; arrived: number } | undefined;
    const fetch = () => {
      if (back) return;
      this.freeLeaving(0);
      const infos = parcels.map(({ another }) => another('a tensor from the host'));
      const arrived = this.beside((stream) => parcels.forEach(({ bytes, place }, i) => this.calls.toDevice(backend.layoutOf(infos[i]).address, place, bytes, stream)));
      back = { tensors: infos.map((info) => engine().makeTensorFromTensorInfo(info) as Tensor), arrived };
    };
    return {
      fetch,
      take: () => {
        if (!back) fetch();
        const { tensors, arrived } = back!;
        this.join(arrived);
        return tensors;
      },
    };
  }

  /** Gives the host's memory back; nothing may be in flight or recorded. */
  dispose(): void {
    const free = this.backend.device.driver.call('int cuMemFreeHost(uint64)');
    for (const { address } of this.slabs.splice(0)) free(address);
    this.reset();
  }

  /** Frees all but the last few that were put away. */
  private freeLeaving(butLast: number): void {
    for (const { tensors, copied } of this.leaving.splice(0, Math.max(0, this.leaving.length - butLast))) {
      this.join(copied);
      dispose([...tensors]);
    }
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
