import { dispose, engine, keep, tidy, type Tensor } from '@tensorflow/tfjs-core';
import type { CudaBackend } from './backend.js';
import { OutValue } from './driver.js';
import type { Block } from './memory.js';

/** What changes between two runs beside the tensors: where in its stream of random numbers dropout draws. */
export interface Draw {
  /** `PhiloxKey.step` of every draw. */
  step: number;
  /** Added to nothing, but the difference to the recorded run's is added to each draw's `PhiloxKey.stream`. */
  stream: number;
}

/** Relaxed: memory may be taken and constants uploaded while the stream is recorded. */
const CAPTURE_RELAXED = 2;

/** One computation recorded as a CUDA graph, with the memory it works in. */
class Recording {
  private constructor(
    private readonly backend: CudaBackend,
    private readonly executable: number,
    private readonly inputs: Tensor[],
    private readonly outputs: Tensor[],
    private readonly cell: Block,
    private readonly stream: number,
    private readonly constants: Block[],
    private readonly releasePool: () => void,
  ) {}

  static make(backend: CudaBackend, name: string, inputs: readonly Tensor[], draw: Draw, compute: (inputs: Tensor[]) => Tensor[]): Recording {
    const { device } = backend;
    backend.products.reserveWorkspace();
    device.memory.trim(); // What the runs before left cached would be held beside the recording's own memory.
    const cell = device.memory.allocate(8, "a recording's draw");
    const { result, release } = device.memory.withPrivatePool(name, () => {
      const own = inputs.map((input) => keep(copyOf(backend, input)));
      const constants: Block[] = [];
      device.driver.call('int cuStreamBeginCapture_v2(uint64, int)')(device.stream, CAPTURE_RELAXED);
      backend.recording = { constants, drawCell: cell.address };
      const graph = new OutValue();
      const end = () => {
        backend.recording = undefined;
        device.driver.call('int cuStreamEndCapture(uint64, _Out_ void *)')(device.stream, graph.buffer);
      };
      let outputs: Tensor[];
      try {
        outputs = tidy(() => compute(own)).map((output) => keep(output));
      } catch (error) {
        try {
          end();
        } catch {
          // The recording is void anyway; what failed first is what the caller must see.
        }
        dispose(own);
        throw error;
      }
      end();
      const executable = new OutValue();
      device.driver.call('int cuGraphInstantiateWithFlags(_Out_ void *, uint64, uint64)')(executable.buffer, graph.pointer, 0);
      device.driver.call('int cuGraphDestroy(uint64)')(graph.pointer);
      return { executable: executable.pointer, own, outputs, constants };
    });
    return new Recording(backend, result.executable, result.own, result.outputs, cell, draw.stream, result.constants, release);
  }

  run(inputs: readonly Tensor[], draw: Draw): Tensor[] {
    const { device } = this.backend;
    inputs.forEach((input, i) => this.backend.overwrite(this.inputs[i], input));
    device.upload(this.cell, Uint32Array.of(draw.step, draw.stream - this.stream));
    device.launchGraph(this.executable);
    // The next run writes over the outputs, so the caller gets copies.
    return this.outputs.map((output) => copyOf(this.backend, output));
  }

  dispose(): void {
    const { device } = this.backend;
    device.synchronize();
    device.driver.call('int cuGraphExecDestroy(uint64)')(this.executable);
    dispose([this.inputs, this.outputs]);
    for (const block of this.constants) device.memory.free(block);
    device.memory.free(this.cell);
    this.releasePool();
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

  /** @param limit recordings kept; each keeps the memory of its intermediate results */
  constructor(
    private readonly backend: CudaBackend,
    private readonly limit = 4,
  ) {}

  /**
   * @param key names computations that differ in nothing but the inputs' values and the draw: the inputs' shapes are added here
   * @param parameters tensors that `compute` reads where they are, such as variables: moving one makes a new recording
   * @param compute must not read a tensor back; all data that varies comes through `inputs` and `parameters`
   */
  run(key: string, inputs: readonly Tensor[], parameters: readonly Tensor[], draw: Draw, compute: (inputs: Tensor[]) => Tensor[]): Tensor[] {
    const places = parameters.map((parameter) => this.backend.address(parameter).toString(36)).join(' ');
    const full = `${key} ${inputs.map(({ shape, dtype }) => `${dtype}[${shape.join(',')}]`).join(' ')} ${places}`;
    if (!this.seen.has(full)) {
      this.seen.add(full);
      return tidy(() => compute([...inputs]));
    }
    let recording = this.recordings.get(full);
    this.recordings.delete(full);
    if (!recording) {
      this.forgetOldest();
      recording = Recording.make(this.backend, full, inputs, draw, compute);
    }
    this.recordings.set(full, recording);
    return recording.run(inputs, draw);
  }

  /** Gives up every recording and its memory. */
  clear(): void {
    for (const recording of this.recordings.values()) recording.dispose();
    this.recordings.clear();
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
