import koffi from 'koffi';
import type { CudaDevice } from './device.js';
import { OutValue } from './driver.js';

/** cuEventCreate: no time is measured. */
const DISABLE_TIMING = 2;

/** Page-locked memory of the host: copies between it and the device run beside the host's own work. */
export class HostMemory {
  readonly address: number;
  readonly bytes: Uint8Array;

  constructor(
    private readonly device: CudaDevice,
    bytes: number,
  ) {
    const out = new OutValue();
    device.driver.call('int cuMemAllocHost_v2(_Out_ void *, size_t)')(out.buffer, bytes);
    this.address = out.pointer;
    this.bytes = new Uint8Array(koffi.view(out.buffer.readBigUInt64LE(0), bytes));
  }

  /** To be called when no copy is in flight and no view on `bytes` is in use. */
  dispose(): void {
    this.device.driver.call('int cuMemFreeHost(uint64)')(this.address);
  }
}

/** A point in the stream that the host can wait for. */
export class StreamEvent {
  private readonly event: number;
  private readonly calls;

  constructor(private readonly device: CudaDevice) {
    const { driver } = device;
    const out = new OutValue();
    driver.call('int cuEventCreate(_Out_ void *, uint32)')(out.buffer, DISABLE_TIMING);
    this.event = out.pointer;
    this.calls = {
      record: driver.call('int cuEventRecord(uint64, uint64)'),
      wait: driver.call('int cuEventSynchronize(uint64)'),
      destroy: driver.call('int cuEventDestroy_v2(uint64)'),
    };
  }

  /** Moves the point to what is queued by now. */
  record(): void {
    this.calls.record(this.event, this.device.stream);
  }

  /** Returns once the device has passed the point. */
  wait(): void {
    this.calls.wait(this.event);
  }

  dispose(): void {
    this.calls.destroy(this.event);
  }
}
