import { dispose, engine, tidy, type Tensor } from '@tensorflow/tfjs-core';
import { atHand, type Computation, type MeasuredMemory, type MemoryChoices, type Replayer, type Shelved } from '../tensor/replay.js';
import type { FrozenWeight } from '../tensor/weight-types.js';
import type { CudaBackend } from './backend.js';
import { WORKSPACE_BYTES } from './cublas-lt.js';
import { GraphCache } from './graph.js';
import { HostMemory, StreamEvent } from './host-memory.js';
import { Shelf } from './shelf.js';

const LANDING_BYTES = 4096;

/** What the backend offers to a training: recorded passes, and memory that is planned. */
export class CudaReplayer implements Replayer {
  private readonly graphs: GraphCache;
  private readonly shelf: Shelf;
  hasShelf = false;
  /** Where scalars are read to, and a point in the stream after the copies. */
  private landing?: HostMemory;
  private landed?: StreamEvent;
  private readonly toHost;

  constructor(private readonly backend: CudaBackend) {
    this.graphs = new GraphCache(backend);
    this.shelf = new Shelf(backend);
    this.toHost = backend.device.driver.call('int cuMemcpyDtoHAsync_v2(uint64, uint64, size_t, uint64)');
  }

  run(computation: Computation): Tensor[] {
    this.shelf.reset();
    return this.graphs.run(computation);
  }

  measure({ inputs, compute }: Computation): MeasuredMemory {
    const { device } = this.backend;
    this.backend.products.reserveWorkspace();
    device.idle = true;
    this.shelf.reset();
    try {
      return device.memory.measure(() => {
        const own = inputs.map((input) => engine().makeTensorFromTensorInfo(this.backend.make(input.shape, input.dtype)) as Tensor);
        tidy(() => void compute(own));
        dispose(own);
      });
    } finally {
      device.idle = false;
    }
  }

  choose({ copies, offload, tune = false, plan }: MemoryChoices): void {
    this.backend.products.tune ||= tune;
    this.backend.keepDequantized = copies ? 'always' : 'never';
    this.hasShelf = offload;
    if (plan !== undefined) this.backend.device.memory.advice = plan;
  }

  settle(weights: readonly FrozenWeight[]): void {
    for (const weight of weights) {
      if (weight.kind !== 'dense' || weight.trained) continue;
      this.backend.convert(weight.value, 'bf16');
      this.backend.device.memory.trim(); // before the next one takes part of what became free
    }
  }

  memory(): { inUse: number; workspace: number; free: number } {
    const { memory } = this.backend.device;
    this.backend.products.reserveWorkspace();
    memory.trim();
    const { inUse, reserved } = memory.memory();
    return { inUse, workspace: WORKSPACE_BYTES, free: this.backend.device.memoryInfo().free + reserved - inUse };
  }

  shelve(tensors: readonly Tensor[]): Shelved {
    return this.hasShelf ? this.shelf.put(tensors) : atHand(tensors);
  }

  read(scalars: readonly Tensor[]): () => number[] {
    const { device } = this.backend;
    const bytes = 4 * scalars.length;
    if (!this.landing || this.landing.bytes.length < bytes) {
      this.landing?.dispose();
      this.landing = new HostMemory(device, Math.max(bytes, LANDING_BYTES));
    }
    const { address, bytes: { buffer } } = this.landing, event = (this.landed ??= new StreamEvent(device));
    this.backend.with('f32', scalars, (...values) => values.forEach((value, i) => this.toHost(address + 4 * i, this.backend.address(value), 4, device.stream)));
    event.record();
    return () => {
      event.wait();
      return Array.from(new Float32Array(buffer, 0, scalars.length));
    };
  }

  clear(): void {
    this.graphs.clear();
    this.shelf.dispose();
  }
}
