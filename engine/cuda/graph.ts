import { dispose, engine, keep, tidy, type DataType, type Tensor } from '@tensorflow/tfjs-core';
import type { Computation, Draw } from '../tensor/replay.js';
import type { CudaBackend } from './backend.js';
import { OutValue } from './driver.js';
import type { Block } from './memory.js';
import { formatBytes, type Format } from './program.js';

/** Relaxed: memory may be taken and constants uploaded while the stream is recorded. */
const CAPTURE_RELAXED = 2;

/** Where a recording leaves a result, until the arena is used again. */
interface Result {
  address: number;
  shape: number[];
  dtype: DataType;
  format: Format;
  size: number;
}

/** One computation recorded as a CUDA graph. It works in the arena; inputs and constants lie outside, as other recordings work there too. */
class Recording {
  private constructor(
    private readonly backend: CudaBackend,
    private readonly executable: number,
    private readonly inputs: Tensor[],
    private readonly results: Result[],
    private readonly cell: Block,
    private readonly stream: number,
    private readonly constants: Block[],
  ) {}

  static make(backend: CudaBackend, { inputs, draw, compute }: Computation): Recording {
    const { device } = backend;
    const { memory } = device;
    const own = inputs.map((input) => keep(copyOf(backend, input)));
    const cell = memory.allocate(8, "a recording's draw");
    const constants: Block[] = [];
    const graph = new OutValue();
    const release = () => {
      dispose(own);
      for (const block of [cell, ...constants]) memory.free(block);
    };
    let results: Result[] = [];
    device.driver.call('int cuStreamBeginCapture_v2(uint64, int)')(device.stream, CAPTURE_RELAXED);
    backend.recording = { constants, drawCell: cell.address };
    memory.keepsSegments = true;
    const end = () => {
      backend.recording = undefined;
      memory.keepsSegments = false;
      device.driver.call('int cuStreamEndCapture(uint64, _Out_ void *)')(device.stream, graph.buffer);
    };
    try {
      memory.inArena(() => tidy(() => void (results = compute(own).map((output) => resultOf(backend, output)))));
    } catch (error) {
      try {
        end();
      } catch {
        // The recording is void anyway; what failed first is what the caller must see.
      }
      release();
      throw error;
    }
    end();
    const executable = new OutValue();
    device.driver.call('int cuGraphInstantiateWithFlags(_Out_ void *, uint64, uint64)')(executable.buffer, graph.pointer, 0);
    device.driver.call('int cuGraphDestroy(uint64)')(graph.pointer);
    return new Recording(backend, executable.pointer, own, results, cell, draw.stream, constants);
  }

  run(inputs: readonly Tensor[], draw: Draw): Tensor[] {
    const { device } = this.backend;
    inputs.forEach((input, i) => this.backend.overwrite(this.inputs[i], input));
    device.upload(this.cell, Uint32Array.of(draw.step, draw.stream - this.stream));
    device.launchGraph(this.executable);
    // Whatever uses the arena next writes over the results, so the caller gets copies.
    return this.results.map(({ address, shape, dtype, format, size }) => {
      const copy = this.backend.make(shape, dtype, format, 'a result');
      device.copy(this.backend.address(copy), address, size * formatBytes[format]);
      return engine().makeTensorFromTensorInfo(copy) as Tensor;
    });
  }

  dispose(): void {
    const { device } = this.backend;
    device.synchronize();
    device.driver.call('int cuGraphExecDestroy(uint64)')(this.executable);
    dispose(this.inputs);
    for (const block of [this.cell, ...this.constants]) device.memory.free(block);
  }
}

/**
 * Records computations and replays them: a step's thousands of launches become one. A computation is run as usual the first
 * time its key comes up (which compiles its kernels), recorded the second time, and replayed from then on.
 */
export class GraphCache {
  private readonly seen = new Set<string>();
  /** Least recently used first. */
  private readonly recordings = new Map<string, Recording>();

  /** @param limit recordings kept; each takes some megabytes of the host's memory */
  constructor(
    private readonly backend: CudaBackend,
    private readonly limit = 64,
  ) {}

  /** Moving one of the parameters makes a new recording. While launches are observed, nothing is replayed. */
  run(computation: Computation): Tensor[] {
    const { key, inputs, parameters, draw } = computation;
    this.backend.products.reserveWorkspace();
    const places = parameters.map((parameter) => this.backend.address(parameter).toString(36)).join(' ');
    const full = `${key} ${inputs.map(({ shape, dtype }) => `${dtype}[${shape.join(',')}]`).join(' ')} ${places}`;
    if (!this.seen.has(full) || this.backend.device.onLaunch) {
      const results = this.runPlain(computation);
      this.seen.add(full);
      return results;
    }
    let recording = this.recordings.get(full);
    this.recordings.delete(full);
    if (!recording) {
      this.forgetOldest();
      recording = Recording.make(this.backend, computation);
    }
    this.recordings.set(full, recording);
    return recording.run(inputs, draw);
  }

  /** Gives up every recording and the arena. */
  clear(): void {
    for (const recording of this.recordings.values()) recording.dispose();
    this.recordings.clear();
    this.seen.clear();
    this.backend.device.memory.releaseArena();
  }

  private runPlain({ inputs, compute }: Computation): Tensor[] {
    const { memory } = this.backend.device;
    return memory.inArena(() => tidy(() => {
      const results = compute([...inputs]);
      return memory.outsideArena(() => results.map((result) => copyOf(this.backend, result)));
    }));
  }

  private forgetOldest(): void {
    if (this.recordings.size < this.limit) return;
    const [key, recording] = this.recordings.entries().next().value!;
    recording.dispose();
    this.recordings.delete(key);
  }
}

function copyOf(backend: CudaBackend, tensor: Tensor): Tensor {
  return engine().makeTensorFromTensorInfo(backend.duplicate(tensor)) as Tensor;
}

const resultOf = (backend: CudaBackend, output: Tensor): Result => ({
  address: backend.address(output), shape: output.shape, dtype: output.dtype, format: backend.format(output), size: output.size,
});
